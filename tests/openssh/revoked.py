"""`ssh-keygen -Qf LIST KEY`, answered by the gateway: 1 when the key is revoked, as ssh-keygen does.

The suite asks more than a thousand times, and Python with what is needed here starts slower than it answers: so one
thread of the runner answers, and `ask` is what the suite starts.
"""

from __future__ import annotations

import base64
import contextlib
import os
import socketserver
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from gateway.auth.certificates import certifies, read_certificate
from gateway.auth.keys import Refusal
from gateway.auth.revocation import Revocations, parse

BROKEN = 255  # the exit code of ssh-keygen when it cannot tell


def answer(file: Path, key: Path) -> tuple[int, str]:
    """The exit code and what is said."""
    try:
        revocations = Revocations((parse(file.read_bytes()),))
        blob = base64.b64decode(key.read_text().split()[1])
        if certifies(blob):
            revocations.check(read_certificate(blob, lambda ca: True, "127.0.0.1", time.time()))
        else:
            revocations.check_key(blob)
    except Refusal as problem:
        return 1, f"{key}: REVOKED: {problem}"
    except Exception:
        return BROKEN, traceback.format_exc()
    return 0, f"{key}: ok"


class Question(socketserver.StreamRequestHandler):
    """Two paths, a NUL between them; the answer is a byte with the code, and text."""

    def handle(self) -> None:
        file, key = (Path(os.fsdecode(path)) for path in self.rfile.read().split(b"\0"))
        code, said = answer(file, key)
        self.wfile.write(bytes([code]) + said.encode(errors="surrogateescape"))


@contextlib.contextmanager
def answering(path: Path) -> Iterator[None]:
    """Answer at that unix socket until the context is left."""
    with socketserver.ThreadingUnixStreamServer(str(path), Question) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
