"""The one place where asyncio and Deferreds meet, and where the two CancelledErrors are told apart.

Above this room everything that is awaited is a Deferred; inside, grpc.aio wants coroutines of the
running asyncio loop, which is the reactor's own. Twisted's CancelledError is an Exception, that of
asyncio a BaseException: they are mapped here, both ways, and nowhere else.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.python.failure import Failure

T = TypeVar("T")


def _loop() -> asyncio.AbstractEventLoop:
    """The reactor's loop: the running one, or before that (`task.react` calls its function first)
    the one that the reactor was made with."""
    return asyncio.get_event_loop()


def deferred(coroutine: Coroutine[Any, Any, T], discard: Callable[[T], object] | None = None) -> Deferred[T]:
    """Run a coroutine of asyncio; fires with what it returns or raises.

    Cancelling cancels the coroutine. One that returns nevertheless, because it was ready in the
    same turn of the loop, took something that nobody gets: that goes to `discard`.
    """
    task = _loop().create_task(coroutine)

    def cancel(_: Deferred[T]) -> None:
        task.cancel()

    result: Deferred[T] = Deferred(cancel)

    def done(task: asyncio.Task[T]) -> None:
        if task.cancelled():
            if not result.called:
                result.errback(CancelledError())
            return
        error = task.exception()  # asked also when nobody listens: asyncio logs what nobody asked for
        if result.called:
            if error is None and discard is not None:
                discard(task.result())
        elif error is not None:
            result.errback(error)
        else:
            result.callback(task.result())

    task.add_done_callback(done)
    return result


def as_future(work: Deferred[T] | Coroutine[Deferred[Any], Any, T]) -> asyncio.Future[T]:
    """A Deferred, or a coroutine that awaits Deferreds, as an asyncio Future; cancelling either
    cancels the other. For asyncio programs that use the library."""
    source: Deferred[T] = work if isinstance(work, Deferred) else Deferred.fromCoroutine(work)
    future: asyncio.Future[T] = _loop().create_future()

    def succeeded(value: T) -> None:
        if not future.done():
            future.set_result(value)

    def failed(failure: Failure) -> None:
        if future.done():
            return
        error = failure.value
        assert error is not None
        if isinstance(error, CancelledError):
            future.cancel()
        else:
            future.set_exception(error)

    future.add_done_callback(lambda done: source.cancel() if done.cancelled() else None)
    source.addCallbacks(succeeded, failed)
    return future


def threaded(function: Callable[..., T], *arguments: Any) -> Deferred[T]:
    """Run a blocking function in a thread of its own. Cancelling gives up the wait only. The
    thread is a daemon: a read that never returns does not hold up the program's end."""
    loop = _loop()
    result: Deferred[T] = Deferred(lambda _: None)

    def tell(fire: Callable[[Any], None], value: object) -> None:
        if not result.called:
            fire(value)

    def run() -> None:
        try:
            value = function(*arguments)
        except BaseException as error:
            call_in_loop(loop, tell, result.errback, error)
        else:
            call_in_loop(loop, tell, result.callback, value)

    threading.Thread(target=run, name="vmgate blocking call", daemon=True).start()
    return result


def call_in_loop(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *arguments: Any) -> None:
    """From another thread: call it in the loop, or forget it when the loop is gone."""
    try:
        loop.call_soon_threadsafe(function, *arguments)
    except RuntimeError:
        if not loop.is_closed():
            raise


def settled(value: Any) -> Deferred[Any]:
    """Whatever a caller's function gave back as a Deferred: a Deferred, an asyncio Future, a
    coroutine that awaits Deferreds, or a plain value."""
    if isinstance(value, Deferred):
        return value
    if isinstance(value, asyncio.Future):
        return deferred(_result(value))
    if inspect.iscoroutine(value):
        return Deferred.fromCoroutine(value)
    return succeed(value)


async def _result(future: asyncio.Future[T]) -> T:
    return await future
