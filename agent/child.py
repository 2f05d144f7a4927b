"""The steps between fork and exec: from a copy of the launcher to the process that was asked for.

Runs in a fresh fork of a single-threaded process and never returns: it executes the command, serves
a subsystem, or tells by a pipe at which step it failed, and exits. Also asks the user database,
so that a slow one holds up nobody else.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import resource
import signal
import sys
import termios
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from agent import copy, endpoint, motd, sftp
from agent.order import Refusal, Start
from agent.root import Root

DEFAULT_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHELL = b"/bin/sh"
REPORT_FD = 3

# Imported before the fork, and called in it: no exec, so no interpreter has to start.
SUBSYSTEMS: Mapping[str, Callable[[int, int], int]] = {
    "sftp": sftp.serve,
    endpoint.SUBSYSTEM: endpoint.serve,
    **copy.SUBSYSTEMS,
}


@dataclass(frozen=True, slots=True)
class Account:
    """A user of the guest, as passwd(5) tells it."""

    name: str
    uid: int
    gid: int
    home: bytes
    shell: bytes


def become(start: Start, fds: Sequence[int], report: int, files: tuple[int, int], root: Root) -> NoReturn:
    """Turn this process into what `start` says. `fds`: stdin, stdout, stderr, or a terminal alone;
    `files`: its limits of open files, soft and hard; `root`: where it lives, its users included.

    Nothing is written to `report` on success (exec closes it); else "stage errno".
    """
    code = 127
    try:
        os.setsid()
        _reset_signals()
        _go_to(root)
        report = _take(fds, report)
        os.umask(0o022)
        resource.setrlimit(resource.RLIMIT_NOFILE, files)
        if start.tty:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        account = _account(start.user)
        _switch(account, terminal=bool(start.tty))
        enter(account, start.cwd)
        if start.subsystem:
            code = _serve(start.subsystem, report)
        else:
            _execute(start, account)
    except Refusal as refusal:
        os.write(report, f"{refusal.stage} {refusal.errno}".encode())
    except OSError as error:
        os.write(report, f"fork {error.errno or errno.EIO}".encode())
    except ValueError:  # a NUL byte in a word, "=" in a variable's name
        os.write(report, f"exec {errno.EINVAL}".encode())
    finally:
        os._exit(code)


def _reset_signals() -> None:
    """Python ignores SIGPIPE, the launcher some more; what exec hands on is SIG_DFL for all."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _take(fds: Sequence[int], report: int) -> int:
    """Put the descriptors where a process looks for them, close all others; the report's new number."""
    for target in range(3):
        os.dup2(fds[min(target, len(fds) - 1)], target)
    if report != REPORT_FD:
        os.dup2(report, REPORT_FD, inheritable=False)
    # Not by /proc/self/fd: the root that was entered may have no /proc.
    os.closerange(REPORT_FD + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    return REPORT_FD


def _go_to(root: Root) -> None:
    """Enter the root. Nothing may be imported from here on. Raises Refusal."""
    try:
        root.enter()
    except OSError as error:
        raise Refusal("root", error.errno or errno.EIO) from None


def _account(user: bytes) -> Account:
    """The user of that name, or with none the one we are. Raises Refusal."""
    if user:
        try:
            entry = pwd.getpwnam(user.decode("utf-8", "surrogateescape"))
        except (KeyError, ValueError):
            raise Refusal("user", errno.ENOENT) from None
    else:
        try:
            entry = pwd.getpwuid(os.geteuid())
        except KeyError:  # an image without its user in /etc/passwd
            home = os.environb.get(b"HOME", b"/")
            return Account(str(os.geteuid()), os.geteuid(), os.getegid(), home, DEFAULT_SHELL)
    home, shell = os.fsencode(entry.pw_dir) or b"/", os.fsencode(entry.pw_shell) or DEFAULT_SHELL
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, home, shell)


def _switch(account: Account, *, terminal: bool) -> None:
    """Become that user, for good. Raises Refusal."""
    if account.uid == os.geteuid():
        return
    try:
        if terminal:
            os.fchown(0, account.uid, -1)
        os.initgroups(account.name, account.gid)
        os.setresgid(account.gid, account.gid, account.gid)
        os.setresuid(account.uid, account.uid, account.uid)
    except OSError as error:
        raise Refusal("user", error.errno or errno.EPERM) from None


def enter(account: Account, cwd: bytes) -> None:
    """Go to the home directory, or where it is missing to /; from there to `cwd`. Raises Refusal."""
    try:
        os.chdir(account.home)
    except OSError:
        os.chdir("/")
    if cwd:
        try:
            os.chdir(cwd)
        except OSError as error:
            raise Refusal("cwd", error.errno or errno.EIO) from None
        except ValueError:
            raise Refusal("cwd", errno.EINVAL) from None


def environment(start: Start, account: Account) -> dict[bytes, bytes]:
    """What login(1) would set, the path of the image, and over it what was asked for."""
    name = os.fsencode(account.name)
    environment = {
        b"HOME": account.home,
        b"USER": name,
        b"LOGNAME": name,
        b"SHELL": account.shell,
        b"PATH": os.environb.get(b"PATH") or DEFAULT_PATH,
    }
    if start.tty:
        environment[b"TERM"] = b"xterm"
    environment.update(start.env)
    if start.tty and b"SSH_CONNECTION" in environment:
        environment[b"SSH_TTY"] = start.tty.encode()
    return environment


def command(start: Start, account: Account) -> tuple[bytes, list[bytes]]:
    """The program, by its path or by a name that PATH leads to, and its words."""
    if start.line is not None:
        # As sshd: the shell's basename as its name, with a dash before it for a login shell.
        name = os.path.basename(account.shell)
        return account.shell, [name, b"-c", start.line] if start.line else [b"-" + name]
    argv = list(start.argv) or [DEFAULT_SHELL]
    return argv[0], argv


def _execute(start: Start, account: Account) -> NoReturn:
    variables = environment(start, account)
    program, argv = command(start, account)
    if start.tty and start.line == b"":
        motd.show(account.home, 1)
    if start.line is not None or b"/" in program:
        _exec_at(program, argv, variables)
    best = Refusal("exec", errno.ENOENT)
    for directory in (variables.get(b"PATH") or DEFAULT_PATH).split(b":"):
        try:
            _exec_at(os.path.join(directory or b".", program), argv, variables)
        except Refusal as refusal:
            # A later directory may have it; until then what is there but unusable is the better answer.
            if refusal.errno not in (errno.ENOENT, errno.ENOTDIR) or refusal.stage != "exec":
                best = refusal
    raise best


def _exec_at(path: bytes, argv: list[bytes], environment: Mapping[bytes, bytes]) -> NoReturn:
    try:
        os.execve(path, argv, environment)  # noqa: S606
    except OSError as error:
        if error.errno == errno.EACCES and os.path.isdir(path):
            raise Refusal("exec", errno.EISDIR) from None
        if error.errno == errno.ENOENT and os.path.exists(path):
            raise Refusal("interpreter", errno.ENOENT) from None
        raise Refusal("exec", error.errno or errno.EIO) from None


def _serve(subsystem: str, report: int) -> int:
    serve = SUBSYSTEMS.get(subsystem)
    if serve is None:
        raise Refusal("subsystem", errno.ENOENT)
    os.close(report)
    try:
        return serve(0, 1)
    except Exception as error:
        sys.stderr.write(f"vmgate-agent: {subsystem}: {type(error).__name__}\n")
        return 1
