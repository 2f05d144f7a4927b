"""The real device: every byte both ways, whichever way a hypervisor treats an end of data; and AF_VSOCK by CID."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import sys
import threading
from collections.abc import Iterator

import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred, gatherResults

from gateway.doors import Guest
from gateway.guest.pool import Pool
from gateway.model import Ending, Instance, MuxerAddress
from gateway.vm.device import FULL, HALF
from gateway.vm.packages import Kernel
from tests.guest.sessions import run
from tests.support.counts import count
from tests.support.vm import BOOT, ROOT, VM

SIZE = count(64, 4) << 20
AT_ONCE = 4


@pytest.fixture(scope="module", params=[FULL, HALF])
def machine(request: pytest.FixtureRequest, vm: VM, kernel: Kernel) -> Iterator[VM]:
    """One whose device ends both ways at once, as Firecracker's, and one that has half-closes."""
    if request.param == FULL:
        yield vm
        return
    with VM(kernel, "half", eof=HALF, cid=46) as half:
        half.until_up()
        yield half


@pytest.fixture
def guest(machine: VM, pool: Pool) -> Guest:
    """Reached already: a guest on a busy machine may be late with its first word."""
    guest = pool.guest(Instance("i-m", "m", MuxerAddress(str(machine.socket))))
    pytest_twisted.blockon(guest.stat("/", wait=BOOT))
    return guest


@pytest.mark.timeout(600)
@pytest_twisted.ensureDeferred
async def test_megabytes_go_in_and_are_counted_at_their_end(guest: Guest) -> None:
    assert await run(guest, line=b"cat | wc -c", stdin=bytes(SIZE)) == (b"%d\n" % SIZE, b"", Ending(0))


@pytest.mark.timeout(600)
@pytest_twisted.ensureDeferred
async def test_nothing_comes_out_before_the_end_and_then_everything(guest: Guest) -> None:
    lines = [b"%015x\n" % number for number in range(SIZE // 16)]
    mixed = lines[1::2] + lines[::2]
    out, err, ending = await run(guest, line=b"LC_ALL=C sort", stdin=b"".join(mixed))
    assert (err, ending.code) == (b"", 0)
    assert out == b"".join(lines)


@pytest_twisted.ensureDeferred
async def test_no_input_at_all_ends_a_command(guest: Guest) -> None:
    assert await run(guest, line=b"cat; echo done") == (b"done\n", b"", Ending(0))


@pytest.mark.timeout(1800)
@pytest_twisted.ensureDeferred
async def test_the_tail_of_output_is_never_lost(guest: Guest, machine: VM) -> None:
    times = count(1000, 12)
    expected = b" " * 65535 + b"x" + b"tail\n"
    for _ in range(times // AT_ONCE):
        ended = [run(guest, line=b"printf %65536s x; echo tail; exit 3") for _ in range(AT_ONCE)]
        for result in await gatherResults([ensureDeferred(one) for one in ended]):
            assert result == (expected, b"", Ending(3))
    print(f"{times} of {times} tails arrived whole")


def test_connections_come_and_go_without_a_trace(machine: VM) -> None:
    times = count(1000, 20)
    for _ in range(times):
        with machine.dial() as stream:
            assert stream.recv(9)[3:4] == b"\x04"  # HTTP/2's SETTINGS, RFC 9113 section 6.5
    assert machine.run("echo still here") == b"still here\n"


def test_many_at_once_each_have_their_own_stream(machine: VM) -> None:
    streams = [machine.dial() for _ in range(50)]
    try:
        for stream in streams:
            stream.settimeout(20)
            assert stream.recv(9)[3:4] == b"\x04"
    finally:
        for stream in streams:
            stream.close()


def test_a_client_that_reads_nothing_holds_only_its_own_stream_up(machine: VM) -> None:
    with machine.connect() as client:
        stuck = client.exec("cat", "/dev/zero")
        stuck.started()
        assert machine.run("echo free") == b"free\n"
        stuck.cancel()


@pytest.mark.parametrize(
    "line", [b"GET / HTTP/1.1\r\n\r\n", b"CONNECT\n", b"CONNECT -1\n", b"CONNECT 4294967296\n", b"x" * 100]
)
def test_a_line_that_is_no_connect_is_closed_without_a_byte(vm: VM, line: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(20)
        stream.connect(str(vm.socket))
        stream.sendall(line)
        with contextlib.suppress(ConnectionResetError):  # for what it did not read of ours
            assert stream.recv(10) == b""
    assert vm.answers()


def test_a_line_may_come_byte_by_byte_and_with_what_follows_it(vm: VM) -> None:
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(20)
        stream.connect(str(vm.socket))
        for byte in b"connect 2222":
            stream.sendall(bytes([byte]))
        stream.sendall(b"\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        assert stream.recv(3) == b"OK "


def test_a_program_of_the_guest_reaches_one_of_the_host(vm: VM) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{vm.socket}_7777")
        listener.listen()
        listener.settimeout(20)
        heard: list[bytes] = []

        def serve() -> None:
            stream, _ = listener.accept()
            with stream:
                heard.append(stream.recv(100))
                stream.sendall(b"host\n")

        thread = threading.Thread(target=serve)
        thread.start()
        code = (
            "import socket; s = socket.socket(socket.AF_VSOCK); s.connect((2, 7777)); "
            "s.sendall(b'guest'); print(s.recv(9))"
        )
        assert vm.run(f"{sys.executable} -c {shlex.quote(code)}") == b"b'host\\n'\n"
        thread.join(20)
        assert heard == [b"guest"]
    os.unlink(f"{vm.socket}_7777")


def test_by_cid_the_gateway_dials_what_the_agent_listens_at(vm: VM) -> None:
    told = vm.run(f"cd {ROOT} && exec {sys.executable} -m tests.vm.loopback 2>/dev/null").decode().splitlines()
    assert len(told) == 5, told
    print("\n".join(told))
