"""A channel belongs to one guest: another that comes to the same socket is never spoken to in its name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.interfaces import IReactorTime

from gateway.doors import Guest
from gateway.errors import GuestLost
from gateway.guest.crossing import threaded
from gateway.guest.pool import Pool
from gateway.model import ExecRequest, Instance, MuxerAddress
from tests.guest.conftest import Told
from tests.guest.sessions import run
from tests.support.vm import BOOT, VM


@pytest.fixture
def path(short: Path) -> Path:
    """Where an instance's socket is looked for; not there yet."""
    return short / "v.sock"


@pytest.fixture(autouse=True)
def _up(vm: VM, own: VM) -> Iterator[None]:
    own.boot()
    own.until_up()
    yield
    own.boot()


def place(vm: VM, path: Path) -> None:
    """This guest's hypervisor has its socket there, from now on."""
    other = path.with_suffix(".new")
    os.link(vm.socket, other)
    other.rename(path)


def instance(path: Path) -> Instance:
    return Instance("i-alpha", "alpha", MuxerAddress(str(path)))


async def boot_id(guest: Guest) -> bytes:
    """Also of one that is late with its first word, on a busy machine."""
    await guest.stat("/", wait=BOOT)
    out, _, _ = await run(guest, "cat", "/proc/sys/kernel/random/boot_id")
    return out


@pytest_twisted.ensureDeferred
async def test_another_socket_at_the_path_ends_what_was_under_way_and_begins_anew(
    pool: Pool, told: Told, path: Path, vm: VM, own: VM
) -> None:
    place(own, path)
    marker = f"/tmp/{path.parent.name}"
    request = ExecRequest(line=f"touch {marker}; exec cat".encode())
    process = await pool.guest(instance(path)).start(request, wait=60)
    first = await boot_id(pool.guest(instance(path)))
    place(vm, path)
    # The old guest runs and its connection stands; yet nobody is led there any more.
    assert await boot_id(pool.guest(instance(path))) != first
    with pytest.raises(GuestLost):
        await process.receive()
    out, _, _ = await run(pool.guest(instance(path)), line=f"ls {marker}".encode())
    assert out == b"", "what was begun in the one was done again in the other"
    assert told.dials.count("ok") == 2


@pytest_twisted.ensureDeferred
async def test_a_frozen_guest_that_is_replaced_holds_nobody_up(pool: Pool, path: Path, vm: VM, own: VM) -> None:
    place(own, path)
    first = await boot_id(pool.guest(instance(path)))
    own.freeze()
    try:
        place(vm, path)
        assert await boot_id(pool.guest(instance(path))) != first
    finally:
        own.thaw()


@pytest_twisted.ensureDeferred
async def test_a_session_does_not_go_on_in_another_guest(
    pool: Pool, path: Path, vm: VM, own: VM, reactor: IReactorTime
) -> None:
    place(own, path)
    session = pool.guest(instance(path))
    await boot_id(session)
    place(vm, path)
    with pytest.raises(GuestLost, match="another guest"):
        await session.stat("/", wait=60)
    await pool.guest(instance(path)).stat("/", wait=60)


@pytest_twisted.ensureDeferred
async def test_a_reboot_behind_the_same_socket_is_another_guest_too(pool: Pool, own: VM) -> None:
    address = Instance("i-own", "own", MuxerAddress(str(own.socket)))
    session = pool.guest(address)
    before = await boot_id(session)
    process = await session.start(ExecRequest(line=b"cat"))
    await threaded(own.kill)
    with pytest.raises(GuestLost):
        await process.receive()
    own.boot()
    with pytest.raises(GuestLost, match="another guest"):
        await session.stat("/", wait=120)
    assert await boot_id(pool.guest(address)) != before
