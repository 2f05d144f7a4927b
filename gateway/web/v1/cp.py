"""The cp socket of vmgate.v1: entries into a guest, or a tree out of it, by one connection."""

from __future__ import annotations

from twisted.internet.interfaces import IDelayedCall

from gateway.copy import DownloadSession, UploadSession
from gateway.entries import Entry, EntryError, Held, Hole, Outbound, Placed, UploadReport
from gateway.errors import BadRequest, GateError
from gateway.model import Operation, Outcome
from gateway.web.socket import Entrance, SocketFactory
from gateway.web.v1.assembly import Assembly
from gateway.web.v1.bundle import Bundle, Told
from gateway.web.v1.catalogue import ClientMessage, encode
from gateway.web.v1.entries import ENTRY_PRICE, Batch, Download, Finish, Ready, Report, Upload
from gateway.web.v1.message import MAX_FRAME, Channel, End, Problem
from gateway.web.v1.reader import first_of_cp
from gateway.web.v1.socket import V1Socket

CONTENT = bytes([Channel.CONTENT])


class V1Copy(V1Socket):
    """The front of one upload or one download; the first message says which. The last is `report`."""

    operation = Operation.DOWNLOAD  # what more principals may, until the first message says otherwise
    stream = Channel.CONTENT
    max_text = 1 << 20
    session: UploadSession | DownloadSession | None

    def __init__(self, factory: SocketFactory, entrance: Entrance) -> None:
        super().__init__(factory, entrance)
        # For the report.
        self._entries = self._moved = self._problems = 0
        # Into the guest.
        self._assembly = Assembly()
        self._complete = False
        # Out of it.
        self._bundle = Bundle(MAX_FRAME)
        self._soon: IDelayedCall | None = None

    # The client's messages.

    def begin(self, text: bytes) -> None:
        gate, visitor, instance = self.entrance.gate, self.entrance.visitor, self.entrance.instance
        first = first_of_cp(text)
        wait = min(first.terms.wait, self.entrance.max_wait)
        # At the upgrade the direction was not known: policy is asked about this one now.
        match first:
            case Upload():
                self.operation = Operation.UPLOAD
                instance = gate.enter(visitor, instance.id, Operation.UPLOAD)
                self.accept(gate.upload(visitor, instance, first.start, self, wait), first.terms)
            case Download():
                instance = gate.enter(visitor, instance.id, Operation.DOWNLOAD)
                self._bundle = Bundle(first.terms.frame)
                self.accept(gate.download(visitor, instance, first.start, self, wait), first.terms)

    def take_word(self, message: ClientMessage, size: int) -> None:
        session = self.session
        if not isinstance(session, UploadSession) or self._complete:
            raise BadRequest(message="nothing of a copy may be sent here")
        match message:
            case Finish():
                if not self._assembly.complete:
                    raise BadRequest(message="the last file's content is not complete")
                self._complete = True
                session.finish()
            case Entry() | Batch() | Hole() | End():
                price = 0
                if isinstance(message, Entry | Batch):
                    entries = len(message.entries) if isinstance(message, Batch) else 1
                    price = size + ENTRY_PRICE * entries
                    self.charge(price)
                for piece in self._assembly.take(message):
                    session.feed(piece, price)
                    price = 0
            case _:
                raise BadRequest(message="this message has no place here")

    def take_stream(self, data: bytes) -> None:
        session = self.session
        if not isinstance(session, UploadSession) or self._complete:
            raise BadRequest(message="nothing of a copy may be sent here")
        for piece in self._assembly.data(data):
            session.feed(piece, len(piece) if isinstance(piece, bytes) else 0)

    # The front of an upload.

    def ready(self, exists: bool, is_dir: bool) -> None:
        self.tell(Ready(exists, is_dir))

    def held(self, size: int) -> None:
        self.tell(Held(size))

    def placed(self, entries: int, size: int) -> None:
        self._entries, self._moved = entries, size
        self.tell(Placed(entries, size))

    def problem(self, error: EntryError) -> None:
        self._problems += 1
        self.tell(error)

    def uploaded(self, report: UploadReport) -> None:
        self._entries, self._moved, self._problems = report.entries, report.size, report.problems
        self._report(Outcome.COMPLETED)
        self.finish()

    # The front of a download.

    def write(self, piece: Outbound) -> None:
        """One piece of the tree; small ones wait for others that come at once."""
        self._count(piece)
        self._hand_over(self._bundle.take(piece))
        if self._bundle.waits and self._soon is None:
            self._soon = self._clock.callLater(0, self._flush)

    def _count(self, piece: Outbound) -> None:
        match piece:
            case bytes():
                self._moved += len(piece)
            case Hole():
                self._moved += piece.size
            case Entry():
                self._entries += 1
            case EntryError():
                self._problems += 1

    def _flush(self) -> None:
        self._soon = None
        if not self._deaf():
            self._hand_over(self._bundle.flush())

    def _hand_over(self, told: list[Told]) -> None:
        for item in told:
            match item:
                case bytes():
                    self.outflow.write(item, CONTENT)
                case Batch():
                    self._put(item, len(item.entries))
                case Entry():
                    self._put(item, 1)
                case _:
                    self.outflow.put(self.send_text, encode(item), 0)

    def _put(self, message: Entry | Batch, entries: int) -> None:
        text = encode(message)
        self.outflow.put(self.send_text, text, len(text) + ENTRY_PRICE * entries)

    def downloaded(self) -> None:
        # The final piece took all others with it.
        self._report(Outcome.COMPLETED)
        self.finish()

    # Both.

    def failed(self, error: GateError) -> None:
        self._report(error.outcome, Problem.of(error))
        self.finish(error.close_code)

    def _report(self, outcome: Outcome, error: Problem | None = None) -> None:
        entries, size, problems = self._entries, self._moved, self._problems
        self.tell(Report(outcome=outcome, entries=entries, size=size, problems=problems, error=error))
