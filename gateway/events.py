"""What happened, as a catalogue of events, and the way they reach whoever keeps them.

Rooms emit; sinks (audit, metrics) take. A sink that fails is logged and harms neither the session
nor another sink. No payload, no secret and no environment value is ever part of an event.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from twisted.logger import Logger

from gateway.measures import Measure
from gateway.model import Offence, Operation, Outcome, Via


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A client was turned away before a session began."""

    via: Via
    subject: str
    instance: str  # as the client named it
    operation: str
    reason: str
    peer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionStarted:
    """A session began: nothing reached the guest before this."""

    session_id: str
    via: Via
    subject: str
    instance_id: str
    operation: Operation
    peer: str
    place: str = ""  # of a forward: what is connected to, or listened at, in the guest
    credential: str = ""  # by which its subject came in, as Authenticated tells it


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEnded:
    """The one end of a session."""

    session_id: str
    via: Via
    subject: str
    instance_id: str
    operation: Operation
    peer: str
    outcome: Outcome
    reason: str
    exit_code: int | None
    bytes_in: int  # towards the guest
    bytes_out: int  # from the guest
    seconds: float
    place: str = ""

    @classmethod
    def of(
        cls,
        start: SessionStarted,
        outcome: Outcome,
        reason: str,
        *,
        seconds: float,
        bytes_in: int = 0,
        bytes_out: int = 0,
        exit_code: int | None = None,
    ) -> SessionEnded:
        """The end of what began so."""
        return cls(
            session_id=start.session_id,
            via=start.via,
            subject=start.subject,
            instance_id=start.instance_id,
            operation=start.operation,
            peer=start.peer,
            outcome=outcome,
            reason=reason,
            exit_code=exit_code,
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            seconds=seconds,
            place=start.place,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FileMoved:
    """One file went into a guest or came out of it, or did not."""

    session_id: str
    via: Via
    subject: str
    instance_id: str
    peer: str
    path: str  # in the guest; surrogateescape where it is not UTF-8
    direction: str  # "in" or "out"
    size: int  # bytes that moved, holes included
    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChanged:
    """A name or its attributes were changed in a guest over sftp, or were not."""

    session_id: str
    via: Via
    subject: str
    instance_id: str
    peer: str
    action: str  # remove, rename, mkdir, rmdir, symlink, hardlink, setstat, copy, other
    path: str
    target: str  # of a rename, a link or a copy: the other name
    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unwatched:
    """From here on nobody knows which files an sftp session moves."""

    session_id: str
    via: Via
    subject: str
    instance_id: str
    peer: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MoreMoved:
    """A session moved or changed so many files beyond those that were told one by one."""

    session_id: str
    via: Via
    subject: str
    instance_id: str
    peer: str
    files: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Penalised:
    """A source is refused from now on, for so long, for what it did before a login; `offence` is the last of it."""

    via: Via
    source: str  # an IPv4 address, or the /64 of an IPv6 one
    offence: Offence
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnedAway:
    """A connection was closed before anything of it was looked at. `why` is one of penalty (its source is refused),
    source (too many of its source wait for a login) and startups (too many in all)."""

    via: Via
    source: str
    why: str
    connections: int  # how many since it was last told of this source; 0 = not to be told


@dataclass(frozen=True, slots=True)
class Dialled:
    """One try to reach a guest's agent; `result` is one of ok, booting, refused, timeout, error."""

    result: str
    seconds: float


@dataclass(frozen=True, slots=True)
class PoolChanged:
    """So many channels to guests are open now. `closed` is why one was closed: idle (no call for long), silent
    (no sign of life), replaced (another socket lies there), dropped (its instance is gone), lost; "" = none was."""

    channels: int
    closed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceListed:
    """How the sources of instances of one kind are, taken together."""

    kind: str  # directory, hypeman, libvirt, http
    sources: int
    broken: int  # of them: the last look went wrong, or is late
    instances: int
    listed: float  # of the oldest last good list of one: seconds since the epoch


@dataclass(frozen=True, slots=True)
class Connected:
    """A client's connection opened (+1) or closed (-1)."""

    via: Via
    change: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evicted:
    """Somebody who was in may not be there any more, and is put out: a session, or a connection without one."""

    via: Via
    subject: str
    instance: str
    session_id: str  # "" = of a connection
    reason: str
    peer: str


@dataclass(frozen=True, slots=True)
class Reloaded:
    """The configuration was applied anew, or left as it was because it is wrong."""

    ok: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Commanded:
    """An administrator of this machine gave a command, or somebody who is none tried to."""

    command: str  # kill, drain, reload, level, refused
    by: str  # the user's name on this machine
    uid: int
    pid: int
    session_id: str  # of kill; "" = none


@dataclass(frozen=True, slots=True, kw_only=True)
class Authenticated:
    """A client proved who it is. What it may do is another question."""

    via: Via
    subject: str
    how: str  # publickey, certificate, token
    credential: str  # a key's fingerprint, a certificate's serial, a token's jti and issuer: never what would prove it
    instance: str  # that it asks for, as the client named it; "" = none
    peer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingStarted:
    """What is shown in a session is kept in this file of the recordings' directory."""

    session_id: str
    via: Via
    subject: str
    instance_id: str
    peer: str
    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingEnded:
    """The one end of a recording, whole or not."""

    session_id: str
    via: Via
    subject: str
    instance_id: str
    peer: str
    file: str
    size: int  # bytes of the file
    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """Somebody is given a recording, or a part of it, to be seen again."""

    via: Via
    subject: str  # who sees it
    peer: str
    instance_id: str
    session_id: str  # which it is of
    file: str
    offset: int  # bytes
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditChanged:
    """The audit cannot be written (ok = False), or can again."""

    ok: bool
    lost: int  # lines, for ever
    reason: str = ""


@dataclass(frozen=True, slots=True)
class WorkersChanged:
    """So many workers serve clients now. `lost`: one ended that nobody told to."""

    serving: int
    lost: bool = False


OfRecording = RecordingStarted | RecordingEnded
OfFiles = FileMoved | FileChanged | MoreMoved | Unwatched
BeforeLogin = Penalised | TurnedAway
OfOperation = Reloaded | AuditChanged | Commanded
OfEntry = Authenticated | Refused | Evicted | Replayed
OfSession = SessionStarted | SessionEnded | OfFiles | OfRecording
Event = (
    OfEntry
    | BeforeLogin
    | OfSession
    | OfOperation
    | Dialled
    | PoolChanged
    | SourceListed
    | Connected
    | WorkersChanged
    | Measure
)
Sink = Callable[[Event], None]


class Events:
    """Hands each event to every sink, in order, each on its own."""

    _log = Logger()

    def __init__(self, sinks: Sequence[Sink] = ()) -> None:
        self._sinks = list(sinks)

    def join(self, sink: Sink) -> None:
        """One more, the last."""
        self._sinks.append(sink)

    def emit(self, event: Event) -> None:
        """Never raises."""
        for sink in self._sinks:
            try:
                sink(event)
            except Exception:
                self._log.failure("An event of kind {kind} was not kept", kind=type(event).__name__)
