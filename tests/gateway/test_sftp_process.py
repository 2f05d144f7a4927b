"""The watched process as a session has it: what passes, what waits, and how it ends."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from gateway.errors import NotSFTP
from gateway.events import FileMoved, Unwatched
from gateway.model import Ending, ExecRequest, Output, Stream
from gateway.sftp import Watched
from tests.support.memoryprocess import MemoryProcess, Script
from tests.support.rawsftp import CLOSE, FOR_READ, INIT, OPEN, REMOVE, STAT, string, u32
from tests.support.spoilt import framed
from tests.support.watchedsftp import Watch

HELLO = framed([bytes([INIT]) + u32(3)])
VERSION = framed([b"\2" + u32(3)])
BROKEN = u32(0xFFFFFFFF) + b"\1" * 20


class Rig:
    """A watched process whose program a test writes."""

    def __init__(self, script: Script, *, reader: bool = False) -> None:
        watch = Watch(reader=reader)
        self.events = watch.events
        self.guest = MemoryProcess(ExecRequest(subsystem="sftp"), script)
        self.watched = Watched(self.guest, watch.log, reader=reader)

    def send(self, *packets: bytes) -> Deferred[None]:
        return self.watched.send(framed(list(packets)))

    def next(self) -> Any:
        """What comes next, which must be there by now."""
        found: list[Any] = []
        self.watched.receive().addBoth(found.append)
        assert found, "nothing came"
        return found[0]

    def unwatched(self) -> list[str]:
        return [event.reason for event in self.events if isinstance(event, Unwatched)]


def stat(number: int) -> bytes:
    return bytes([STAT]) + u32(number) + string("f")


def missing(number: int) -> bytes:
    return framed([bytes([101]) + u32(number) + u32(2) + string("No such file") + string("")])


def refused(piece: Any) -> list[int]:
    """The requests that these refusals answer."""
    assert isinstance(piece, Output)
    assert piece.stream is Stream.STDOUT
    size = len(piece.data) // piece.data.count(b"This login may only read files")
    return [int.from_bytes(piece.data[at + 5 : at + 9], "big") for at in range(0, len(piece.data), size)]


async def greets(process: MemoryProcess) -> Ending:
    """Answers INIT, then takes everything and says nothing."""
    await process.read()
    await process.write(VERSION)
    while await process.read():
        pass
    return Ending(0)


def test_a_refusal_needs_no_word_of_the_guest() -> None:
    rig = Rig(greets, reader=True)
    rig.watched.send(HELLO)
    assert rig.next().data == VERSION
    came: list[Any] = []
    rig.watched.receive().addCallback(came.append)
    rig.send(bytes([REMOVE]) + u32(4) + string("f"), bytes([REMOVE]) + u32(5) + string("f"))
    assert refused(came[0]) == [4, 5]
    assert rig.guest.read_bytes == len(HELLO)


def test_what_the_guest_says_meanwhile_is_not_lost() -> None:
    answer: Deferred[None] = Deferred()

    async def slow(process: MemoryProcess) -> Ending:
        await process.read()
        await process.write(VERSION)
        await process.read()
        await answer
        await process.write(missing(2))
        return Ending(3)

    rig = Rig(slow, reader=True)
    rig.watched.send(HELLO)
    assert rig.next().data == VERSION
    came: list[Any] = []
    rig.watched.receive().addCallback(came.append)
    rig.send(bytes([REMOVE]) + u32(1) + string("f"), stat(2), bytes([REMOVE]) + u32(3) + string("f"))
    assert refused(came[0]) == [1]
    answer.callback(None)  # when nobody waits for it
    last = rig.next().data
    assert last.startswith(missing(2))
    assert refused(Output(Stream.STDOUT, last[len(missing(2)) :])) == [3]
    assert rig.next() == Ending(3)


def test_a_client_with_many_requests_unanswered_is_held_back_until_there_is_room() -> None:
    words: list[bytes] = []

    async def answers(process: MemoryProcess) -> Ending:
        await process.read()
        await process.write(VERSION)
        while data := await process.read():
            words.append(data)
            for number in range(len(data) // len(framed([stat(0)]))):
                await process.write(missing(number))
        return Ending(0)

    rig = Rig(answers)
    rig.watched.send(HELLO)
    rig.next()
    first = rig.send(*(stat(number) for number in range(3000)))
    second = rig.send(stat(0))
    assert first.called
    assert not second.called
    assert len(words) == 1
    for _ in range(3001):
        rig.next()
    assert second.called
    assert words[1] == framed([stat(0)])


def test_a_full_principal_s_session_goes_on_unwatched_and_says_so_once() -> None:
    async def echo(process: MemoryProcess) -> Ending:
        await process.read()
        await process.write(VERSION)
        while data := await process.read():
            await process.write(data)
        return Ending(0)

    rig = Rig(echo)
    rig.watched.send(HELLO)
    rig.next()
    rig.send(bytes([OPEN]) + u32(1) + string("f") + u32(FOR_READ) + u32(0))
    assert rig.next().data  # an echo is no answer to an OPEN
    for data in (b"anything", BROKEN):
        rig.watched.send(data)
        assert rig.next() == Output(Stream.STDOUT, data)
    assert rig.unwatched() == ["the guest's answer is of another kind than the question"]


@pytest.mark.parametrize("whose", ["client", "guest"])
def test_a_reader_s_session_ends_where_it_cannot_be_followed(whose: str) -> None:
    async def breaks(process: MemoryProcess) -> Ending:
        await process.read()
        await process.write(VERSION)
        await process.read()
        await process.write(BROKEN)
        return Ending(0)

    rig = Rig(breaks, reader=True)
    rig.watched.send(HELLO)
    rig.next()
    came: list[Any] = []
    rig.watched.receive().addBoth(came.append)  # waits before anything comes, as a session does
    if whose == "client":
        rig.watched.send(BROKEN)
    else:
        rig.send(stat(1))
    (failure,) = came
    assert failure.check(NotSFTP)
    assert "may only read files" in failure.value.sentence
    before = rig.guest.read_bytes
    rig.send(stat(2))
    assert rig.guest.read_bytes == before
    assert rig.next().check(NotSFTP)
    assert len(rig.unwatched()) == 1
    rig.watched.close()


def test_an_answer_that_is_waited_for_is_read_before_it_is_given() -> None:
    rig = Rig(greets)
    came: list[Any] = []
    rig.watched.receive().addCallback(came.append)
    rig.watched.send(HELLO)
    assert came == [Output(Stream.STDOUT, VERSION)]
    rig.watched.receive().addErrback(came.append)
    rig.watched.send(BROKEN)
    assert rig.unwatched() == ["a packet of 4294967295 bytes"]


def test_stderr_and_the_ending_pass_as_they_are() -> None:
    async def complains(process: MemoryProcess) -> Ending:
        await process.write(b"sftp: trouble\n", Stream.STDERR)
        return Ending(1)

    rig = Rig(complains, reader=True)
    assert rig.next() == Output(Stream.STDERR, b"sftp: trouble\n")
    assert rig.next() == Ending(1)


def test_a_session_that_is_closed_in_the_middle_tells_of_its_open_files() -> None:
    async def opens(process: MemoryProcess) -> Ending:
        await process.read()
        await process.write(VERSION)
        await process.read()
        await process.write(framed([bytes([102]) + u32(1) + string("h")]))
        await process.read()
        return Ending(0)

    rig = Rig(opens)
    rig.watched.send(HELLO)
    rig.next()
    rig.send(bytes([OPEN]) + u32(1) + string("f") + u32(FOR_READ) + u32(0))
    rig.next()
    rig.send(bytes([CLOSE]) + u32(2) + string("h"))  # which is never answered
    rig.watched.close()
    rig.watched.close()
    (moved,) = [event for event in rig.events if isinstance(event, FileMoved)]
    assert (moved.path, moved.outcome.value) == ("f", "lost")
    assert rig.guest.closed
