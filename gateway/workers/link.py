"""One stream between the gateway and one worker: words and questions, each a JSON list behind its length.

Both ends are ours, and of one version. What is bounded is the harm of an end that dies or hangs: a message that
is cut off is never taken, and an end that takes nothing, or answers nothing, for PATIENCE is given up.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.internet.unix import Server
from twisted.logger import Logger
from twisted.protocols.basic import Int32StringReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway.errors import GateError
from gateway.workers.words import Plain, built_error, plain_error

PATIENCE = 30.0  # seconds
MAX_MESSAGE = 64 << 20  # bytes: the largest is a list of instances
GONE = "its other process is gone"
ANSWER, REFUSAL = "answer", "refusal"

# Does what a word says. What it gives, or its Deferred does, answers a question; GateError and NotNow refuse it.
Take = Callable[[str, Plain], object]


class Link(Int32StringReceiver):
    """One end. A message is [word, what about, number]; the number is a question's, and comes back with its
    answer."""

    MAX_LENGTH = MAX_MESSAGE
    _log = Logger()

    def __init__(self, clock: IReactorTime, take: Take, lost: Callable[[], None]) -> None:
        """`lost` is called once, when there is no other end any more."""
        self.clock = clock
        self._take = take
        self._lost = lost
        self._asked = 0
        self._questions: dict[int, tuple[Deferred[Any], IDelayedCall]] = {}

    def tell(self, word: str, about: Plain = None) -> None:
        """Say it. Nothing, when nobody is there any more."""
        self._send(word, about, 0)

    def ask(self, word: str, about: Plain = None) -> Deferred[Any]:
        """Say it, and be answered. Raises what the other end raised, and GateError when it is gone."""
        if not self.connected:
            return fail(GateError(GONE))
        self._asked += 1
        answer: Deferred[Any] = Deferred()
        self._questions[self._asked] = answer, self.clock.callLater(PATIENCE, self.drop)
        self._send(word, about, self._asked)
        return answer

    def drop(self) -> None:
        """Let go of the other end. Idempotent."""
        if self.transport is not None:
            cast(Server, self.transport).abortConnection()

    def _send(self, word: str, about: Plain, number: int) -> None:
        if self.connected:
            self.sendString(json.dumps([word, about, number]).encode("ascii"))

    # From the transport.

    def connectionMade(self) -> None:
        cast(Server, self.transport).registerProducer(Outflow(self), True)

    def stringReceived(self, string: bytes) -> None:
        try:
            word, about, number = json.loads(string)
            if word in (ANSWER, REFUSAL):
                self._answered(word, about, number)
            elif number:
                maybeDeferred(self._take, word, about).addCallbacks(
                    lambda answer: self._send(ANSWER, answer, number),
                    lambda failure: self._send(REFUSAL, self._refused(failure), number),
                )
            else:
                self._take(word, about)
        except Exception:
            self._log.failure("A message between the gateway and a worker met a mistake of ours")

    def _refused(self, failure: Failure) -> Plain:
        refusal = plain_error(failure.value or GateError())
        if not refusal["is"]:
            self._log.failure("A question of a worker met a mistake of ours", failure)
        return refusal

    def _answered(self, word: str, about: Plain, number: int) -> None:
        answer, late = self._questions.pop(number)
        late.cancel()
        if word == ANSWER:
            answer.callback(about)
        else:
            answer.errback(built_error(about))

    def lengthLimitExceeded(self, length: int) -> None:
        """None of ours is that long."""
        self.drop()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.connected = 0
        questions, self._questions = self._questions, {}
        for answer, late in questions.values():
            if late.active():
                late.cancel()
            answer.errback(GateError(GONE))
        self._lost()


@implementer(IPushProducer)
class Outflow:
    """What is told when the other end does not take what it is sent, and when it does again."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._late: IDelayedCall | None = None

    def pauseProducing(self) -> None:
        """More waits than the socket and a buffer hold."""
        self._late = self._late or self._link.clock.callLater(PATIENCE, self._link.drop)

    def resumeProducing(self) -> None:
        """All is on its way."""
        if self._late is not None and self._late.active():
            self._late.cancel()
        self._late = None

    def stopProducing(self) -> None:
        """It is gone."""
        self.resumeProducing()
