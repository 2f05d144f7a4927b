"""What may block is done aside: in a thread of its own for each call, which a disk or a daemon that hangs may keep.
Nobody waits for it at the end."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

T = TypeVar("T")


def aside(reactor: IReactorFromThreads, work: Callable[[], T]) -> Deferred[T]:
    """What the work gives or raises. Given up, it goes on, and nobody hears of it."""
    done: Deferred[T] = Deferred(lambda _: None)

    def tell(result: T | Failure) -> None:
        if not done.called:
            done.callback(result)

    def run() -> None:
        try:
            result: T | Failure = work()
        except Exception:
            result = Failure()
        reactor.callFromThread(tell, result)

    Thread(target=run, name="vmgate source", daemon=True).start()
    return done
