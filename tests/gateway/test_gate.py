"""Who gets in, and what those hear who do not."""

from __future__ import annotations

import json

import pytest
from twisted.internet.task import Clock

from gateway.audit import Audit
from gateway.config import Policy
from gateway.errors import Ambiguous, Forbidden, InvalidState, NotFound
from gateway.eventlog import EventLog
from gateway.events import Event, Events, SessionStarted
from gateway.gate import Gate, Visitor
from gateway.metrics import Metrics
from gateway.model import EVERYTHING, Operation, Outcome, Principal, Via
from gateway.policy import decide
from tests.support.memory import MemoryWorld


def visitor(*instances: str, permissions: frozenset[str] = EVERYTHING) -> Visitor:
    return Visitor(Principal("anna", "token", frozenset(instances), permissions), Via.WEB, "192.0.2.1")


@pytest.fixture
def world() -> MemoryWorld:
    world = MemoryWorld()
    for name in ("alpha", "beta"):
        world.add(name)
    world.add("off", state="Stopped")
    return world


@pytest.fixture
def audit() -> list[str]:
    return []


@pytest.fixture
def gate(world: MemoryWorld, audit: list[str]) -> Gate:
    return Gate(world, world, Events([Audit(audit.append)]), Clock())


@pytest.mark.parametrize(("name", "found"), [("i-alpha", "i-alpha"), ("alpha", "i-alpha"), ("i-b", "i-beta")])
def test_an_instance_has_its_id_its_name_and_the_beginning_of_its_id(gate: Gate, name: str, found: str) -> None:
    assert gate.enter(visitor("*"), name, Operation.EXEC).id == found


def test_an_exact_name_goes_before_the_beginning_of_an_id(gate: Gate, world: MemoryWorld) -> None:
    world.add("i-alph")
    assert gate.enter(visitor("*"), "i-alph", Operation.EXEC).name == "i-alph"


@pytest.mark.parametrize("name", ["", "gamma", "ALPHA", "../alpha", "alpha ", "al", "i-alpha\0"])
def test_another_name_is_found_nowhere(gate: Gate, audit: list[str], name: str) -> None:
    with pytest.raises(NotFound):
        gate.enter(visitor("*"), name, Operation.EXEC)
    (line,) = [json.loads(line) for line in audit]
    assert (line["event"], line["subject"], line["instance"], line["outcome"]) == ("refused", "anna", name, "refused")


def test_a_beginning_that_fits_two_is_ambiguous(gate: Gate) -> None:
    with pytest.raises(Ambiguous):
        gate.enter(visitor("*"), "i-", Operation.EXEC)


def test_an_instance_that_one_may_not_use_does_not_exist(gate: Gate) -> None:
    with pytest.raises(NotFound):
        gate.enter(visitor("alpha"), "beta", Operation.EXEC)
    assert [i.name for part in gate.visible(visitor("alpha").principal) for i in part] == ["alpha"]
    # Not even as the other one of an ambiguous beginning.
    assert gate.enter(visitor("alpha"), "i-", Operation.EXEC).name == "alpha"


def test_a_stopped_instance_says_so(gate: Gate) -> None:
    with pytest.raises(InvalidState, match=r"instance must be running \(current state: Stopped\)"):
        gate.enter(visitor("*"), "off", Operation.EXEC)


@pytest.mark.parametrize("operation", list(Operation))
@pytest.mark.parametrize("scope", ["instance:read", "instance:write", "*", "other"])
def test_each_operation_needs_its_scope(operation: Operation, scope: str) -> None:
    needed = "instance:read" if operation in (Operation.STAT, Operation.LIST, Operation.REPLAY) else "instance:write"
    principal = visitor("*", permissions=frozenset({scope})).principal
    assert decide(principal, operation, policy=Policy(())).allowed is (scope in ("*", needed))


@pytest.mark.parametrize("operation", list(Operation))
def test_who_may_only_read_files_gets_what_reads_them(operation: Operation) -> None:
    decision = decide(visitor("*", permissions=frozenset({"files:read"})).principal, operation)
    reads = operation in (Operation.SFTP, Operation.DOWNLOAD, Operation.STAT)
    assert (decision.allowed, decision.read_only) == (reads, reads)


@pytest.mark.parametrize("permissions", [EVERYTHING, {"files:read", "instance:write"}])
def test_who_may_write_besides_is_no_mere_reader(permissions: frozenset[str]) -> None:
    decision = decide(visitor("*", permissions=frozenset(permissions)).principal, Operation.SFTP)
    assert (decision.allowed, decision.read_only) == (True, False)


def test_a_missing_scope_is_named_before_anything_else_is_told(gate: Gate) -> None:
    with pytest.raises(Forbidden, match="missing required scope: instance:write"):
        gate.enter(visitor("*", permissions=frozenset({"instance:read"})), "nowhere", Operation.EXEC)


def test_a_sink_that_fails_harms_no_other() -> None:
    kept: list[Event] = []

    def broken(event: Event) -> None:
        raise OSError("disk full")

    log = EventLog(Events([broken, kept.append]), start(), Clock())
    log.ended(Outcome.COMPLETED)
    log.ended(Outcome.FAILED)
    assert len(kept) == 2


def start() -> SessionStarted:
    return SessionStarted(
        session_id="1", via=Via.SSH, subject='a"\n\x1b', instance_id="i", operation=Operation.SFTP, peer="::1"
    )


def test_an_audit_line_is_one_line_whatever_a_user_is_called() -> None:
    lines: list[str] = []
    EventLog(Events([Audit(lines.append)]), start(), Clock()).ended(Outcome.LOST, "x\ny")
    assert all(line.count("\n") == 1 and line.isprintable() is False and line[:-1].isprintable() for line in lines)
    assert [json.loads(line)["event"] for line in lines] == ["session.start", "session.end"]


def test_metrics_have_as_many_series_after_many_sessions_as_before() -> None:
    metrics = Metrics()

    def series() -> int:
        return sum(len(family.samples) for family in metrics.registry.collect() if family.name.startswith("vmgate"))

    before = series()
    for via in Via:
        for operation in Operation:
            for outcome in Outcome:
                log = EventLog(
                    Events([metrics]),
                    SessionStarted(
                        session_id="1", via=via, subject="a", instance_id="i", operation=operation, peer="::1"
                    ),
                    Clock(),
                )
                log.ended(outcome)
    assert series() == before < 600
    value = metrics.registry.get_sample_value
    assert value("vmgate_exec_sessions_total", {"via": "ssh", "operation": "exec", "outcome": "completed"}) == 1
    assert value("vmgate_exec_sessions_active", {"via": "ssh"}) == 0
    assert value("vmgate_cp_sessions_total", {"direction": "to", "outcome": "lost"}) == len(Via)
