"""What it costs to bridge the agent's vsock connection to gRPC's private socket, by ways of doing it.

    python bench/bridge.py [--mib 512] [--rounds 3] [--calls 2000]

Unix socket pairs stand in for vsock; with --vsock PORT, AF_VSOCK's loopback (CID 1) is taken, which few
machines have: a guest with the module vsock_loopback does. One way at a time, each in a process of its own:
the processor seconds that bridging a GiB costs, MB/s, and how long a message of 100 bytes takes there and back.
Prints a table for docs/agent.md and asserts nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import select
import signal
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agent.vsock import BUFFER

PIECE = 256 << 10
SMALL = 100


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--mib", type=int, default=512, help="how much each way (default: 512)")
    parser.add_argument("--rounds", type=int, default=3, help="how often; the median counts (default: 3)")
    parser.add_argument("--calls", type=int, default=2000, help="small messages (default: 2000)")
    parser.add_argument("--vsock", type=int, metavar="PORT", help="by AF_VSOCK loopback instead of unix sockets")
    parser.add_argument("--only", default="", metavar="WORDS", help="the ways whose names hold these words")
    options = parser.parse_args()
    print("| way | CPU s/GiB | MB/s | round trip, µs |\n|---|---|---|---|")
    for name, way in WAYS.items():
        if options.only not in name:
            continue
        found = [measure(way, options.mib, options.calls, options.vsock) for _ in range(options.rounds)]
        cpu, speed, trip = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"| {name} | {cpu:.2f} | {speed:.0f} | {trip * 1e6:.0f} |", flush=True)


def measure(
    way: Callable[[socket.socket, socket.socket], None], mib: int, calls: int, port: int | None
) -> tuple[float, float, float]:
    """Processor seconds a GiB, MB/s, seconds for a round trip."""
    outside, peer = pair(port)
    inner, inside = socket.socketpair()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        outside.close()
        inside.close()
        way(peer, inner)
        os._exit(0)
    peer.close()
    inner.close()
    os.close(read)
    os.close(write)
    trip = round_trip(outside, inside, calls)
    before = cpu_of(pid)
    since = time.monotonic()
    sender = threading.Thread(target=send, args=(outside, mib), daemon=True)
    sender.start()
    receive(inside, mib)
    took = time.monotonic() - since
    sender.join()
    cpu = cpu_of(pid) - before
    outside.close()
    inside.close()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return cpu * 1024 / mib, mib * 1.048576 / took, trip


def pair(port: int | None) -> tuple[socket.socket, socket.socket]:
    """Two connected stream sockets."""
    if port is None:
        return socket.socketpair()
    with socket.socket(socket.AF_VSOCK) as listener, socket.socket(socket.AF_VSOCK) as dialling:
        listener.bind((socket.VMADDR_CID_ANY, port))
        listener.listen()
        dialling.connect((1, port))  # VMADDR_CID_LOCAL
        return dialling.dup(), listener.accept()[0]


def cpu_of(pid: int) -> float:
    """Seconds of a processor, so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def round_trip(outside: socket.socket, inside: socket.socket, calls: int) -> float:
    """Seconds for a message there and its answer back, on average."""
    since = time.monotonic()
    for _ in range(calls):
        outside.sendall(bytes(SMALL))
        inside.sendall(inside.recv(SMALL))
        outside.recv(SMALL)
    return (time.monotonic() - since) / calls


def send(sock: socket.socket, mib: int) -> None:
    """So many MiB."""
    block = bytes(PIECE)
    for _ in range(mib * (1 << 20) // PIECE):
        sock.sendall(block)


def receive(sock: socket.socket, mib: int) -> None:
    """So many MiB."""
    left, buffer = mib << 20, bytearray(PIECE)
    while left:
        left -= sock.recv_into(buffer)


# The ways.


def threads(move: Callable[[socket.socket, socket.socket], None]) -> Callable[[socket.socket, socket.socket], None]:
    """A pair of threads, each of which moves one direction."""

    def way(peer: socket.socket, inner: socket.socket) -> None:
        back = threading.Thread(target=move, args=(inner, peer), daemon=True)
        back.start()
        move(peer, inner)
        back.join()

    return way


def copying(size: int) -> Callable[[socket.socket, socket.socket], None]:
    """Through a buffer of so many bytes."""

    def move(source: socket.socket, target: socket.socket) -> None:
        buffer = bytearray(size)
        view = memoryview(buffer)
        while count := source.recv_into(buffer):
            target.sendall(view[:count])

    return move


def splicing(source: socket.socket, target: socket.socket) -> None:
    """Through a pipe, without a copy to user space: splice(2), Python 3.10."""
    read, write = os.pipe()
    while count := os.splice(source.fileno(), write, PIECE):
        while count:
            count -= os.splice(read, target.fileno(), count)


def one_loop(peer: socket.socket, inner: socket.socket) -> None:
    """One thread that waits for both with epoll."""
    poll = select.epoll()
    other = {peer.fileno(): inner, inner.fileno(): peer}
    sockets = {peer.fileno(): peer, inner.fileno(): inner}
    for fd in other:
        poll.register(fd, select.EPOLLIN)
    buffer = bytearray(BUFFER)
    view = memoryview(buffer)
    while True:
        for fd, _ in poll.poll():
            count = sockets[fd].recv_into(buffer)
            if not count:
                return
            other[fd].sendall(view[:count])


def tasks(peer: socket.socket, inner: socket.socket) -> None:
    """Two tasks of asyncio, as they would be in the agent's own loop."""

    async def move(source: socket.socket, target: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        buffer = bytearray(BUFFER)
        view = memoryview(buffer)
        while count := await loop.sock_recv_into(source, buffer):
            await loop.sock_sendall(target, view[:count])

    async def both() -> None:
        peer.setblocking(False)
        inner.setblocking(False)
        await asyncio.gather(move(peer, inner), move(inner, peer))

    asyncio.run(both())


WAYS: dict[str, Callable[[socket.socket, socket.socket], None]] = {
    "two threads, recv and send, 64 KiB": threads(copying(64 << 10)),
    "two threads, recv and send, 256 KiB": threads(copying(256 << 10)),
    "two threads, recv and send, 1 MiB": threads(copying(1 << 20)),
    "two threads, splice": threads(splicing),
    "one thread, epoll": one_loop,
    "asyncio, two tasks": tasks,
}

if __name__ == "__main__":
    main()
