"""The log: one line an event, whatever is in it, and levels that change while it runs."""

from __future__ import annotations

import io
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import Logger, LogLevel, LogPublisher
from twisted.python.failure import Failure

from gateway.config.log import LogConfig
from gateway.events import SessionEnded, SessionStarted
from gateway.log import Log, Story
from gateway.model import Operation, Outcome, Via


class Desk:
    """A log, and rooms that write to it."""

    def __init__(self, **config: Any) -> None:
        self.out = io.StringIO()
        self.log = Log(LogConfig(**config), self.out)

    def room(self, namespace: str = "gateway.ssh.auth") -> Logger:
        return Logger(namespace, observer=LogPublisher(self.log))

    @property
    def lines(self) -> list[str]:
        return self.out.getvalue().splitlines()


def failing(room: Logger) -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        room.failure("It failed\nbadly", Failure(), session="0123456789abcdef")


@given(text=st.text(st.characters(), max_size=60))
def test_whatever_a_client_names_things_a_line_stays_one_printable_line(text: str) -> None:
    for form in ("text", "json"):
        desk = Desk(format=form)
        desk.room().info("{who} logs in", who=text, session=text)
        (line,) = desk.out.getvalue().split("\n")[:-1]
        assert line.isprintable()


def test_a_traceback_is_in_the_line_of_its_event() -> None:
    desk = Desk()
    failing(desk.room())
    (line,) = desk.lines
    assert "[gateway.ssh.auth#critical] It failed\\nbadly session=0123456789abcdef | Traceback" in line
    assert line.endswith("second")


def test_json_says_the_same_by_fixed_names() -> None:
    desk = Desk(format="json")
    failing(desk.room())
    said = json.loads(desk.lines[0])
    assert list(said) == ["time", "level", "logger", "message", "session", "traceback"]
    assert said["level"] == "critical"
    assert said["session"] == "0123456789abcdef"
    assert "ValueError: first\nsecond" in said["traceback"]


def test_a_namespace_may_say_more_than_the_others_and_that_changes_while_it_runs() -> None:
    desk = Desk(levels={"gateway.ssh": "debug"})
    ssh, web = desk.room("gateway.ssh.auth"), desk.room("gateway.web.site")
    for room in (ssh, web):
        room.debug("small")
    assert [line.split("] ")[1] for line in desk.lines] == ["small"]
    desk.log.level("debug")
    web.debug("now")
    desk.log.level("error", "gateway.ssh")
    ssh.warn("no more")
    assert [line.split("] ")[1] for line in desk.lines] == ["small", "now"]
    desk.log.reload(LogConfig(level="warn"))
    for room in (ssh, web):
        room.info("neither")
        room.warn("both")
    assert [line.split("] ")[1] for line in desk.lines] == ["small", "now", "both", "both"]


def test_a_log_that_nobody_takes_any_more_harms_nobody() -> None:
    desk = Desk()
    desk.out.close()
    desk.room().info("into the void")


def test_what_cannot_be_shown_is_a_line_too() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    desk = Desk()
    room = desk.room()
    room.info("{it}", it=Mute())
    try:
        raise Mute
    except Mute:
        room.failure("so", Failure())
    assert len(desk.lines) == 2


def test_each_line_of_a_session_bears_its_id() -> None:
    desk = Desk(format="json")
    story = Story()
    story._log = desk.room("gateway.log.Story")  # type: ignore[misc]
    who = {"session_id": "5", "via": Via.SSH, "subject": "anna", "instance_id": "i-1", "peer": "192.0.2.1:5"}
    story(SessionStarted(operation=Operation.EXEC, **who))  # type: ignore[arg-type]
    story(
        SessionEnded(
            operation=Operation.EXEC, outcome=Outcome.LOST, reason="gone", exit_code=None, bytes_in=1, bytes_out=2,
            seconds=1.5, **who,  # type: ignore[arg-type]
        )
    )  # fmt: skip
    lines = [json.loads(line) for line in desk.lines]
    assert [line["session"] for line in lines] == ["5", "5"]
    assert lines[0]["message"] == "exec in i-1 by anna from 192.0.2.1:5 begins"
    assert lines[1]["message"] == "exec ends after 1.500 s: lost (gone)"
    assert LogLevel.levelWithName(lines[0]["level"]) is LogLevel.info
