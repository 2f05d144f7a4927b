"""What is only counted: events that the metrics take and no audit tells. Numbers and words of closed lists."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.model import Limit, Operation, Via

METHODS = ("publickey", "certificate", "token", "other")  # by which clients try to prove who they are
HANDSHAKES = ("ok", "failed", "silent")
PAGES = ("instances", "instance", "stat", "exec", "cp", "recordings", "page", "other")


@dataclass(frozen=True, slots=True)
class Shaken:
    """An SSH client's first key exchange is over: ok, failed, or silent, where the client came, said nothing and
    went, as a probe does. `seconds` from its accept."""

    result: str  # one of HANDSHAKES
    seconds: float


@dataclass(frozen=True, slots=True)
class Disproved:
    """One try to prove who one is was refused. The audit hears of a connection's once, by Refused."""

    via: Via
    how: str  # one of METHODS


@dataclass(frozen=True, slots=True)
class Requested:
    """An HTTP request was answered."""

    page: str  # one of PAGES
    status: int


@dataclass(frozen=True, slots=True)
class Reached:
    """What a session is for began in the guest, so many seconds after the session: its client's wait."""

    via: Via
    seconds: float


@dataclass(slots=True)
class Tally:
    """How much sessions moved, and how they waited for who takes it: in = to the guest, out = to the client."""

    bytes_in: int = 0
    bytes_out: int = 0
    waits_in: int = 0
    waits_out: int = 0
    waited_in: float = 0.0  # seconds
    waited_out: float = 0.0

    def add(self, more: Tally) -> None:
        """Both together."""
        self.bytes_in += more.bytes_in
        self.bytes_out += more.bytes_out
        self.waits_in += more.waits_in
        self.waits_out += more.waits_out
        self.waited_in += more.waited_in
        self.waited_out += more.waited_out


@dataclass(frozen=True, slots=True)
class Moved:
    """What sessions of this kind moved since it was last told."""

    via: Via
    operation: Operation
    tally: Tally


@dataclass(frozen=True, slots=True)
class Limited:
    """Somebody met this limit."""

    limit: Limit


@dataclass(frozen=True, slots=True)
class Lagged:
    """The event loop came so many seconds late to what was due."""

    seconds: float


@dataclass(frozen=True, slots=True)
class KeysAsked:
    """A JWK set of an issuer of tokens was asked for. `had` is when the oldest of them all that counts was had:
    seconds since the epoch, 0 = there is one that never was, None = there are no sets."""

    ok: bool
    had: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What is so now, told when somebody looks."""

    logins_waiting: int  # connections before their login, those of exempt sources not among them
    audit_waiting: int  # bytes of lines that are not written yet


Measure = Shaken | Disproved | Requested | Reached | Moved | Limited | Lagged | KeysAsked | Measured
