"""What Python programs use: processes and copies in a guest, without a front and without a gate.

Every function is `async def` in Twisted's sense: it awaits Deferreds, under the asyncio reactor
(docs/library.md). Nobody is asked for a permission here: who may open the guest's socket may
enter. All take `pool`, by default one for the whole program, and `metrics`, by default none.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from gateway.disk.destination import Destination
from gateway.disk.source import Source
from gateway.doors import Guest
from gateway.entries import Stat
from gateway.errors import GateError
from gateway.eventlog import EventLog
from gateway.events import Events, SessionStarted
from gateway.guest.caller import Caller, ExecOptions
from gateway.guest.pool import Pool
from gateway.guest.tree import Copy, CopyReport, OnFile
from gateway.guest.vsock import Dialer
from gateway.metrics import Metrics
from gateway.model import Ending, Operation, Outcome, Via
from gateway.session import ExecSession

R = TypeVar("R")

ExitStatus = Ending  # how a command ended: `code` always, `signal` when one did it

_shared: Pool | None = None


def shared_pool() -> Pool:
    """The program's own pool, made when first asked for and closed when the reactor stops."""
    global _shared  # noqa: PLW0603 - one for the program, as the reactor is
    if _shared is None:
        # Here and not above: importing a library must not choose the program's reactor.
        from twisted.internet import reactor  # noqa: PLC0415

        _shared = Pool(Events(), reactor)
        reactor.addSystemEventTrigger("before", "shutdown", _shared.close)
    return _shared


async def get_or_create_conn(dialer: Dialer, *, wait_for_agent: float = 0, pool: Pool | None = None) -> Guest:
    """The guest that this dialer reaches, its channel open; shared by all who ask for the same
    key. Raises AgentVSockDialError, GuestBooting among them, with the cause as `__cause__`."""
    pool = pool or shared_pool()
    await pool.way(dialer.key, dialer).channel(wait_for_agent)
    return pool.reach(dialer.key, dialer)


def close_conn(key: str, *, pool: Pool | None = None) -> None:
    """Let go of the channel of that key; its calls get GuestLost. Idempotent."""
    (pool or shared_pool()).drop(key)


async def close_conns(*, pool: Pool | None = None) -> None:
    """Let go of every channel; returns when their sockets and threads are gone. The shared pool
    does this by itself when the reactor stops."""
    await (pool or shared_pool()).close()


async def exec_into_instance(
    dialer: Dialer, options: ExecOptions, *, pool: Pool | None = None, metrics: Metrics | None = None
) -> ExitStatus:
    """Run a command to its end. Cancelling hangs it up.

    Raises AgentVSockDialError, GuestLost, GuestLacks, GuestFailed or BadRequest, and what the
    program's own stdin, stdout, stderr and resizes raise.
    """
    pool = pool or shared_pool()
    guest = pool.reach(dialer.key, dialer)
    log = _log(Operation.EXEC, dialer, pool, metrics)
    caller = Caller(options, pool.clock)
    caller.session = ExecSession(
        caller,
        lambda: guest.start(options.request(), session_id=log.start.session_id, wait=options.wait_for_agent),
        log,
        pool.clock,
        options.timeout,
    )
    over = caller.session.run()
    status = await caller.ending
    await over
    return status


async def copy_to_instance(
    dialer: Dialer,
    local_path: str | os.PathLike[str],
    guest_path: str,
    mode: int | None = None,
    *,
    follow_links: bool = False,
    owners: bool = False,
    resume: bool = False,
    wait_for_agent: float = 0,
    pool: Pool | None = None,
    metrics: Metrics | None = None,
) -> CopyReport:
    """Copy a file to exactly `guest_path`, or a directory with all below it, in one stream.

    `mode` is given to the files in place of their own. Symlinks stay symlinks unless they are to be
    followed; hard links, holes and times are kept, owners on demand. With `resume` what a broken
    copy left of a large file is gone on with, when the file is still what it was. What is neither
    file, directory nor symlink, and what could not be copied, is left out and told in the report;
    GuestFailed when there was nothing else. Raises as `exec_into_instance`, and OSError when there
    is nothing at `local_path`.
    """
    source = Source(Path(local_path), mode=mode, owners=owners, resume=resume, follow_links=follow_links)

    def work(copy: Copy) -> Awaitable[CopyReport]:
        return copy.put(source, guest_path)

    return await _copy(Operation.UPLOAD, work, dialer, wait_for_agent, pool, metrics)


async def copy_from_instance(
    dialer: Dialer,
    guest_path: str,
    target: OnFile | str | os.PathLike[str],
    *,
    follow_links: bool = False,
    owners: bool = False,
    wait_for_agent: float = 0,
    pool: Pool | None = None,
    metrics: Metrics | None = None,
) -> CopyReport:
    """Copy a file or a tree out of a guest, to exactly the local path `target`, whose directory is
    there; or, where that is a function, call it: `target(entry, content)` for each entry, parents
    first, the next when what it gave back has fired.

    On the disk each file is whole or not there, nothing is written outside of `target`, and no link
    below it is followed, whatever the guest sends. Owners, setuid and setgid bits are set on demand.

    A function's `content` is an async iterator of bytes; what is not taken of it is dropped.
    `entry.path` is relative and does not climb, but an entry may lie below a symlink that an earlier
    one told of: who writes to disk must not follow those.

    What could not be copied is told in the report; GuestFailed when there was nothing else. Raises
    as `exec_into_instance`, and OSError when the directory of `target` cannot be used.
    """

    def work(copy: Copy) -> Awaitable[CopyReport]:
        if isinstance(target, str | os.PathLike):
            return copy.fetch(guest_path, Destination(Path(target), owners=owners), follow_links)
        return copy.get(guest_path, target, follow_links)

    return await _copy(Operation.DOWNLOAD, work, dialer, wait_for_agent, pool, metrics)


async def stat_path(
    dialer: Dialer, path: str, *, follow_links: bool = False, wait_for_agent: float = 0, pool: Pool | None = None
) -> Stat:
    """What is at a path of the guest. Raises as `exec_into_instance`."""
    guest = (pool or shared_pool()).reach(dialer.key, dialer)
    return await guest.stat(path, follow_links=follow_links, wait=wait_for_agent)


async def _copy(
    operation: Operation,
    work: Callable[[Copy], Awaitable[CopyReport]],
    dialer: Dialer,
    wait: float,
    pool: Pool | None,
    metrics: Metrics | None,
) -> CopyReport:
    pool = pool or shared_pool()
    log = _log(operation, dialer, pool, metrics)
    try:
        report = await work(Copy(pool.reach(dialer.key, dialer), log, wait))
    except GateError as error:
        log.ended(error.outcome, str(error))
        raise
    except BaseException as error:
        log.ended(Outcome.FAILED, type(error).__name__)
        raise
    log.ended(Outcome.COMPLETED)
    return report


def _log(operation: Operation, dialer: Dialer, pool: Pool, metrics: Metrics | None) -> EventLog:
    start = SessionStarted(
        session_id=secrets.token_hex(8),
        via=Via.LIBRARY,
        subject="",
        instance_id=dialer.key,
        operation=operation,
        peer="",
    )
    return EventLog(Events([metrics] if metrics is not None else []), start, pool.clock)
