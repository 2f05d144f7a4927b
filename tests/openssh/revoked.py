"""`ssh-keygen -Qf LIST KEY`, answered by the gateway: 1 when the key is revoked, as ssh-keygen does.

python -m tests.openssh.revoked LIST KEY
"""

from __future__ import annotations

import base64
import sys
import time
from pathlib import Path

from gateway.auth.certificates import certifies, read_certificate
from gateway.auth.keys import Refusal
from gateway.auth.revocation import Revocations, parse


def main(file: Path, key: Path) -> int:
    """The exit code."""
    revocations = Revocations((parse(file.read_bytes()),))
    blob = base64.b64decode(key.read_text().split()[1])
    try:
        if certifies(blob):
            revocations.check(read_certificate(blob, lambda ca: True, "127.0.0.1", time.time()))
        else:
            revocations.check_key(blob)
    except Refusal as problem:
        print(f"{key}: REVOKED: {problem}")
        return 1
    print(f"{key}: ok")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
