"""Who may do what: one pure function. No I/O, no clock, no state.

A credential may narrow what it opens (the permissions of wire.md, the instances it names). Beyond that
the table of rules decides, the first that fits; without a table the credential alone, which must then
name the instance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from ipaddress import IPv6Address, ip_address

from gateway.config.policy import NO_TABLE, UNLIMITED, Limits, Policy, Right, Rule
from gateway.model import READ, READ_FILES, WRITE, Instance, Operation, Place, Principal, PrivatePlace

# wire.md section 2: what a token needs for each operation.
SCOPES = {
    Operation.EXEC: WRITE,
    Operation.SHELL: WRITE,
    Operation.SFTP: WRITE,
    Operation.UPLOAD: WRITE,
    Operation.DOWNLOAD: WRITE,
    Operation.STAT: READ,
    Operation.LIST: READ,
    Operation.FORWARD: WRITE,
    Operation.LISTEN: WRITE,
    Operation.REPLAY: READ,
}
# Where READ_FILES does instead: sftp that changes nothing, and copies out.
READING = frozenset({Operation.SFTP, Operation.DOWNLOAD, Operation.STAT})

RIGHTS = {
    Operation.EXEC: Right.EXEC,
    Operation.SHELL: Right.SHELL,
    Operation.SFTP: Right.WRITE,  # or READ, when that is all
    Operation.UPLOAD: Right.WRITE,
    Operation.DOWNLOAD: Right.READ,
    Operation.STAT: Right.READ,
    Operation.FORWARD: Right.FORWARD,
    Operation.LISTEN: Right.FORWARD,
    Operation.REPLAY: Right.REPLAY,
}


# A credential that may everything was given for what its owner does, not for what others did.
NO_REPLAY = "there are no rules, and only a rule allows replay"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """How something is asked for, as far as that is known; None = not yet, so nothing is refused for it."""

    source: str | None = None  # the client's address, with or without a port
    user: str | None = None  # of the guest; "" = the agent's default
    terminal: bool = False
    place: Place | None = None  # of a forward


@dataclass(frozen=True, slots=True)
class Decision:
    """Allowed or not, and why in words for the audit."""

    allowed: bool
    reason: str
    missing_scope: str = ""  # the scope to name when only that was missing
    read_only: bool = False  # allowed, but nothing may be changed
    limits: Limits = UNLIMITED
    rule: str = ""  # the name of the one that decided


@dataclass(frozen=True, slots=True)
class Step:
    """One rule that was looked at, and what about it did not fit; "" = it decides."""

    rule: Rule
    passed: str = field(default="")


def decide(
    principal: Principal,
    operation: Operation,
    instance: Instance | None = None,
    asked: Asked = Asked(),
    policy: Policy = NO_TABLE,
) -> Decision:
    """Whether the principal may do this, in this instance where one is given; denied by default."""
    scope = SCOPES[operation]
    full = bool(principal.permissions & {"*", scope})
    if not full and not (operation in READING and READ_FILES in principal.permissions):
        return Decision(False, f"permission {scope} is missing", scope)
    if operation is Operation.REPLAY and policy.rules is None:
        return Decision(False, NO_REPLAY)
    if instance is not None:
        if not named(principal, instance, policy):
            return Decision(False, f"{principal.how} of {principal.subject} does not name this instance")
        if policy.rules is not None:
            return _by_rules(principal, operation, instance, asked, policy.rules, full)
    return Decision(True, f"{principal.how} of {principal.subject}", read_only=not full)


def named(principal: Principal, instance: Instance, policy: Policy) -> bool:
    """Whether the credential itself names the instance. One that names none (None) leaves that to the rules."""
    if principal.instances is None:
        return policy.rules is not None
    return bool(principal.instances & {"*", instance.id, instance.name})


def _by_rules(
    principal: Principal, operation: Operation, instance: Instance, asked: Asked, rules: tuple[Rule, ...], full: bool
) -> Decision:
    def judge(right: Right) -> Decision:
        return judged(principal, right, instance, asked, rules)

    if operation is Operation.LIST:  # who may do anything there may know of it
        decisions = [judge(right) for right in Right]
        return next((decision for decision in decisions if decision.allowed), decisions[0])
    right = RIGHTS[operation]
    if isinstance(asked.place, PrivatePlace):
        right = Right.AGENT
    decision = judge(right)
    if operation is Operation.SFTP and not (full and decision.allowed):
        reading = judge(Right.READ)
        if not reading.allowed:
            return decision if full else reading
        return Decision(True, reading.reason, read_only=True, limits=reading.limits, rule=reading.rule)
    if decision.allowed and asked.terminal:
        terminal = judge(Right.PTY)
        if not terminal.allowed:
            return terminal
    return decision


def judged(principal: Principal, right: Right, instance: Instance, asked: Asked, rules: tuple[Rule, ...]) -> Decision:
    """What the first rule that fits says of one right."""
    for step in steps(principal, right, instance, rules):
        if not step.passed:
            return _ruled(step.rule, right, asked)
    return Decision(False, f"no rule allows {right.value}")


def steps(principal: Principal, right: Right, instance: Instance, rules: tuple[Rule, ...]) -> Iterator[Step]:
    """Rule by rule, up to the one that decides."""
    for rule in rules:
        step = Step(rule, _misfit(rule, principal, right, instance))
        yield step
        if not step.passed:
            return


def _misfit(rule: Rule, principal: Principal, right: Right, instance: Instance) -> str:
    """What keeps a rule from being about this; "" = it is."""
    checks = (
        (right in rule.rights, f"says nothing of {right.value}"),
        (not rule.subjects or _fits(rule.subjects, principal.subject), f"is not about {principal.subject}"),
        (not rule.groups or bool(rule.groups & principal.groups), "is about other groups"),
        (all(_claims(principal, name, value) for name, value in rule.claims.items()), "is about other claims"),
        (
            not rule.instances or _fits(rule.instances, instance.id) or _fits(rule.instances, instance.name),
            "is about other instances",
        ),
        (all(instance.labels.get(name) == value for name, value in rule.labels.items()), "is about other labels"),
    )
    return next((why for fits, why in checks if not fits), "")


def _ruled(rule: Rule, right: Right, asked: Asked) -> Decision:
    """The first rule that fits decides, its limits too: those do not pass on to the next."""
    if not rule.allows:
        return Decision(False, f"{rule.name} denies {right.value}", rule=rule.name)
    if rule.sources and asked.source is not None and not _from(rule, asked.source):
        return Decision(False, f"{rule.name} allows {right.value}, but not from this address", rule=rule.name)
    if rule.users and asked.user is not None and not _fits(rule.users, asked.user):
        return Decision(False, f"{rule.name} allows {right.value}, but not as this guest user", rule=rule.name)
    return Decision(True, f"{rule.name} allows {right.value}", limits=rule.limits, rule=rule.name)


def _fits(patterns: tuple[str, ...], word: str) -> bool:
    return any(fnmatchcase(word, pattern) for pattern in patterns)


def _claims(principal: Principal, name: str, value: str) -> bool:
    claim = principal.claims.get(name)
    return value in claim if isinstance(claim, list | tuple) else isinstance(claim, str) and claim == value


def _from(rule: Rule, source: str) -> bool:
    """An IPv4 address that came by an IPv6 socket is what it is; no address at all is nowhere."""
    try:
        address = ip_address(host_of(source))
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return any((mapped or address) in network for network in rule.sources)


def host_of(peer: str) -> str:
    """The address of `192.0.2.1`, `192.0.2.1:5000`, `2001:db8::1` or `[2001:db8::1]:5000`."""
    if peer.startswith("["):
        return peer[1:].partition("]")[0]
    return peer.rpartition(":")[0] if peer.count(":") == 1 else peer
