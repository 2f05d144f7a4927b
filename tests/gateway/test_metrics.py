"""What the metrics are, and that nobody who uses the gateway makes them more."""

from __future__ import annotations

import re
import subprocess

import pytest
from prometheus_client import Metric
from prometheus_client.exposition import generate_latest
from twisted.internet.task import Clock

from gateway.config.policy import Limits
from gateway.errors import TooMany
from gateway.eventlog import EventLog
from gateway.events import (
    AuditChanged,
    Authenticated,
    Connected,
    Events,
    Reloaded,
    SessionStarted,
    SourceListed,
)
from gateway.gate import Gate, Visitor
from gateway.measures import Disproved, Lagged, Limited, Measured, Requested, Shaken
from gateway.metrics import Hypeman, Lag, Metrics
from gateway.model import (
    EVERYTHING,
    ExecRequest,
    Limit,
    Operation,
    Outcome,
    Principal,
    Via,
)
from gateway.roll import Leash
from gateway.room import Room
from tests.gateway.test_session import Front
from tests.support.counts import count
from tests.support.memory import MemoryWorld

MOST = 600  # series, of the issue
PERSONAL = {"instance", "user", "subject", "key", "address", "peer", "command", "exit_code", "error", "reason"}


class House:
    """A gate with guests in memory, whose events are counted."""

    def __init__(self, guests: int = 1) -> None:
        self.clock = Clock()
        self.metrics = Metrics(now=lambda: 1000.0 + self.clock.seconds())
        self.events = Events([self.metrics, Hypeman(self.metrics.registry)])
        self.world = MemoryWorld()
        for number in range(guests):
            self.world.add(f"g{number}")
        self.gate = Gate(self.world, self.world, self.events, self.clock)

    def visit(self, line: str, front: Front, *, user: int = 0, guest: int = 0) -> None:
        """One session of this user in this guest."""
        via = (Via.SSH, Via.WEB)[user % 2]
        visitor = Visitor(
            Principal(f"user-{user}", "token", frozenset("*"), EVERYTHING), via, f"192.0.2.{user % 250}:1"
        )
        instance = self.gate.enter(visitor, f"g{guest}", Operation.EXEC)
        self.gate.exec(visitor, instance, ExecRequest(line=line.encode()), front)
        self.clock.advance(0)

    def value(self, name: str, **labels: str) -> float:
        value = self.metrics.registry.get_sample_value(name, labels)
        assert value is not None, (name, labels)
        return value

    def series(self) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
        return {
            (sample.name, tuple(sorted(sample.labels.items())))
            for family in self.families()
            for sample in family.samples
        }

    def families(self) -> list[Metric]:
        return list(self.metrics.registry.collect())


@pytest.fixture
def house() -> House:
    return House()


def test_there_are_few_series_and_all_of_them_begin_at_nothing(house: House) -> None:
    assert len(house.series()) <= MOST
    ones = {"vmgate_build_info", "vmgate_audit_writable", "vmgate_config_last_reload_successful"}
    times = {"vmgate_config_last_reload_success_timestamp_seconds"}
    for family in house.families():
        if family.name.startswith(("vmgate_", "hypeman_")) and family.name not in times:
            assert {sample.value for sample in family.samples} == {1.0 if family.name in ones else 0.0}, family.name


def test_no_label_says_who_or_what_it_was_about(house: House) -> None:
    labels = {label for family in house.families() for sample in family.samples for label in sample.labels}
    assert not labels & PERSONAL, labels


def test_what_only_grows_is_called_total_and_nothing_else_is(house: House) -> None:
    for family in house.families():
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter"), sample.name
        assert family.documentation
        assert not re.search(r"_(ms|milliseconds|minutes|kb|mb|percent)\b", family.name)


def test_promtool_has_nothing_to_say(house: House) -> None:
    house.visit("echo hi", Front())
    text = generate_latest(house.metrics.registry)
    told = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False, timeout=120)
    assert (told.returncode, told.stdout + told.stderr) == (0, b"")


def test_ten_sessions_make_as_many_series_as_ten_thousand_of_a_thousand_users_on_five_hundred_guests() -> None:
    house = House(guests=500)
    for number in range(10):
        house.visit("echo hi", Front(), user=number, guest=number)
    after_ten = house.series()
    sessions = count(10_000, 500)
    lines = ["echo hi", "exit 7", "cat", "nosuchcommand", "kill TERM"]
    for number in range(10, sessions):
        front = Front()
        house.visit(lines[number % len(lines)], front, user=number % 1000, guest=number % 500)
        if not house.gate.live:
            continue
        for session, _ in house.gate._roll.stays():
            session.hang_up()
        house.clock.advance(0)
    assert house.series() == after_ten
    assert len(after_ten) <= MOST
    ended = sum(
        sample.value
        for family in house.families()
        if family.name == "vmgate_exec_sessions"
        for sample in family.samples
    )
    assert ended == sessions


def test_a_session_is_counted_with_its_wait_its_bytes_and_its_end(house: House) -> None:
    house.visit("echo hi", Front())
    assert house.value("vmgate_exec_sessions_total", via="ssh", operation="exec", outcome="completed") == 1
    assert house.value("vmgate_session_start_duration_seconds_count", via="ssh") == 1
    assert house.value("vmgate_exec_bytes_total", via="ssh", direction="out") == 3
    assert house.value("vmgate_exec_sessions_active", via="ssh") == 0


def test_bytes_are_counted_while_the_session_runs_and_once(house: House) -> None:
    def written() -> float:
        return house.value("vmgate_exec_bytes_total", via="ssh", direction="out")

    house.visit("echo hi; cat", Front())
    assert written() == 0
    house.gate.progress()
    assert written() == 3
    house.gate.progress()
    house.gate.close()
    house.clock.advance(0)
    assert written() == 3
    assert house.value("vmgate_exec_sessions_total", via="ssh", operation="exec", outcome="ended") == 1


def test_what_a_client_does_not_take_at_once_is_back_pressure(house: House) -> None:
    front = Front()
    front.open = False
    house.visit("echo hi", front)
    house.clock.advance(7)
    house.gate.progress()
    assert house.value("vmgate_backpressure_seconds_total", direction="out") == 7
    house.clock.advance(2)
    front.take()
    assert house.value("vmgate_backpressure_seconds_total", direction="out") == 9
    assert house.value("vmgate_backpressure_pauses_total", direction="out") == 1
    assert house.value("vmgate_backpressure_seconds_total", direction="in") == 0


def test_what_a_guest_does_not_take_at_once_is_back_pressure_too(house: House) -> None:
    house.visit("sleep", Front())
    ((session, _),) = house.gate._roll.stays()
    session.feed(b"abc")  # type: ignore[attr-defined]
    house.clock.advance(5)
    session.hang_up()
    house.clock.advance(0)
    assert house.value("vmgate_backpressure_seconds_total", direction="in") == 5


def test_a_full_gateway_is_a_limit_that_was_hit(house: House) -> None:
    gate = house.gate = Gate(house.world, house.world, house.events, house.clock, room=Room(house.events, 1))
    house.visit("cat", Front())
    house.visit("cat", turned_away := Front())
    assert isinstance(turned_away.told[-1], TooMany)
    assert house.value("vmgate_limits_hit_total", limit="sessions") == 1
    assert house.value("vmgate_refused_total", via="ssh") == 1
    gate.close()


def test_a_session_that_lasts_too_long_is_a_limit_that_was_hit(house: House) -> None:
    house.visit("cat", Front())
    ((session, _),) = house.gate._roll.stays()
    leash = Leash(session, Limits(total=5), house.clock)
    house.clock.advance(5)
    leash.release()
    house.clock.advance(0)
    assert house.value("vmgate_limits_hit_total", limit="rule_total") == 1
    assert house.value("vmgate_exec_sessions_total", via="ssh", operation="exec", outcome="timed_out") == 1


def test_files_are_counted_each_way(house: House) -> None:
    start = SessionStarted(
        session_id="1", via=Via.SSH, subject="a", instance_id="i", operation=Operation.SFTP, peer="::1"
    )
    log = EventLog(house.events, start, house.clock)
    log.moved("/a", "in", 5, Outcome.COMPLETED)
    log.moved("/b", "out", 5, Outcome.FAILED)
    log.changed("rename", "/a", "/c", Outcome.COMPLETED)
    log.changed("what a later version calls it", "/a", "", Outcome.COMPLETED)
    log.ended(Outcome.COMPLETED)
    assert house.value("vmgate_files_total", direction="in", outcome="completed") == 1
    assert house.value("vmgate_files_total", direction="out", outcome="failed") == 1
    assert house.value("vmgate_file_changes_total", action="rename") == 1
    assert house.value("vmgate_file_changes_total", action="other") == 1


def test_the_way_in_is_counted(house: House) -> None:
    for event in (
        Connected(Via.SSH, +1),
        Shaken("ok", 0.2),
        Disproved(Via.SSH, "publickey"),
        Disproved(Via.SSH, "palm reading"),
        Authenticated(via=Via.SSH, subject="a", how="certificate", credential="1", instance="x", peer="::1"),
        Connected(Via.SSH, -1),
        Requested("stat", 404),
        Limited(Limit.AUTH_TRIES),
    ):
        house.events.emit(event)
    assert house.value("vmgate_connections", via="ssh") == 0
    assert house.value("vmgate_connections_opened_total", via="ssh") == 1
    assert house.value("vmgate_ssh_handshakes_total", result="ok") == 1
    assert house.value("vmgate_authentications_total", via="ssh", method="publickey", result="refused") == 1
    assert house.value("vmgate_authentications_total", via="ssh", method="other", result="refused") == 1
    assert house.value("vmgate_authentications_total", via="ssh", method="certificate", result="ok") == 1
    assert house.value("vmgate_http_requests_total", page="stat", code="4xx") == 1
    assert house.value("vmgate_limits_hit_total", limit="auth_tries") == 1


def test_the_gateways_own_state_is_told(house: House) -> None:
    house.clock.advance(50)
    house.events.emit(Reloaded(ok=False))
    assert house.value("vmgate_config_last_reload_successful") == 0
    assert house.value("vmgate_config_last_reload_success_timestamp_seconds") == 1000
    house.events.emit(Reloaded(ok=True))
    assert house.value("vmgate_config_last_reload_successful") == 1
    assert house.value("vmgate_config_last_reload_success_timestamp_seconds") == 1050
    house.events.emit(AuditChanged(ok=False, lost=0))
    assert house.value("vmgate_audit_writable") == 0
    house.events.emit(Measured(logins_waiting=3, audit_waiting=99))
    assert (house.value("vmgate_logins_waiting"), house.value("vmgate_audit_waiting_bytes")) == (3, 99)


def test_the_age_of_a_list_grows_by_itself(house: House) -> None:
    house.events.emit(SourceListed(kind="http", sources=1, broken=1, instances=7, listed=990.0))
    assert house.value("vmgate_source_instances", kind="http") == 7
    assert house.value("vmgate_sources_broken", kind="http") == 1
    assert house.value("vmgate_source_age_seconds", kind="http") == 10
    house.clock.advance(5)
    assert house.value("vmgate_source_age_seconds", kind="http") == 15
    assert house.value("vmgate_source_age_seconds", kind="libvirt") == 0


def test_a_loop_that_comes_late_shows_by_how_much() -> None:
    clock, told = Clock(), []
    lag = Lag(Events([told.append]), clock)
    lag.start()
    clock.advance(lag.INTERVAL)
    clock.advance(lag.INTERVAL + 2)
    lag.stop()
    lag.stop()
    clock.advance(10)
    assert told == [Lagged(0.0), Lagged(2.0)]
    assert not clock.getDelayedCalls()


def test_hypemans_seven_names_say_the_same(house: House) -> None:
    house.visit("echo hi", Front())
    house.visit("exit 7", Front())
    names = {family.name for family in house.families() if family.name.startswith("hypeman_")}
    assert names == {
        "hypeman_exec_sessions",
        "hypeman_exec_duration_seconds",
        "hypeman_exec_bytes_sent",
        "hypeman_exec_bytes_received",
        "hypeman_cp_sessions",
        "hypeman_cp_duration_seconds",
        "hypeman_cp_bytes",
    }
    assert house.value("hypeman_exec_sessions_total", status="success") == 1
    assert house.value("hypeman_exec_sessions_total", status="error") == 1
    assert house.value("hypeman_exec_bytes_received_total") == 3
