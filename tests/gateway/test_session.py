"""The relay: every way a session goes, and that it ends once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from gateway.doors import Process
from gateway.entries import Entry, EntryEnd, UploadStart
from gateway.errors import AgentVSockDialError, Draining, GateError, TooMany
from gateway.eventlog import EventLog
from gateway.events import Event, Events, FileMoved, MoreMoved, Refused, SessionEnded, SessionStarted
from gateway.gate import Gate, Visitor
from gateway.measures import Moved, Reached
from gateway.model import Ending, ExecRequest, Operation, Outcome, Output, Principal, Stream, Via, Window
from gateway.room import Room
from gateway.session import JOINED, TIMEOUT_GRACE, ExecSession, Intake
from tests.support.memory import MemoryWorld

ANNA = Visitor(Principal("anna", "publickey", frozenset({"alpha"})), Via.SSH, "192.0.2.1")


class Front:
    """A client that notes what it is told; it takes output only while `open`."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.credit = 0
        self.open = True
        self._full: Deferred[None] | None = None

    def started(self, process: Process) -> None:
        self.told.append("started")

    def write(self, output: Output) -> None:
        self.told.append((output.stream, output.data))

    def drained(self) -> Deferred[None]:
        if self.open:
            return succeed(None)
        self._full = Deferred()
        return self._full

    def take(self) -> None:
        full, self._full = self._full, None
        if full is not None:
            full.callback(None)

    def consumed(self, size: int) -> None:
        self.credit += size

    def exited(self, ending: Ending) -> None:
        self.told.append(ending)

    def failed(self, error: GateError) -> None:
        self.told.append(error)


class House:
    """A gate, its world and what its events were."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.events: list[Event] = []
        self.world = MemoryWorld()
        self.alpha = self.world.add("alpha")
        events = Events([self.events.append])
        self.gate = Gate(self.world, self.world, events, self.clock, room=Room(events, 2))
        self.front = Front()

    def exec(self, line: str, **options: Any) -> ExecSession:
        instance = self.gate.enter(ANNA, "alpha", Operation.EXEC)
        session = self.gate.exec(ANNA, instance, ExecRequest(line=line.encode(), **options), self.front)
        self.clock.advance(0)
        return session

    @property
    def ended(self) -> SessionEnded:
        (end,) = [event for event in self.events if isinstance(event, SessionEnded)]
        return end


@pytest.fixture
def house() -> House:
    return House()


def test_output_then_the_ending_and_nothing_after_it(house: House) -> None:
    house.exec("echo out; echo err >&2; exit 7")
    assert house.front.told == ["started", (Stream.STDOUT, b"out\n"), (Stream.STDERR, b"err\n"), Ending(7)]
    assert (house.ended.outcome, house.ended.exit_code, house.ended.bytes_out) == (Outcome.COMPLETED, 7, 8)
    assert [type(event) for event in house.events] == [SessionStarted, Reached, Moved, SessionEnded]
    assert house.gate.live == 0


def test_input_goes_on_and_is_credited(house: House) -> None:
    session = house.exec("cat")
    session.feed(b"abc")
    session.feed(b"de")
    session.end_of_input()
    assert house.front.credit == 5
    assert house.front.told[1:] == [(Stream.STDOUT, b"abc"), (Stream.STDOUT, b"de"), Ending(0)]
    assert house.ended.bytes_in == 5


def test_a_full_client_holds_the_guest_back(house: House) -> None:
    house.front.open = False
    house.exec("yes")
    (process,) = house.alpha.processes
    taken = process.taken_bytes
    assert taken == 65536
    house.front.take()
    assert process.taken_bytes == 2 * taken


def test_input_that_is_not_read_gives_no_credit_and_has_a_bound(house: House) -> None:
    session = house.exec("sleep")
    for _ in range(9):
        session.feed(bytes(1 << 20))
    assert house.front.credit == 0
    session.feed(bytes(1 << 20))
    assert house.front.told[-1].code == "overrun"
    assert house.ended.outcome is Outcome.OVERRUN
    assert house.alpha.processes[0].closed


def test_signals_and_sizes_pass_while_input_is_stuck(house: House) -> None:
    session = house.exec("sleep")
    session.feed(b"never read")
    session.resize(Window(50, 100))
    assert house.alpha.processes[0].windows == [Window(50, 100)]
    session.signal("TERM")
    assert house.front.told[-1] == Ending(143, signal="TERM")


def test_what_comes_before_the_start_is_kept(house: House) -> None:
    start: Deferred[Process] = Deferred()
    original = house.alpha.start
    house.alpha.start = lambda request, **more: start  # type: ignore[method-assign, assignment, return-value]
    session = house.exec("sleep")
    session.resize(Window(9, 9))
    session.feed(b"x")
    original(ExecRequest(line=b"sleep")).addCallback(start.callback)
    assert house.alpha.processes[0].windows == [Window(9, 9)]


def test_a_client_that_goes_hangs_the_process_up_and_is_told_nothing(house: House) -> None:
    house.exec("sleep").hang_up()
    assert house.front.told == ["started"]
    assert house.alpha.processes[0].closed
    assert (house.ended.outcome, house.gate.live) == (Outcome.LOST, 0)


def test_a_client_that_goes_before_the_start_gives_the_start_up(house: House) -> None:
    house.alpha.silent = True
    house.exec("sleep").hang_up()
    assert house.front.told == []
    assert house.ended.outcome is Outcome.LOST


def test_a_guest_that_cannot_be_reached_is_told_in_a_sentence(house: House) -> None:
    house.alpha.failure = AgentVSockDialError(reason="no such socket")
    house.exec("true")
    (error,) = house.front.told
    assert str(error) == "The guest's agent cannot be reached: no such socket."
    assert house.ended.outcome is Outcome.UNREACHABLE


def test_a_guest_that_goes_is_told_once(house: House) -> None:
    house.exec("sleep")
    house.alpha.processes[0].lose()
    assert [type(told).__name__ for told in house.front.told] == ["str", "GuestLost"]
    assert house.ended.outcome is Outcome.LOST


def test_a_guest_that_forgets_the_timeout_is_ended_by_the_gateway(house: House) -> None:
    house.exec("sleep", timeout=3)
    house.clock.advance(3 + TIMEOUT_GRACE)
    assert house.front.told[-1].code == "timed_out"
    assert house.ended.outcome is Outcome.TIMED_OUT


def test_a_finished_session_leaves_no_timer(house: House) -> None:
    house.exec("exit 0", timeout=3)
    assert house.clock.getDelayedCalls() == []


def test_draining_ends_every_session_with_a_word_and_lets_none_in(house: House) -> None:
    house.exec("sleep")
    done: list[object] = []
    house.gate.close().addCallback(done.append)
    assert done
    assert isinstance(house.front.told[-1], Draining)
    with pytest.raises(Draining):
        house.exec("sleep")


def test_no_more_sessions_than_the_limit(house: House) -> None:
    house.exec("sleep")
    house.exec("sleep")
    house.exec("sleep")
    assert isinstance(house.front.told[-1], TooMany)
    assert isinstance(house.events[-1], Refused)


def test_a_front_that_fails_harms_nobody_else(house: House) -> None:
    def broken(output: Output) -> None:
        raise RuntimeError("bug")

    house.front.write = broken  # type: ignore[method-assign]
    house.exec("echo x")
    assert house.front.told[-1].code == "internal_error"
    assert house.gate.live == 0


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("call", ["started", "write", "drained", "consumed"])
def test_a_session_ended_from_within_a_call_of_its_own_ends_once(house: House, call: str, late: bool) -> None:
    holder: list[ExecSession] = []
    original = getattr(house.front, call)

    def end(*arguments: Any) -> Any:
        holder[0].hang_up()
        return original(*arguments)

    setattr(house.front, call, end)
    instance = house.gate.enter(ANNA, "alpha", Operation.EXEC)
    holder.append(house.gate.exec(ANNA, instance, ExecRequest(line=b"cat"), house.front))
    if late:
        house.clock.advance(0)
    holder[0].feed(b"x")
    house.clock.advance(0)
    assert house.ended.outcome is Outcome.LOST
    assert house.alpha.processes[0].closed
    assert not any(isinstance(told, Ending | GateError) for told in house.front.told)


@pytest.mark.parametrize("before", [True, False])
def test_an_intake_gives_what_it_was_fed_in_order(before: bool) -> None:
    intake: Intake[bytes] = Intake(len)
    got: list[tuple[bytes, int] | None] = []

    def feed() -> None:
        intake.feed(b"a")
        intake.feed(b"")
        intake.feed(b"b")
        intake.finish()
        intake.feed(b"too late")

    steps: list[Callable[[], object]] = [feed, *([lambda: intake.take().addCallback(got.append)] * 3)]
    for step in steps if before else steps[1:2] + steps[:1] + steps[2:]:
        step()
    # What waits goes as one; what somebody waits for goes at once.
    assert got == ([(b"ab", 2), None, None] if before else [(b"a", 1), (b"b", 1), None])


def test_an_intake_joins_bytes_up_to_a_bound_and_nothing_else() -> None:
    intake: Intake[bytes | int] = Intake(lambda piece: len(piece) if isinstance(piece, bytes) else 1)
    for piece in (b"ab", 1, b"c", b"d", 2, 3, bytes(JOINED - 1), b"e", b"f"):
        intake.feed(piece)
    got: list[tuple[bytes | int, int] | None] = []
    for _ in range(7):
        intake.take().addCallback(got.append)
    assert got == [(b"ab", 2), (1, 1), (b"cd", 2), (2, 1), (3, 1), (bytes(JOINED - 1) + b"e", JOINED), (b"f", 1)]


def test_a_stat_is_a_session_in_the_audit_too(house: House) -> None:
    instance = house.gate.enter(ANNA, "alpha", Operation.STAT)
    Deferred.fromCoroutine(house.gate.stat(ANNA, instance, "/x", follow_links=False))
    assert house.ended.operation is Operation.STAT
    house.alpha.stat = lambda path, **more: fail(AgentVSockDialError(reason="x"))  # type: ignore[method-assign]
    house.events.clear()
    caught: list[Any] = []
    Deferred.fromCoroutine(house.gate.stat(ANNA, instance, "/x", follow_links=False)).addErrback(caught.append)
    assert caught[0].check(AgentVSockDialError)
    assert house.ended.outcome is Outcome.UNREACHABLE


def test_every_file_of_a_copy_is_in_the_audit_once(house: House) -> None:
    front = CopyFront()
    instance = house.gate.enter(ANNA, "alpha", Operation.UPLOAD)
    house.alpha.problems["/x/bad"] = "permission denied"
    session = house.gate.upload(ANNA, instance, UploadStart(path="/x"), front)
    for path in ("good", "bad", "cut"):
        session.feed(Entry(path=path, mode=0o600, size=4))
        session.feed(b"data")
        if path != "cut":
            session.feed(EntryEnd())
    house.clock.advance(0)
    session.hang_up()
    files = [(e.path, e.direction, e.size, e.outcome) for e in house.events if isinstance(e, FileMoved)]
    assert files == [
        ("/x/good", "in", 4, Outcome.COMPLETED),
        ("/x/bad", "in", 4, Outcome.FAILED),
        ("/x/cut", "in", 4, Outcome.LOST),
    ]
    assert house.ended.outcome is Outcome.LOST


@pytest.mark.parametrize("early", [True, False], ids=["before the guest is ready", "after"])
def test_an_entry_that_cannot_be_ends_the_copy_whenever_it_comes(house: House, early: bool) -> None:
    ready: Deferred[Any] = Deferred()
    original = house.alpha.upload
    house.alpha.upload = lambda start, **more: ready  # type: ignore[method-assign]
    instance = house.gate.enter(ANNA, "alpha", Operation.UPLOAD)
    session = house.gate.upload(ANNA, instance, UploadStart(path="/x"), CopyFront())
    steps = [
        lambda: session.feed(Entry(path="../up", mode=0o600, size=4)),
        lambda: original(UploadStart(path="/x")).addCallback(ready.callback),
    ]
    for step in steps if early else reversed(steps):
        step()
        house.clock.advance(0)
    assert house.ended.outcome is Outcome.REFUSED


class CopyFront:
    """Hears everything and says nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


def test_beyond_ten_thousand_files_only_their_number_is_told(house: House) -> None:
    events: list[Event] = []
    start = SessionStarted(
        session_id="1", via=Via.SSH, subject="a", instance_id="i", operation=Operation.SFTP, peer="::1"
    )
    log = EventLog(Events([events.append]), start, house.clock)
    for number in range(EventLog.FILES + 7):
        log.moved(f"/{number}", "out", 1, Outcome.COMPLETED)
    log.ended(Outcome.COMPLETED)
    assert sum(isinstance(event, FileMoved) for event in events) == EventLog.FILES
    assert [event.files for event in events if isinstance(event, MoreMoved)] == [7]
