"""The cp socket: one file or directory into a guest, or one tree out of it."""

from __future__ import annotations

from gateway.copy import DownloadSession, UploadSession
from gateway.entries import Entry, EntryEnd, EntryError, Outbound, UploadReport
from gateway.errors import BadRequest, GateError, GuestFailed
from gateway.model import Operation
from gateway.web.message import MAX_WORDS, CopyFrom, CopyTo, copy_words, is_copy_end, parse_cp
from gateway.web.socket import Socket


class CopySocket(Socket):
    """The front of one upload or one download; the first message says which."""

    operation = Operation.DOWNLOAD  # what more principals may, until the first message says otherwise
    session: UploadSession | DownloadSession | None
    _path = ""
    _complete = False
    _problem: EntryError | None = None

    # The client's messages.

    def begin(self, text: bytes) -> None:
        match parse_cp(text):
            case CopyTo() as copy:
                self._upload(copy)
            case CopyFrom() as copy:
                self._download(copy)

    def _upload(self, copy: CopyTo) -> None:
        self._path = copy.start.path
        self.operation = Operation.UPLOAD
        gate, visitor = self.entrance.gate, self.entrance.visitor
        # At the upgrade the direction was not known: policy is asked about this one now.
        instance = gate.enter(visitor, self.entrance.instance.id, Operation.UPLOAD)
        wait = min(copy.wait, self.entrance.max_wait)
        session = gate.upload(visitor, instance, copy.start, self, wait)
        session.feed(copy.entry, 0)
        self.session = session

    def _download(self, copy: CopyFrom) -> None:
        self._path = copy.start.path
        entrance = self.entrance
        wait = min(copy.wait, entrance.max_wait)
        self.session = entrance.gate.download(entrance.visitor, entrance.instance, copy.start, self, wait)

    def take_bytes(self, data: bytes) -> None:
        if isinstance(self.session, UploadSession) and not self._complete:
            self.inflow.hold(len(data))
            self.session.feed(data)

    def take_text(self, text: bytes) -> None:
        if not isinstance(self.session, UploadSession) or self._complete:
            return
        if is_copy_end(text):
            self._complete = True
            self.session.feed(EntryEnd(), 0)
            self.session.finish()
        else:
            self.take_long_text(text)

    def take_long_text(self, start: bytes) -> None:
        """A text that is no end could have been meant as data: the file would not be what was sent."""
        if isinstance(self.session, UploadSession):
            self.session.end(BadRequest(message='a text message must be {"type":"end"}'))

    def take_empty(self) -> None:
        """No bytes more of the file."""

    # The session's front.

    def ready(self, exists: bool, is_dir: bool) -> None:
        """The contract has no word for it, as for the next two."""

    def held(self, size: int) -> None:
        """Nothing was asked to be gone on with."""

    def placed(self, entries: int, size: int) -> None:
        """The report follows."""

    def problem(self, error: EntryError) -> None:
        self._problem = error

    def uploaded(self, report: UploadReport) -> None:
        if self._problem is None:
            self.say({"type": "result", "success": True, "bytes_written": report.size})
            self.finish()
        else:
            self.failed(GuestFailed(message=self._problem.message))

    def write(self, piece: Outbound) -> None:
        """One piece of the tree."""
        if isinstance(piece, Entry | EntryEnd | EntryError):
            self.say(copy_words(piece))
        elif isinstance(piece, bytes) and piece:
            self.outflow.write(piece)

    def downloaded(self) -> None:
        self.finish()

    def failed(self, error: GateError) -> None:
        if isinstance(self.session, UploadSession):
            self.say({"type": "result", "success": False, "error": error.sentence[:MAX_WORDS]})
            self.finish()
        else:
            self.refuse(error)

    def refuse(self, error: GateError) -> None:
        self.say(copy_words(EntryError(error.sentence, self._path)))
        self.finish()
