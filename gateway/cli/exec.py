"""`vmgate exec` and `vmgate shell`: a process of a guest with our stdin, stdout, stderr, terminal and exit code."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal

from gateway.cli import server, terminal
from gateway.cli.link import Link, terms
from gateway.cli.pipes import Sink, Source
from gateway.cli.problem import TRANSPORT, Problem, printable
from gateway.model import ExecRequest, Outcome
from gateway.web.v1.message import Channel, Deaf, End, Exec, Exit, Resize


def run(options: argparse.Namespace) -> int:
    """Run it; gives the process's exit code, or 255 with a sentence."""
    gateway = server.find(options)
    # Ctrl-C ends us at once where no terminal of ours passes it on, as it ends ssh (gateway.cli.main):
    # the gateway then hangs the process up.
    with contextlib.ExitStack() as stack:
        session = Session(options)
        if session.request.terminal is not None and session.sends:
            stack.enter_context(terminal.raw())
        return asyncio.run(session.run(gateway))


class Session:
    """One process, from its start to its end."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._instance = options.instance
        self._wait = options.wait
        shell = options.command == "shell"
        typed = os.isatty(0)
        with_terminal = options.terminal or (shell and typed)
        # A terminal is typed into only when it is asked for: so a loop over `vmgate exec` keeps its keys.
        self.sends = not options.no_input and (shell or options.interactive or with_terminal or not typed)
        env = dict(_variable(text) for text in options.env)
        if with_terminal:
            env.setdefault("TERM", os.environ.get("TERM", "dumb"))
        self.request = ExecRequest(
            command=() if shell else _words(options.words),
            line=b"" if shell else None,
            terminal=terminal.wanted() if with_terminal else None,
            env=env,
            cwd=options.workdir,
            timeout=options.timeout,
            user=options.user,
        )
        self._left = False

    async def run(self, gateway: server.Server) -> int:
        """To its end."""
        path = ("instances", self._instance, "exec")
        link = self._link = await Link.open(gateway, path, Exec(self.request, terms(self._wait)))
        self._out = Sink(1, link.consumed, lambda: link.tell(Deaf()))
        self._err = Sink(2, link.consumed, lambda: None)
        asyncio.get_running_loop().add_signal_handler(signal.SIGWINCH, self._resized)
        sending = asyncio.create_task(self._send())
        try:
            ending = await self._receive()
        finally:
            sending.cancel()
            await self._out.finish()
            await self._err.finish()
            link.close()
        return self._told(ending)

    async def _receive(self) -> Exit:
        while True:
            match await self._link.receive():
                case (Channel.STDOUT, bytes(data)):
                    self._out.write(data)
                case (Channel.STDERR, bytes(data)):
                    self._err.write(data)
                case Exit() as ending:
                    return ending

    async def _send(self) -> None:
        if self.sends:
            source = Source(0)
            escape = terminal.Escape() if self.request.terminal is not None and os.isatty(0) else None
            while data := await source.read():
                kept = escape.take(data) if escape is not None else data
                if kept is None:
                    self._left = True
                    return self._link.lost("you left it with ~.")
                await self._link.stream(Channel.STDIN, kept)
        self._link.tell(End())
        return None

    def _resized(self) -> None:
        if self.request.terminal is not None:
            self._link.tell(Resize(terminal.window(0, 1, 2)))

    def _told(self, ending: Exit) -> int:
        if ending.error is not None:
            raise Problem(printable(ending.error.message), ending.code)
        if ending.outcome is Outcome.TIMED_OUT:
            raise Problem(f"the command was ended after {self.request.timeout} s", ending.code)
        return ending.code


def _words(words: list[str]) -> tuple[str, ...]:
    command = tuple(words[1:] if words[:1] == ["--"] else words)
    if not command:
        raise Problem("which command? Say `vmgate exec VM -- COMMAND`, or `vmgate shell VM`", TRANSPORT)
    try:
        "".join(command).encode()
    except UnicodeEncodeError:
        raise Problem("the command is not UTF-8, which is all that this protocol carries") from None
    return command


def _variable(text: str) -> tuple[str, str]:
    """NAME=VALUE, or NAME for our own."""
    name, equals, value = text.partition("=")
    if not name:
        raise Problem(f"{text!r} is no variable; it looks like NAME=VALUE")
    return name, value if equals else os.environ.get(name, "")
