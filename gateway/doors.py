"""The doors between the rooms, as protocols: what one side may ask of the other, and no more.

What is awaited here is a Deferred of Twisted; errors are those of `gateway.errors`. Cancelling a
Deferred gives up the wait and releases what the call took.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import Deferred

from gateway.entries import DownloadStart, EntryError, Held, Inbound, Outbound, Placed, Stat, UploadReport, UploadStart
from gateway.errors import GateError
from gateway.listing import Listing
from gateway.model import Ending, ExecRequest, Instance, Output, Place, Window


class Process(Protocol):
    """One process in a guest, from its start to its one end. Given by `Guest.start`."""

    tty: str  # its terminal's device in the guest; "" without one, or from a foreign agent

    def receive(self) -> Deferred[Output | Ending]:
        """The next output, and last, once, the ending: not before both streams are drained.

        One call at a time: a slow taker holds the guest back. Output.data is at most 1 MiB.
        Raises GuestLost when the guest went, GuestFailed when the agent refused.
        """

    def send(self, data: bytes) -> Deferred[None]:
        """Bytes for stdin, of any size; fires when they went on. One call at a time. Never raises
        because the process does not read any more: such bytes are dropped, as a pipe's are."""

    def end(self) -> Deferred[None]:
        """The end of stdin. Signals and resizes may follow. Once; nothing is sent after it."""

    def resize(self, window: Window) -> None:
        """Ignored without a terminal. Not held up by stdin that is not read."""

    def signal(self, name: str) -> None:
        """A name of RFC 4254 section 6.10, without SIG. Not held up by stdin that is not read."""

    def deaf(self) -> None:
        """Nobody reads stdout any more: a process that writes to it gets SIGPIPE. stderr goes on, and
        so does a terminal. Output may still come. A foreign agent is not told."""

    def close(self) -> None:
        """Let go. A process that still runs is hung up: HUP, TERM, KILL within 5 s. Idempotent."""


class Upload(Protocol):
    """Entries on their way into a guest. Given by `Guest.upload` once the guest is ready."""

    exists: bool  # what is at the start's path, links followed
    is_dir: bool

    def send(self, piece: Inbound) -> Deferred[None]:
        """The next piece, of any size; fires when it went on. One call at a time. Raises BadRequest
        for an entry that no guest could take, and what `receive` raises once that is known."""

    def receive(self) -> Deferred[Placed | Held | EntryError | UploadReport]:
        """What the guest says, and last, once, the report. One call at a time: a slow taker holds the
        guest back. A Held for each entry with `resume`, in order; its data waits for that. Raises
        GuestFailed with the guest's own words, GuestLost when it went."""

    def finish(self) -> Deferred[None]:
        """No more will be sent; the report follows when all is in place. Once."""

    def close(self) -> None:
        """Let go. An entry whose end was not sent is not there, or what it was. Idempotent."""


class Download(Protocol):
    """One tree on its way out of a guest. Given by `Guest.download`."""

    def receive(self) -> Deferred[Outbound]:
        """The next piece: for each entry an Entry, its bytes (at most 1 MiB each) and holes, an
        EntryEnd. One call at a time; none after the final EntryEnd. An EntryError stands in an
        entry's place, or ends one that cannot be read to its end; when nothing at all could be read
        it is the last piece, and GuestFailed follows. Paths stay below the root, hard links name
        earlier entries, and there is no byte beyond an entry's size."""

    def close(self) -> None:
        """Let go. Idempotent."""


class Link(Protocol):
    """One connection in a guest: bytes both ways, and an end of each way. Given by `Guest.connect`
    and `Arrival.take`."""

    def receive(self) -> Deferred[bytes]:
        """The next bytes from the guest, at most 1 MiB; b"" once, at the end of this way. One call at
        a time: a slow taker holds the guest back. Raises GuestLost, GuestFailed."""

    def send(self, data: bytes) -> Deferred[None]:
        """Bytes of any size; fires when they went on. One call at a time. Never raises because the
        other side takes no more: such bytes are dropped."""

    def end(self) -> Deferred[None]:
        """The end of this way. Once; nothing is sent after it."""

    def deaf(self) -> None:
        """Nothing of the other side's is wanted any more: its way ends now."""

    def over(self) -> Deferred[None]:
        """Fires when both ways ended and all that was sent was delivered, or cannot be. Raises
        GuestLost, GuestFailed."""

    def close(self) -> None:
        """Let go; what is on its way may be lost. Idempotent."""


class Arrival(Protocol):
    """A connection that came to a listener in a guest. It waits for some seconds."""

    peer: tuple[str, int]  # who came, by TCP; else ("", 0)

    def take(self) -> Deferred[Link]:
        """Take it up. Raises PlaceRefused when it is gone, GuestLost, GuestFailed."""

    def drop(self) -> None:
        """Nobody takes it up: close it."""


class Listener(Protocol):
    """A listener in a guest. Given by `Guest.listen`."""

    port: int  # of a TCP listener, the one that it has
    path: str  # of a unix socket

    def accept(self) -> Deferred[Arrival]:
        """The next connection that came. One call at a time. Raises GuestLost, GuestFailed."""

    def close(self) -> None:
        """Listen no more; connections that were taken up go on. Idempotent."""


class Guest(Protocol):
    """One guest, reached by the pooled channel of its instance. Every method dials when needed
    and raises AgentVSockDialError (GuestBooting while nobody listens), GuestLost, GuestLacks or
    GuestFailed. `wait` is how many seconds a guest that does not answer yet is waited for; it is
    tried at least every 100 ms."""

    @property
    def reached(self) -> bool:
        """Whether its channel stands, so that no call waits for it."""

    def start(self, request: ExecRequest, *, session_id: str = "", wait: float = 0) -> Deferred[Process]:
        """Fires when the agent says that the process started, or never will (its ending tells)."""

    def upload(self, start: UploadStart, *, session_id: str = "", wait: float = 0) -> Deferred[Upload]:
        """Fires when the guest is ready for entries. Also raises BadRequest."""

    def download(self, start: DownloadStart, *, session_id: str = "", wait: float = 0) -> Deferred[Download]:
        """What is wrong with the path, the first piece tells. Also raises BadRequest."""

    def stat(self, path: str, *, follow_links: bool = False, user: str = "", wait: float = 0) -> Deferred[Stat]:
        """What is at a path, counted from the home of that user where one is given. Also raises BadRequest."""

    def connect(self, place: Place, *, user: str = "", session_id: str = "", wait: float = 0) -> Deferred[Link]:
        """A connection, made by this user of the guest (empty = the agent's default). Also raises
        PlaceRefused, with the guest's words."""

    def listen(self, place: Place, *, user: str = "", session_id: str = "", wait: float = 0) -> Deferred[Listener]:
        """A listener of this user's. Also raises PlaceRefused, with the guest's words."""


class Guests(Protocol):
    """Where guests come from: the pool."""

    def guest(self, instance: Instance) -> Guest: ...


class Instances(Protocol):
    """Where instances come from. Answers at once, from what was last known."""

    def listing(self) -> Listing: ...


class ExecFront(Protocol):
    """What a front shows to an exec session: its client, one way up and one way down.

    Called only by the session, in this order: started or failed; then write and drained; then
    exited or failed, once, and nothing after it.
    """

    def started(self, process: Process) -> None:
        """The process runs (or its ending is on its way): now success may be told."""

    def write(self, output: Output) -> None:
        """Hand over to the client. Never blocks, never raises; bounded because `drained` follows."""

    def drained(self) -> Deferred[None]:
        """Fires when the client has taken enough for the next write."""

    def consumed(self, size: int) -> None:
        """So many bytes of the client's went on: it may be given that much credit again."""

    def exited(self, ending: Ending) -> None:
        """The process ended and all its output was written: status, then EOF, then CLOSE."""

    def failed(self, error: GateError) -> None:
        """It went wrong, before or after the start: tell the client the sentence, then close."""


class UploadFront(Protocol):
    """What a front shows to an upload. `ready` or `failed` first; then what the guest says; last
    `uploaded` or `failed`, once."""

    def ready(self, exists: bool, is_dir: bool) -> None:
        """The guest takes entries; this is at the start's path, links followed."""

    def consumed(self, size: int) -> None:
        """A piece of the client's went on: so much of what `feed` was given for it."""

    def held(self, size: int) -> None:
        """The answer to an entry with `resume`: its data begins behind so many bytes."""

    def placed(self, entries: int, size: int) -> None:
        """So many entries with so many bytes are in place since the start, problems included."""

    def problem(self, error: EntryError) -> None:
        """One entry could not be put; the others go on."""

    def uploaded(self, report: UploadReport) -> None:
        """Everything is in place but for the problems that were told."""

    def failed(self, error: GateError) -> None:
        """It went wrong; an entry that was not placed is what it was before."""


class DownloadFront(Protocol):
    """What a front shows to a download. `downloaded` or `failed` comes once, last."""

    def write(self, piece: Outbound) -> None:
        """Hand over to the client; never blocks, `drained` follows. No Hole when plain was asked for."""

    def drained(self) -> Deferred[None]:
        """Fires when the client has taken enough for the next write."""

    def downloaded(self) -> None:
        """The last piece was written."""

    def failed(self, error: GateError) -> None:
        """It went wrong."""


class LinkFront(Protocol):
    """What a front shows to a forwarded connection. `opened` or `failed` first; then write and
    drained, `ended` when the guest's way ended; last `closed` or `failed`, once."""

    def opened(self) -> None:
        """The connection stands."""

    def write(self, data: bytes) -> None:
        """Hand over to the client. Never blocks, never raises; bounded because `drained` follows."""

    def drained(self) -> Deferred[None]:
        """Fires when the client has taken enough for the next write."""

    def consumed(self, size: int) -> None:
        """So many bytes of the client's went on."""

    def ended(self) -> None:
        """The guest sends no more; the client may go on."""

    def closed(self) -> None:
        """Both ways ended."""

    def failed(self, error: GateError) -> None:
        """It could not be made, or broke."""


class ListenFront(Protocol):
    """What a front shows to a listener. `listening` or `failed` first; then arrivals."""

    def listening(self, listener: Listener) -> None:
        """It listens."""

    def arrived(self, arrival: Arrival) -> None:
        """Somebody came. To be taken up or dropped."""

    def failed(self, error: GateError) -> None:
        """It does not listen, or no more."""
