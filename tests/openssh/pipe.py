"""`sshd -i`: stdin and stdout are the client, a unix socket the server. Standard library only."""

from __future__ import annotations

import os
import socket
import threading

SIZE = 256 << 10  # bytes at once
BEGINNING = 4 << 10  # bytes of the server's that are looked at
FATAL = 255


def relay(path: str) -> int:
    """Until the server ends it. sshd's exit code: 255 when it never came to a key exchange."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        # As sshd, which says who it is before it looks at its input, that may have ended by then.
        beginning = first = server.recv(SIZE)
        write(1, first)
        threading.Thread(target=upward, args=(server,), daemon=True).start()
        try:
            while data := server.recv(SIZE):
                if len(beginning) < BEGINNING:
                    beginning += data
                write(1, data)
        except (ConnectionResetError, BrokenPipeError):
            pass
        # The length of a packet begins with a zero byte, as no line of text does.
        return 0 if b"\0" in beginning else FATAL


def upward(server: socket.socket) -> None:
    """stdin to the server, with its end."""
    try:
        while data := os.read(0, SIZE):
            server.sendall(data)
        server.shutdown(socket.SHUT_WR)
    except OSError:
        return


def write(fd: int, data: bytes) -> None:
    """All of it."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
