"""A guest's sftp process whose bytes are watched on their way: a door before a door.

With a full principal nothing is changed and nothing held up: when the watch cannot follow any more it
says so once, in the audit, and the session goes on. With a reader the session ends then.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from gateway.doors import Process
from gateway.errors import GateError, NotSFTP
from gateway.eventlog import EventLog
from gateway.model import Ending, Output, Stream, Window
from gateway.sftp.frames import Broken
from gateway.sftp.watch import Answers, Book, Requests

Piece = Output | Ending


class Watched:
    """Implements `gateway.doors.Process` around another. `reader`: the principal may only read files."""

    def __init__(self, process: Process, log: EventLog, *, reader: bool = False) -> None:
        self.tty = process.tty
        self._process = process
        self._log = log
        self._reader = reader
        self._book = Book(log)
        self._requests = Requests(self._book, reader=reader)
        self._answers = Answers(self._book)
        self._watching = True
        self._error: GateError | None = None
        self._room: Deferred[None] | None = None  # of a `send` that waits until less is asked
        self._waiting: Deferred[Piece] | None = None  # of `receive`
        self._receiving = False  # the guest was asked for its next piece,
        self._came: Piece | Failure | None = None  # which came when nobody waited

    # Towards the guest.

    def send(self, data: bytes) -> Deferred[None]:
        if self._watching and self._book.full:
            room = self._room = Deferred(self._forget_room)
            return room.addCallback(lambda _: self._pass(data))
        return self._pass(data)

    def _forget_room(self, _: Deferred[None]) -> None:
        self._room = None

    def _pass(self, data: bytes) -> Deferred[None]:
        if self._error is not None:
            return succeed(None)
        if self._watching:
            try:
                data = self._requests.take(data)
            except Broken as problem:
                data = self._lose(problem, data)
            self._wake()
        return self._process.send(data) if data else succeed(None)

    # From the guest.

    def receive(self) -> Deferred[Piece]:
        if self._error is not None:
            return fail(self._error)
        if refusals := self._take_refusals():
            return succeed(Output(Stream.STDOUT, refusals))
        if self._came is not None:
            came, self._came = self._came, None
            return fail(came) if isinstance(came, Failure) else succeed(came).addCallback(self._seen)
        waiting = self._waiting = Deferred(self._forget_waiting)
        if not self._receiving:
            self._receiving = True
            self._process.receive().addBoth(self._arrived)
        return waiting

    def _forget_waiting(self, _: Deferred[Piece]) -> None:
        self._waiting = None

    def _arrived(self, piece: Piece | Failure) -> None:
        self._receiving = False
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            self._came = piece
        elif isinstance(piece, Failure):
            waiting.errback(piece)
        else:  # read before `waiting` fires: refusals of ours fire it too, and are nobody's answers
            succeed(piece).addCallback(self._seen).addCallbacks(waiting.callback, waiting.errback)

    def _seen(self, piece: Piece) -> Piece:
        """Raises NotSFTP."""
        if not (self._watching and isinstance(piece, Output) and piece.stream is Stream.STDOUT):
            return piece
        try:
            data = self._answers.take(piece.data)
        except Broken as problem:
            data = self._lose(problem, piece.data)
            if self._error is not None:
                raise self._error from problem
        if self._room is not None and not (self._watching and self._book.full):
            room, self._room = self._room, None
            room.callback(None)
        return piece if data is piece.data else Output(Stream.STDOUT, data)

    def _take_refusals(self) -> bytes:
        return self._book.refusals() if self._watching else b""

    def _wake(self) -> None:
        """Whoever waits for the guest is given what is there without it."""
        waiting = self._waiting
        if waiting is None:
            return
        if self._error is not None:
            self._waiting = None
            waiting.errback(self._error)
        elif refusals := self._take_refusals():
            self._waiting = None
            waiting.callback(Output(Stream.STDOUT, refusals))

    def _lose(self, problem: Broken, data: bytes) -> bytes:
        """It cannot be followed any more; what of the data still goes on."""
        self._watching = False
        self._book.files.lose("it is not watched any more")
        self._log.unwatched(str(problem))
        if not self._reader:
            return data
        self._error = NotSFTP(str(problem))
        return b""

    # The rest is the guest's.

    def end(self) -> Deferred[None]:
        return self._process.end()

    def resize(self, window: Window) -> None:
        self._process.resize(window)

    def signal(self, name: str) -> None:
        self._process.signal(name)

    def deaf(self) -> None:
        self._process.deaf()

    def close(self) -> None:
        if self._watching:
            self._watching = False
            self._book.files.lose("the session ended before the file was closed")
        self._process.close()
