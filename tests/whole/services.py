"""What listens behind a forward: small services, each connection in a thread of its own, and a client that asks one."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading

REPLY = b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nguest\n"


class Server:
    """Answers each connection in a thread of its own, on this machine's loopback, which is the
    demo's guests' too."""

    def __init__(self, answer, path: str = "") -> None:  # type: ignore[no-untyped-def]
        if path:
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(path)
            self.listener.listen(128)
        else:
            self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
            self.port = self.listener.getsockname()[1]
        self._answer = answer
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            self._answer(connection)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def everything(connection: socket.socket) -> bytes:
    pieces = []
    while piece := connection.recv(1 << 20):
        pieces.append(piece)
    return b"".join(pieces)


def echo(connection: socket.socket) -> None:
    while data := connection.recv(1 << 20):
        connection.sendall(data)


def digest(connection: socket.socket) -> None:
    """The hash of what comes, when all of it came: the client's end must arrive for that."""
    hashed, size = hashlib.sha256(), 0
    while data := connection.recv(1 << 20):
        hashed.update(data)
        size += len(data)
    connection.sendall(f"{size} {hashed.hexdigest()}".encode())


def page(connection: socket.socket) -> None:
    connection.recv(4096)
    connection.sendall(REPLY)


def ask(port: int, data: bytes = b"") -> bytes:
    """Send, end, and take everything."""
    with socket.create_connection(("127.0.0.1", port), 20) as client:
        client.settimeout(60)
        sender = threading.Thread(target=lambda: (client.sendall(data), client.shutdown(socket.SHUT_WR)))
        sender.start()
        answer = everything(client)
        sender.join()
    return answer
