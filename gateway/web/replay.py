"""Recordings by HTTP: a list, and a file or a part of one (RFC 9110 section 14), read from the disk as its client
takes it.

Who may is the gate's business, asked before; each request is asked anew, so that a reader who may not any more gets
no further part.
"""

from __future__ import annotations

import re

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from gateway.errors import NotFound, TimedOut
from gateway.gate import Gate, Visitor
from gateway.model import Instance, Operation
from gateway.recording.shelf import List, Reading, Shelf
from gateway.web.answers import argument, refusal, send, send_failure
from gateway.web.message import compact
from gateway.web.reception import Reception

KIND = b"application/x-asciicast"
DISK_TIME = 10.0  # seconds that the disk gets for one piece, or a list
RANGE = re.compile(rb"bytes=([0-9]{1,15})-([0-9]{0,15})")

log = Logger()


class Replay:
    """The two pages."""

    def __init__(self, gate: Gate, reception: Reception, shelf: Shelf | None, clock: IReactorTime) -> None:
        """No shelf = nothing is recorded: there is nothing, for whoever may see it."""
        self._clock = clock
        self._gate = gate
        self._reception = reception
        self._shelf = shelf

    def list(self, request: Request, name: str) -> int:
        """What there is of an instance, whatever its state."""
        _, instance, shelf = self._enter(request, name)
        coming = shelf.of(instance.id, argument(request, b"behind")).addCallback(_words)
        request.notifyFinish().addErrback(lambda _: coming.cancel())
        coming.addTimeout(DISK_TIME, self._clock, onTimeoutCancel=_too_slow)
        coming.addCallbacks(lambda body: send(request, body), lambda why: send_failure(request, why))
        return NOT_DONE_YET

    def one(self, session: str, request: Request, name: str) -> int:
        """What that session showed, or a part of it."""
        visitor, instance, shelf = self._enter(request, name)
        answered: Deferred[Reading] = Deferred(lambda _: None)  # what comes after its end is closed again
        request.notifyFinish().addErrback(lambda _: answered.cancel())

        def opened(reading: Reading) -> None:
            if answered.called:
                reading.close()
            else:
                answered.callback(reading)

        def show(reading: Reading) -> None:
            about = reading.about
            part = _send(request, reading, self._clock)
            if part is not None:
                self._gate.replayed(visitor, instance, about.session, about.file, part)

        shelf.open(instance.id, session).addCallbacks(
            opened, lambda why: None if answered.called else answered.errback(why)
        )
        answered.addTimeout(DISK_TIME, self._clock, onTimeoutCancel=_too_slow)
        answered.addCallbacks(show, lambda why: send_failure(request, why))
        return NOT_DONE_YET

    def may(self, visitor: Visitor, instance: Instance) -> bool:
        """Whether there is anything for it."""
        return self._shelf is not None and self._gate.may_replay(visitor, instance)

    def _enter(self, request: Request, name: str) -> tuple[Visitor, Instance, Shelf]:
        visitor = self._reception.visitor(request, Operation.REPLAY, name)
        instance = self._gate.enter(visitor, name, Operation.REPLAY, running=False)
        if self._shelf is None:
            raise NotFound("nothing is recorded")
        return visitor, instance, self._shelf


def _words(found: List) -> bytes:
    return compact({"recordings": [one.words() for one in found.found], "more": found.more})


def _send(request: Request, reading: Reading, clock: IReactorTime) -> tuple[int, int] | None:
    """Begin the answer, or the part that is asked for: from where, how many bytes. One range alone is understood,
    any other is as none (section 14.2); None for one that lies behind the end."""
    asked = RANGE.fullmatch(request.getHeader(b"range") or b"")
    begin, end = 0, reading.size
    if asked:
        begin, end = int(asked[1]), min(int(asked[2]) + 1 if asked[2] else reading.size, reading.size)
        if begin >= end:
            reading.close()
            request.setHeader(b"content-range", b"bytes */%d" % reading.size)
            request.write(refusal(request, 416, "bad_range", "the recording is not that long"))
            request.finish()
            return None
        request.setHeader(b"content-range", b"bytes %d-%d/%d" % (begin, end - 1, reading.size))
    request.setResponseCode(206 if asked else 200)
    for header, value in {
        b"accept-ranges": b"bytes", b"content-type": KIND, b"content-length": b"%d" % (end - begin),
        b"cache-control": b"no-store", b"x-content-type-options": b"nosniff",
    }.items():  # fmt: skip
        request.setHeader(header, value)
    Part(request, reading, (begin, end), clock).resumeProducing()
    return begin, end - begin


@implementer(IPushProducer)
class Part:
    """Bytes on their way from the disk to a client: a piece at a time, and none while the client takes none."""

    def __init__(self, request: Request, reading: Reading, part: tuple[int, int], clock: IReactorTime) -> None:
        self._request = request
        self._reading = reading
        self._at, self._end = part
        self._clock = clock
        self._late: IDelayedCall | None = None
        self._paused = True
        self._busy = False
        self._over = False
        request.notifyFinish().addErrback(lambda _: self.stopProducing())
        request.registerProducer(self, True)

    def resumeProducing(self) -> None:
        self._paused = False
        self._go_on()

    def pauseProducing(self) -> None:
        self._paused = True

    def stopProducing(self) -> None:
        """The client went."""
        self._over = True
        if not self._busy:
            self._reading.close()

    def _go_on(self) -> None:
        if self._busy or self._paused or self._over:
            return
        self._busy = True
        self._late = self._clock.callLater(DISK_TIME, self._break_off, "the disk is too slow")
        piece: Deferred[bytes] = self._reading.read(self._at, self._end - self._at)
        piece.addBoth(self._came)

    def _came(self, piece: bytes | Failure) -> None:
        self._busy = False
        if self._late is not None and self._late.active():
            self._late.cancel()
        if self._over:
            self._reading.close()
        elif isinstance(piece, Failure) or not piece:
            self._break_off(piece.value if isinstance(piece, Failure) else "it is shorter than it was")
        else:
            self._at += len(piece)
            self._request.write(piece)
            self._finish() if self._at == self._end else self._go_on()

    def _finish(self) -> None:
        self._over = True
        self._reading.close()
        self._request.unregisterProducer()
        self._request.finish()

    def _break_off(self, why: object) -> None:
        """What was promised and cannot be kept is a broken connection, as HTTP has it."""
        log.error("A recording cannot be read: {why!s}", why=why)
        self.stopProducing()
        self._request.channel.forceAbortClient()


def _too_slow(result: object, seconds: float) -> object:
    if isinstance(result, Failure) and result.check(CancelledError):
        raise TimedOut(what="The disk's answer", seconds=f"{seconds:.0f}")
    return result
