"""The dial: what a muxer can do, and the sentence for each."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import AgentVSockDialError, GuestBooting
from gateway.guest import vsock
from gateway.guest.channel import open_channel
from gateway.guest.crossing import deferred
from gateway.guest.pool import Pool
from gateway.guest.vsock import CidDialer, MuxerDialer, UnixDialer
from gateway.model import CidAddress, MuxerAddress, UnixAddress
from tests.support.agent import RealAgent
from tests.support.muxer import LINE, Muxer
from tests.support.processes import until


@pytest.mark.parametrize("mode", ["normal", "bytewise", "glued"])
@pytest_twisted.ensureDeferred
async def test_an_ok_in_any_portions_opens_the_channel(muxer: Muxer, pool: Pool, mode: str) -> None:
    muxer.mode = mode
    channel = await deferred(open_channel(MuxerDialer(str(muxer.path)), pool.house))
    assert channel.agent.revision == 1
    await channel.close()
    assert [crossing.line for crossing in muxer.crossings] == [LINE]


@pytest.mark.parametrize(
    ("mode", "sentence", "cause"),
    [
        ("silent", "did not answer CONNECT within 0.2 s", TimeoutError),
        ("garbage", "something other than OK", ValueError),
        ("endless", "a line without end", ValueError),
        ("half", "closed in the middle of its answer", EOFError),
        ("closes", "still booting", ConnectionError),
    ],
)
@pytest_twisted.ensureDeferred
async def test_each_failure_has_its_sentence_and_its_cause(
    muxer: Muxer, mode: str, sentence: str, cause: type[Exception]
) -> None:
    muxer.mode = mode
    patience = 0.2 if mode == "silent" else 60
    with pytest.raises(AgentVSockDialError, match=sentence) as caught:
        await deferred(MuxerDialer(str(muxer.path), line_seconds=patience).dial())
    assert isinstance(caught.value.__cause__, cause)
    assert isinstance(caught.value, GuestBooting) == (mode == "closes")
    muxer.until_all_ended()


@pytest_twisted.ensureDeferred
async def test_a_socket_that_is_not_there_or_that_nobody_serves_is_told(short: Path) -> None:
    for dialer in (MuxerDialer(str(short / "no")), UnixDialer(str(short / "no"))):
        with pytest.raises(AgentVSockDialError, match="does not exist") as caught:
            await deferred(dialer.dial())
        assert isinstance(caught.value.__cause__, FileNotFoundError)
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(short / "left"))
    with pytest.raises(AgentVSockDialError, match="nobody listens") as caught:
        await deferred(MuxerDialer(str(short / "left")).dial())
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


@pytest.mark.parametrize("path", ["/" + "x" * 200, "/\ud800"])
@pytest_twisted.ensureDeferred
async def test_a_path_that_is_none_is_told(path: str) -> None:
    with pytest.raises(AgentVSockDialError, match="cannot be opened"):
        await deferred(UnixDialer(path).dial())


@pytest.fixture
def full(short: Path) -> Iterator[Path]:
    """A listener whose backlog is full and that accepts nobody."""
    path = short / "full"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(path))
        listener.listen(0)
        first.connect(str(path))
        yield path


@pytest_twisted.ensureDeferred
async def test_a_full_backlog_is_no_connection(full: Path) -> None:
    with pytest.raises(AgentVSockDialError, match="does not take the connection") as caught:
        await deferred(MuxerDialer(str(full), connect_seconds=0.1).dial())
    assert isinstance(caught.value.__cause__, TimeoutError)


@pytest_twisted.ensureDeferred
async def test_the_whole_line_is_written_before_a_cancelled_dial_closes(muxer: Muxer) -> None:
    muxer.mode = "silent"
    for turns in range(6):

        async def cancelled(turns: int = turns) -> None:
            dial = asyncio.create_task(MuxerDialer(str(muxer.path)).dial())
            for _ in range(turns):
                await asyncio.sleep(0)
            dial.cancel()
            await asyncio.wait({dial})

        await deferred(cancelled())
    until(lambda: muxer.dials >= 5, what="the dials arrived")
    muxer.until_all_ended()
    assert {crossing.line for crossing in muxer.crossings} == {LINE}


@pytest_twisted.ensureDeferred
async def test_an_agents_own_socket_is_plain(agent: RealAgent, pool: Pool) -> None:
    channel = await deferred(open_channel(UnixDialer(str(agent.path)), pool.house))
    assert "sftp" in channel.agent.abilities
    await channel.close()


@pytest.mark.parametrize("cid", [-1, 0, 1, 2, 2**32 - 1, 2**40])
@pytest_twisted.ensureDeferred
async def test_a_cid_that_is_no_guests_is_never_dialled(cid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", None)  # it would raise TypeError
    with pytest.raises(AgentVSockDialError, match="CID is not that of a guest"):
        await deferred(CidDialer(cid).dial())


def test_the_limits_are_those_of_the_contract() -> None:
    assert (vsock.PORT, vsock.CONNECT_SECONDS, vsock.LINE_SECONDS) == (2222, 5, 5)
    assert MuxerDialer("/v").line_seconds == MuxerDialer("/v").connect_seconds == CidDialer(3).connect_seconds == 5


def test_every_address_has_its_dialer() -> None:
    assert vsock.dialer(MuxerAddress("/v")) == MuxerDialer("/v")
    assert vsock.dialer(CidAddress(7)) == CidDialer(7)
    assert vsock.dialer(UnixAddress("/u")) == UnixDialer("/u")
    keys = {d.key for d in (MuxerDialer("/v"), UnixDialer("/v"), CidDialer(7), CidDialer(8))}
    assert len(keys) == 4


@given(st.integers(0, 2**32 - 1))
def test_every_port_number_is_accepted(number: int) -> None:
    assert vsock.accepts(b"OK %d\n" % number)


@given(st.one_of(st.binary(max_size=70), st.from_regex(rb"(OK|ok|OK ) ?[0-9 +-]*\r?\n?", fullmatch=True)))
def test_anything_else_is_not(line: bytes) -> None:
    good = re.fullmatch(rb"OK [0-9]{1,10}\n", line) is not None and int(line[3:]) < 2**32
    assert vsock.accepts(line) == good
