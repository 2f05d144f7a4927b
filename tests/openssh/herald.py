"""Writes a gateway's pid file anew with each of its reloads, as sshd does, which starts itself anew then.

    python -m tests.openssh.herald READY_FILE PID_FILE PID

Standard library only.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path


def main(ready: Path, pid_file: Path, pid: int) -> None:
    """Until that process is over."""
    told = ready.stat().st_mtime_ns
    with suppress(OSError):
        while True:
            os.kill(pid, 0)
            now = ready.stat().st_mtime_ns
            if now != told:
                pid_file.write_text(f"{pid}\n")
            told = now
            time.sleep(0.1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
