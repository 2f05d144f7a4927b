"""What goes to a process next: every byte once, in order, within the credit, overtaken by signals."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.guest.answer import SENT
from gateway.guest.outbox import Outbox
from gateway.model import Window
from proto import guest_pb2 as pb

START = pb.ExecStart(command=["x"])


def kinds(outbox: Outbox) -> list[str]:
    """What it gives until it has nothing."""
    taken = []
    while (message := taken_from(outbox)) is not None:
        taken.append(str(message.WhichOneof("request")))
    return taken


def taken_from(outbox: Outbox) -> pb.ExecRequest | None:
    raw = outbox.take()
    return None if raw is None else pb.ExecRequest.FromString(raw)


def test_nothing_goes_before_the_start_and_no_stdin_without_credit() -> None:
    outbox = Outbox(START, foreign=False)
    sent = outbox.send(b"data")
    assert kinds(outbox) == ["start"]
    outbox.grant(4)
    assert kinds(outbox) == ["stdin"]
    assert sent.called


def test_signals_and_resizes_overtake_stdin_that_waits() -> None:
    outbox = Outbox(START, foreign=False)
    outbox.send(bytes(100))
    outbox.end()
    outbox.grant(10)
    assert kinds(outbox) == ["start", "stdin"]
    outbox.resize(Window(1, 1))
    outbox.resize(Window(70000, -1))
    outbox.signal("TERM")
    outbox.signal("NONSENSE")
    assert taken_from(outbox) == pb.ExecRequest(signal=pb.ExecSignal(name="TERM"))
    assert taken_from(outbox) == pb.ExecRequest(resize=pb.WindowSize(rows=65535))
    assert outbox.take() is None
    outbox.grant(90)
    assert kinds(outbox) == ["stdin", "end"]


def test_signals_and_resizes_may_follow_the_end_for_ours() -> None:
    outbox = Outbox(START, foreign=False)
    ended = outbox.end()
    assert kinds(outbox) == ["start", "end"]
    assert ended.called
    outbox.resize(Window())
    outbox.signal("HUP")
    assert kinds(outbox) == ["signal", "resize"]


def test_a_foreign_agent_gets_no_signal_and_nothing_after_the_end() -> None:
    outbox = Outbox(START, foreign=True)
    outbox.signal("TERM")
    outbox.send(b"data")
    outbox.end()
    outbox.resize(Window())
    assert kinds(outbox) == ["start", "resize", "stdin"]
    assert outbox.finished
    outbox.resize(Window())
    assert kinds(outbox) == []


def test_signals_have_a_bound() -> None:
    outbox = Outbox(START, foreign=False)
    for _ in range(10_000):
        outbox.signal("USR1")
    assert kinds(outbox) == ["start"] + ["signal"] * 64


def test_a_closed_outbox_keeps_nobody_waiting() -> None:
    outbox = Outbox(START, foreign=False)
    sent, ended = outbox.send(b"data"), outbox.end()
    outbox.close()
    outbox.close()
    assert (sent.called, ended.called) == (True, True)
    assert (outbox.send(b"more").called, outbox.end().called) == (True, True)
    assert outbox.take() is None


def test_a_send_that_is_given_up_sends_no_more_of_it() -> None:
    outbox = Outbox(START, foreign=False)
    sent = outbox.send(bytes(100))
    outbox.grant(10)
    assert kinds(outbox) == ["start", "stdin"]
    sent.addErrback(lambda _: None)
    sent.cancel()
    outbox.grant(1000)
    assert kinds(outbox) == []


@given(
    data=st.lists(st.integers(1, 3 * SENT), max_size=5),
    credits=st.lists(st.integers(0, 2 * SENT), max_size=40),
    foreign=st.booleans(),
)
def test_every_byte_goes_once_in_order_and_never_beyond_the_credit(
    data: list[int], credits: list[int], foreign: bool
) -> None:
    outbox = Outbox(START, foreign=foreign)
    outbox.take()
    pieces = [bytes([number % 256]) * size for number, size in enumerate(data, 1)]
    given, went, waiting = 0, b"", list(pieces)
    sent = None
    for credit in [*credits, 0]:
        outbox.grant(credit)
        given += credit
        while True:
            if (sent is None or sent.called) and waiting:
                sent = outbox.send(waiting.pop(0))
            message = taken_from(outbox)
            if message is None and (sent is None or not sent.called or not waiting):
                break
            if message is not None:
                assert 0 < len(message.stdin) <= SENT
                went += message.stdin
        assert foreign or len(went) <= given
    everything = b"".join(pieces)
    assert went == everything[: len(went)]
    assert len(went) == (len(everything) if foreign else min(given, len(everything)))
