"""Both directions of one session side by side: what was asked, in its order, and what was answered.

Bounded: a client that has asked for much without an answer is held back; one that keeps too much open,
and bytes that are no sftp, are Broken. For a reader (who may only read files) requests that would
change anything end here, and their answer takes its place among the guest's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from gateway.eventlog import EventLog
from gateway.sftp import wire
from gateway.sftp.asked import Asked, Files, Greeting, asked
from gateway.sftp.frames import HANDLE, Broken, Fields, Frames
from gateway.sftp.rights import harmless

WAITING = 256 << 10  # bytes that requests without an answer count for; then no more go on
OPEN = 1 << 20  # bytes that open files count for
WORDS = 256  # bytes of a status's message


class Book:
    """What was asked and is not answered."""

    def __init__(self, log: EventLog) -> None:
        self.files = Files(log)
        self._asked: deque[Asked] = deque()
        self._size = 0
        self._answering = False  # the guest's answer is not over yet
        self._refusals: list[bytes] = []  # answers of ours whose turn came
        self._refused = 0  # bytes that these count for, until they are taken

    @property
    def full(self) -> bool:
        """Whether the client is to wait."""
        return self._size >= WAITING

    def ask(self, question: Asked) -> None:
        """The guest is asked this."""
        self._asked.append(question)
        self._size += question.size

    def refuse(self, question: Asked) -> None:
        """It is not; we answer when all that came before is answered."""
        question.refused = True
        question.refuse(self.files)
        self.ask(question)
        self.settle()

    def answer(self, kind: int, number: int, beginning: bytes) -> None:
        """The guest answers. Raises Broken."""
        if not self._asked:
            raise Broken("the guest answered what nobody asked")
        question = self._asked.popleft()  # never a refused one: those go as soon as they are first
        self._size -= question.size
        self._answering = True
        if number != question.number and kind != wire.VERSION:
            raise Broken("the guest answered in another order than it was asked")
        fields = Fields(beginning)
        if kind == wire.STATUS:
            code = fields.u32()
            question.status(self.files, code, fields.string(WORDS).decode(errors="replace"))
        elif (kind not in question.answers) if question.answers else (kind == wire.VERSION):
            raise Broken("the guest's answer is of another kind than the question")
        else:
            question.done(self.files, fields)
            if self.files.size > OPEN:
                raise Broken("too many files are open at once")

    def answered(self) -> None:
        """The guest's answer is over."""
        self._answering = False
        self.settle()

    def settle(self) -> None:
        """Let the turn of our own answers come. Until they are taken they count as waiting."""
        while self._asked and self._asked[0].refused and not self._answering:
            question = self._asked.popleft()
            self._refused += question.size
            self._refusals.append(wire.refusal(question.number))

    def refusals(self) -> bytes:
        """Answers of ours that are to go out now."""
        if not self._refusals:
            return b""
        told, self._refusals = b"".join(self._refusals), []
        self._size -= self._refused
        self._refused = 0
        return told


class Requests(Frames):
    """From the client to the guest."""

    wanted: Mapping[int, int] = {wire.WRITE: 9 + 4 + HANDLE + 12}

    def __init__(self, book: Book, *, reader: bool) -> None:
        super().__init__()
        self._book = book
        self._reader = reader
        self._greeted = False
        self._passing = True  # the packet that begun goes on
        self._onward: list[bytes] = []

    def take(self, data: bytes) -> bytes:
        """What of it goes on, now: of a reader's only what has been judged. Raises Broken."""
        self.feed(data)
        if not self._reader:
            return data
        onward, self._onward = self._onward, []
        return b"".join(onward)

    def begun(self, kind: int, request: int, beginning: bytes) -> None:
        if not self._greeted:
            if kind != wire.INIT:
                raise Broken("the client's first word is not INIT")
            question: Asked = Greeting(kind, request)
        else:
            question = asked(kind, request, beginning, self._book.files)
        self._passing = not (self._reader and self._greeted) or harmless(kind, beginning)
        self._greeted = True
        if self._passing:
            self._book.ask(question)
            if self._reader:
                self._onward.append(beginning)
        else:
            self._book.refuse(question)

    def more(self, data: bytes, begin: int, end: int) -> None:
        if self._reader and self._passing:
            self._onward.append(data[begin:end])


class Answers(Frames):
    """From the guest to the client."""

    wanted: Mapping[int, int] = {
        wire.VERSION: 9,
        wire.STATUS: 9 + 4 + 4 + WORDS,
        wire.HANDLE: 9 + 4 + HANDLE,
        wire.DATA: 9 + 4,
        wire.NAME: 9,
        wire.ATTRS: 9,
        wire.EXTENDED_REPLY: 9,
    }

    def __init__(self, book: Book) -> None:
        super().__init__()
        self._book = book
        self._parts: list[bytes] = []
        self._data = b""
        self._done = 0  # bytes of what was fed that are in `_parts`

    def take(self, data: bytes) -> bytes:
        """What goes on: all of it, with our own answers where they belong. Raises Broken."""
        self._data, self._done = data, 0
        self.feed(data)
        self._data = b""
        if not self._parts:
            return data
        parts, self._parts = self._parts, []
        return b"".join((*parts, data[self._done :]))

    def begun(self, kind: int, request: int, beginning: bytes) -> None:
        self._book.answer(kind, request, beginning)

    def ended(self, at: int) -> None:
        self._book.answered()
        if refusals := self._book.refusals():
            self._parts += (self._data[self._done : at], refusals)
            self._done = at
