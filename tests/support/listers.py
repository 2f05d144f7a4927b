"""Services that list instances over HTTP, each badly in its way, in threads of this process."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Callable
from itertools import count
from typing import Any, Self

MANY = 10_000


class Lister(socketserver.ThreadingTCPServer):
    """Takes a request and answers it as `answer` says, or never if that is None."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, answer: Callable[[int], bytes] | None) -> None:
        numbers = count()
        self.requests = 0
        self._over = threading.Event()
        lister = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                while b"\r\n\r\n" not in self.request.recv(65536):
                    pass
                lister.requests += 1
                if answer is None:
                    lister._over.wait()
                else:
                    self.request.sendall(answer(next(numbers)))

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/instances"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        self.shutdown()
        self.server_close()


def hangs() -> Lister:
    """Never answers."""
    return Lister(None)


def babbles() -> Lister:
    """Answers with what is no HTTP, no JSON, or no list."""
    answers = (bytes(range(256)) * 64, body(b"{" * 10_000), body(b"[1, null, {}, []]"), body(bytes(range(256))))
    return Lister(lambda number: answers[number % len(answers)])


def lists(entries: int = MANY) -> Lister:
    """Lists so many, one of them another each time."""

    def answer(number: int) -> bytes:
        listed = [{"id": f"m{n}", "name": f"machine-{n}", "vsock_cid": 10_000 + n} for n in range(entries)]
        listed[0]["name"] = f"turn-{number}"
        return body(json.dumps(listed).encode())

    return Lister(answer)


def body(text: bytes) -> bytes:
    """An answer of HTTP with this body."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(text), text)
