"""The parent of every session's process: forks them, tells how they ended, and ends them.

One thread, no gRPC: forking is safe here and nowhere else in the agent. Takes orders from a socket
(start, end, release) and answers on it (pid or refusal, later the wait status). A leader stays a
zombie until the agent releases it, so its pid, which is also its session's id, is nobody else's
while anybody may still signal it. The end of the socket is the end of the agent: then every session
is ended, and the launcher exits. It never waits for anything but its selector.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import logging
import os
import resource
import selectors
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from agent import census, order
from agent.child import become
from agent.root import Root
from agent.spawn import spawned

TICK = 0.1  # seconds between two looks at sessions that are being ended
SWEEP = 1.0  # at least so many seconds between two looks for dead strangers
HUP_AT, TERM_AT, KILL_AT, GIVE_UP_AT = 0.0, 1.0, 3.0, 10.0  # seconds since a session's end began
OPEN_FILES = 1 << 16

PR_SET_NAME, PR_SET_CHILD_SUBREAPER = 15, 36  # prctl(2)

_log = logging.getLogger("launcher")


@dataclass(slots=True, eq=False)
class Leader:
    """The first process of a session, and how far the session is."""

    id: int
    pid: int
    pidfd: int
    report: int  # what the child says before exec; -1 once that is over
    ended: bool = False  # a zombie that we keep
    released: bool = False  # the agent is done with it
    ending: Ending | None = None


@dataclass(slots=True)
class Ending:
    """HUP, TERM, KILL, all within five seconds, to whatever bears the session's id."""

    since: float
    sent: set[int] = field(default_factory=set)

    def due(self, now: float) -> int | None:
        """The signal to send now, if any. KILL every time, for those that appeared meanwhile."""
        age = now - self.since
        if age >= KILL_AT:
            return signal.SIGKILL
        for at, number in ((TERM_AT, signal.SIGTERM), (HUP_AT, signal.SIGHUP)):
            if age >= at:
                if number in self.sent:
                    return None
                self.sent.add(number)
                return number
        return None

    def hopeless(self, now: float) -> bool:
        """Even KILL does not reach some: they hang in the kernel."""
        return now - self.since >= GIVE_UP_AT


class Launcher:
    """The loop. Everything happens in `run`, one step at a time."""

    def __init__(self, sock: socket.socket, root: Root) -> None:
        self._sock = sock
        self._root = root
        self._files = raise_limit()  # what every child gets back
        self._selector = selectors.DefaultSelector()
        self._leaders: dict[int, Leader] = {}  # by id
        self._closing = False
        self._strangers = False  # a child died: perhaps one that we did not start
        self._swept = 0.0
        self._wake, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._watch(self._sock, self._order)
        self._watch(self._wake, self._child_died)

    def _watch(self, file: socket.socket | int, call: Callable[[], None]) -> None:
        self._selector.register(file, selectors.EVENT_READ, call)

    def run(self) -> None:
        """Until the agent is gone and every session ended."""
        while not (self._closing and not self._leaders):
            for key, _ in self._selector.select(self._patience()):
                key.data()
            now = time.monotonic()
            self._end_some(now)
            self._sweep(now)

    def _patience(self) -> float | None:
        if any(leader.ending for leader in self._leaders.values()):
            return TICK
        return SWEEP if self._strangers else None

    # Orders.

    def _order(self) -> None:
        try:
            message, fds = order.receive(self._sock)
        except (EOFError, OSError):
            self._close()
            return
        try:
            self._obey(message, fds)
        finally:
            for fd in fds:
                os.close(fd)

    def _obey(self, message: dict[str, Any], fds: Sequence[int]) -> None:
        leader = self._leaders.get(message["id"])
        match message["do"]:
            case "start":
                self._start(message["id"], fds, message["fds"])
            case "end" if leader is not None:
                self._end(leader)
            case "release" if leader is not None:
                leader.released = True
                self._bury(leader)

    def _start(self, id: int, fds: Sequence[int], expected: int) -> None:
        try:
            if len(fds) != expected:  # the kernel drops descriptors that we have no room for
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            start = order.unpack(fds[0])
            leader = _spawn(id, start, fds[1:], self._files, self._root)
            if leader is None:
                leader = _fork(id, start, fds[1:], self._files, self._root)
        except OSError as error:
            self._answer({"id": id, "stage": "fork", "errno": error.errno})
            return
        self._leaders[id] = leader
        if leader.report < 0:
            self._answer({"id": id, "pid": leader.pid})
        else:
            self._watch(leader.report, lambda: self._reported(leader))
        self._watch(leader.pidfd, lambda: self._ended(leader))

    def _answer(self, message: dict[str, object]) -> None:
        try:
            order.send(self._sock, message)
        except OSError:
            self._close()

    # What becomes of the children.

    def _reported(self, leader: Leader) -> None:
        """The child executed (its end of the pipe closed), or tells why it could not."""
        if leader.report < 0:
            return  # told in this very round by its end
        words = os.read(leader.report, 256).split()
        self._selector.unregister(leader.report)
        os.close(leader.report)
        leader.report = -1
        if words:
            leader.released = True
            self._answer({"id": leader.id, "stage": words[0].decode(), "errno": int(words[1])})
        else:
            self._answer({"id": leader.id, "pid": leader.pid})

    def _ended(self, leader: Leader) -> None:
        """The leader is a zombie now; it stays one until nobody can signal it any more."""
        self._reported(leader)
        self._selector.unregister(leader.pidfd)
        os.close(leader.pidfd)
        leader.ended = True
        info = os.waitid(os.P_PID, leader.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        assert info is not None
        if not leader.released:
            self._answer({"id": leader.id, "how": info.si_code, "status": info.si_status})
        self._bury(leader)

    def _bury(self, leader: Leader) -> None:
        """Reap it, once it ended, the agent is done with it and its session need not be ended."""
        if leader.ended and leader.released and leader.ending is None:
            os.waitpid(leader.pid, 0)
            del self._leaders[leader.id]

    def _child_died(self) -> None:
        os.read(self._wake, 4096)
        self._strangers = True

    def _sweep(self, now: float) -> None:
        """Reap the orphans that came to us as the nearest subreaper. Not by waiting for any child:
        that would find the zombies we keep, again and again."""
        if not self._strangers or now - self._swept < SWEEP:
            return
        self._strangers, self._swept = False, now
        ours = {leader.pid for leader in self._leaders.values()}
        for resident in census.residents():
            if resident.dead and resident.parent == os.getpid() and resident.pid not in ours:
                os.waitpid(resident.pid, os.WNOHANG)

    # Endings.

    def _close(self) -> None:
        """The agent is gone: end what it left behind."""
        if self._closing:
            return
        self._closing = True
        self._selector.unregister(self._sock)
        for leader in list(self._leaders.values()):
            leader.released = True
            self._end(leader)

    def _end(self, leader: Leader) -> None:
        if leader.ending is None:
            leader.ending = Ending(time.monotonic())

    def _end_some(self, now: float) -> None:
        """The next step of every session that is being ended: one look at /proc for all of them."""
        endings = [leader for leader in self._leaders.values() if leader.ending is not None]
        if not endings:
            return
        living = census.members(*(leader.pid for leader in endings))
        for leader in endings:
            ending = leader.ending
            assert ending is not None
            pids = set(living[leader.pid])
            if not leader.ended:
                pids.add(leader.pid)  # a child so young that it has no session of its own yet
            if pids and ending.hopeless(now):
                _log.error("Session of pid %d: %d processes cannot be killed", leader.pid, len(pids))
                pids.clear()
            elif pids and (number := ending.due(now)) is not None:
                # The leader first: its death is to be the signal's, not the end of its children.
                _signal(sorted(pids, key=lambda pid: pid != leader.pid), number)
            if not pids:
                leader.ending = None
                self._bury(leader)


def _spawn(id: int, start: order.Start, fds: Sequence[int], files: tuple[int, int], root: Root) -> Leader | None:
    """What `start` says, where it can be had without a fork. Raises OSError, and then there is none."""
    pid = spawned(start, fds, files, root)
    if pid is None:
        return None
    try:
        return Leader(id, pid, os.pidfd_open(pid), -1)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _fork(id: int, start: order.Start, fds: Sequence[int], files: tuple[int, int], root: Root) -> Leader:
    """The child that becomes what `start` says. Raises OSError, and then there is none."""
    report, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        pid = os.fork()
        if pid == 0:
            become(start, fds, theirs, files, root)
        try:
            return Leader(id, pid, os.pidfd_open(pid), report)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
    except OSError:
        os.close(report)
        raise
    finally:
        os.close(theirs)


def _signal(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
            # A stopped process takes no other signal than KILL before it goes on.
            if number != signal.SIGKILL:
                os.kill(pid, signal.SIGCONT)
        except (ProcessLookupError, PermissionError):
            continue


def raise_limit() -> tuple[int, int]:
    """Have as many open files as we may; a session costs a few. Gives the limits that were."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < OPEN_FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(OPEN_FILES, hard), hard))
    return soft, hard


def launch(root: Root) -> socket.socket:
    """Fork the launcher, whose children live in `root`; the agent's end of its socket. To be called before
    there is any thread."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        _main(theirs, root)
    theirs.close()
    return ours


def rename(name: bytes) -> None:
    """What ps(1) calls this process; at most 15 bytes."""
    ctypes.CDLL(None).prctl(PR_SET_NAME, name, 0, 0, 0)


def take_signals() -> None:
    """What ends the agent's process group (Ctrl-C, a service manager) must not end us before the sessions: we
    go when the agent went. Nothing is ignored or blocked, by us or by whoever started the agent (a shell's
    `&`, nohup): what we execute would inherit that."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    for number in (
        signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE, signal.SIGCHLD,
    ):  # fmt: skip
        signal.signal(number, lambda *_: None)


def _main(sock: socket.socket, root: Root) -> NoReturn:
    code = 1
    try:
        take_signals()
        _leave_behind(sock, root)
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        rename(b"vmgate-launcher")
        gc.freeze()  # forks then share these pages for good
        Launcher(sock, root).run()
        code = 0
    except BaseException:
        _log.exception("The launcher failed")
    finally:
        os._exit(code)


def _leave_behind(sock: socket.socket, root: Root) -> None:
    """Close what was inherited for the agent, such as a listening socket."""
    kept = {0, 1, 2, sock.fileno(), root.parent, root.namespace}
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd not in kept:
            try:
                os.close(fd)
            except OSError:
                continue
