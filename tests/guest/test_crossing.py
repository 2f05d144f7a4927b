"""Where asyncio meets Deferreds: results, errors, and cancellation both ways."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred, succeed

from gateway.guest.crossing import as_future, deferred, settled, threaded


async def answer(value: int) -> int:
    await asyncio.sleep(0)
    return value


@pytest_twisted.ensureDeferred
async def test_a_coroutines_result_and_error_arrive() -> None:
    async def fail() -> None:
        raise LookupError("no")

    assert await deferred(answer(5)) == 5
    with pytest.raises(LookupError):
        await deferred(fail())


@pytest_twisted.ensureDeferred
async def test_cancelling_the_deferred_cancels_the_coroutine() -> None:
    released = Deferred()

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            released.callback("released")
            raise

    waiting = deferred(wait())
    await deferred(answer(0))  # let it begin
    waiting.cancel()
    with pytest.raises(CancelledError):
        await waiting
    assert await released == "released"


@pytest_twisted.ensureDeferred
async def test_a_coroutine_cancelled_by_asyncio_is_a_cancelled_deferred() -> None:
    async def give_up() -> None:
        raise asyncio.CancelledError

    with pytest.raises(CancelledError):
        await deferred(give_up())


@pytest_twisted.ensureDeferred
async def test_what_came_too_late_is_discarded() -> None:
    discarded: Deferred[int] = Deferred()

    async def stubborn() -> int:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return 7

    waiting = deferred(stubborn(), discarded.callback)
    await deferred(answer(0))
    waiting.cancel()
    with pytest.raises(CancelledError):
        await waiting
    assert await discarded == 7


@pytest_twisted.ensureDeferred
async def test_a_future_takes_result_error_and_cancellation_of_a_deferred() -> None:
    async def program() -> None:
        assert await as_future(succeed(3)) == 3
        failing: Deferred[int] = Deferred()
        future = as_future(failing)
        failing.errback(LookupError("no"))
        with pytest.raises(LookupError):
            await future
        cancelled: Deferred[int] = Deferred()
        future = as_future(cancelled)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future

    await deferred(program())


@pytest_twisted.ensureDeferred
async def test_cancelling_the_future_cancels_the_deferred_behind_it() -> None:
    told: list[str] = []

    async def work() -> None:
        await Deferred(lambda _: told.append("cancelled"))

    async def program() -> None:
        task = asyncio.ensure_future(as_future(work()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)

    await deferred(program())
    assert told == ["cancelled"]


@pytest_twisted.ensureDeferred
async def test_a_blocking_function_runs_in_a_thread_and_can_be_given_up() -> None:
    assert await threaded(threading.current_thread) is not threading.current_thread()
    with pytest.raises(ZeroDivisionError):
        await threaded(lambda: 1 // 0)
    stuck = threading.Event()
    waiting = threaded(stuck.wait, 30)
    waiting.cancel()
    with pytest.raises(CancelledError):
        await waiting
    stuck.set()


@pytest_twisted.ensureDeferred
async def test_whatever_a_caller_gives_back_is_waited_for() -> None:
    async def twisted_one() -> int:
        return await succeed(2)

    assert await settled(1) == 1
    assert await settled(twisted_one()) == 2
    assert await settled(asyncio.ensure_future(answer(3))) == 3
    assert await settled(succeed(4)) == 4
