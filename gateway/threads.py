"""Threads for what may block: whatever hangs in them keeps nobody from leaving."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from threading import Thread
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

FLUSH = 5  # seconds that what is last to be written gets

_log = Logger()

T = TypeVar("T")


def thread(reactor: Any, name: str) -> Callable[[Callable[[], Any]], Deferred[Any]]:
    """Calls what it is given, one after another, in a thread of its own, that a hung disk may keep: nobody
    waits for it at the end."""
    pool = ThreadPool(0, 1, name)
    pool.threadFactory = partial(Thread, daemon=True)  # type: ignore[assignment]
    pool.start()
    return partial(deferToThreadPool, reactor, pool)


def aside(reactor: Any, work: Callable[[], T]) -> Deferred[T]:
    """What the work gives or raises, done in a thread for it alone, that a hung disk or daemon may keep. Given up, it
    goes on, and nobody hears of it."""
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

    Thread(target=run, name="vmgate aside", daemon=True).start()
    return done


async def written(reactor: Any, flushed: Deferred[None]) -> None:
    """Wait as long as a disk may take."""
    late = reactor.callLater(FLUSH, flushed.cancel)
    await flushed.addErrback(lambda _: _log.error("A disk is too slow: not all was written"))
    if late.active():
        late.cancel()
