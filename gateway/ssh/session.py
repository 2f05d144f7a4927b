"""The session channel (RFC 4254 section 6): a client's terminal, environment and command on one
side, an ExecSession or an scp of ours on the other. Decides nothing: the gate does; runs nothing: the
guest does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from gateway.doors import Listener, Process
from gateway.errors import GateError
from gateway.model import (
    SIGNALS,
    Ending,
    ExecRequest,
    Instance,
    Operation,
    Output,
    PrivatePlace,
    Stream,
    Terminal,
    Window,
)
from gateway.ssh.channel import Channel, Line
from gateway.ssh.environment import Environment
from gateway.ssh.listen import Remote
from gateway.ssh.scp import Conversation, Needs, read_command, read_words
from gateway.ssh.surroundings import Surroundings
from gateway.ssh.terminal import read_terminal, read_window
from gateway.ssh.wire import Malformed, Reader, boolean, string, uint32

SUBSYSTEMS = ("sftp",)
INTERNAL_SFTP = "internal-sftp"  # as sshd_config(5) names the server that needs no program
STARTS = (b"shell", b"exec", b"subsystem")
PATIENCE = 2.0  # seconds until a client is told that its guest is waited for
MAX_HELD = 64  # replies that wait for the command to start


class Running(Protocol):
    """What runs in a channel, as far as its client can do anything to it."""

    def feed(self, data: bytes) -> None: ...

    def end_of_input(self) -> None: ...

    def resize(self, window: Window) -> None: ...

    def signal(self, name: str) -> None: ...

    def deaf(self) -> None: ...

    def hang_up(self) -> None: ...


class SessionChannel(Channel):
    """One session: at most one command, shell or subsystem."""

    _log = Logger()

    def __init__(self, around: Surroundings, line: Line, local: int, remote: int, window: int, max_packet: int) -> None:
        super().__init__(line, local, remote, window, max_packet)
        self._around = around
        self._environment = Environment(around.accept_env)
        self._term = ""
        self._terminal: Terminal | None = None
        self._session: Running | None = None
        self._begun = False
        self._starting: bool | None = None  # while a start is under way: whether it wants a reply
        self._held: list[bool] = []  # replies to what was asked after it
        self._waits: IDelayedCall | None = None  # until it tells that
        self._deaf = False
        self._original = ""  # what was asked for in place of the command that the key forces
        self._agent: Remote | None = None  # where the client's ssh-agent is reached in the guest

    # From the client.

    def received(self, data: bytes) -> None:
        """Data for stdin; before there is a command it has no reader, and gets no credit."""
        if self._session is not None:
            self._session.feed(data)

    def input_ended(self) -> None:
        """The end of stdin."""
        if self._session is not None:
            self._session.end_of_input()

    def lost(self) -> None:
        """The client closed the channel, or is gone."""
        self._calm()
        if self._session is not None:
            self._session.hang_up()
        self._let_go()

    def requested(self, name: bytes, wants_reply: bool, reader: Reader) -> None:
        """Section 6, and what OpenSSH adds. Unknown ones fail (section 5.4)."""
        request = self._requests.get(name)
        if name in STARTS and not self._begun:
            self._starting = wants_reply
        try:
            answer = request(self, reader) if request is not None else False
        except Malformed:
            answer = False
        if not self._begun:
            self._starting = None
        if answer is not None:
            self._answer(answer, wants_reply)

    def _answer(self, success: bool, wanted: bool) -> None:
        """In the order of the requests: behind the reply that a start still owes."""
        if not wanted:
            return
        if self._starting is None:
            self.reply(success)
        elif len(self._held) < MAX_HELD:
            self._held.append(success)
        else:
            raise Malformed("too many requests before the command started")

    def _pty(self, reader: Reader) -> bool:
        term, terminal = read_terminal(reader)
        if self._begun or self._terminal is not None or not self._around.may_have_terminal():
            return False
        self._term, self._terminal = term, terminal
        return True

    def _env(self, reader: Reader) -> bool:
        name, value = reader.string(), reader.string()
        try:
            return not self._begun and b"\0" not in value and self._environment.add(name.decode(), value.decode())
        except UnicodeDecodeError:
            return False  # the guest's contract carries text only

    def _forced(self, asked: bytes) -> bool | None:
        """What the key's command= says, whatever was asked for; that is told by SSH_ORIGINAL_COMMAND."""
        command = self._around.login.key.command or ""
        if command == INTERNAL_SFTP:
            return self._start(Operation.SFTP, subsystem="sftp")
        try:
            self._original = asked.decode()
        except UnicodeDecodeError:
            return False  # the guest's contract carries text only
        return self._start(Operation.EXEC, line=command.encode())

    def _shell(self, reader: Reader) -> bool | None:
        if self._around.login.key.command is not None:
            return self._forced(b"")
        return self._start(Operation.SHELL, line=b"")

    def _exec(self, reader: Reader) -> bool | None:
        line = reader.string()
        if self._around.login.key.command is not None:
            return False if b"\0" in line else self._forced(line)
        if self._start_scp(line):
            return None
        # An empty line would mean a shell to the doors; a blank one is a command that does nothing.
        return self._start(Operation.EXEC, line=line or b" ")

    def _subsystem(self, reader: Reader) -> bool | None:
        subsystem = reader.text()
        if self._around.login.key.command is not None:
            return self._forced(subsystem.encode()) if subsystem in SUBSYSTEMS else False
        return self._start(Operation.SFTP, subsystem=subsystem)

    def _window_change(self, reader: Reader) -> bool:
        window = read_window(reader)
        if self._terminal is None:
            return False
        if self._session is not None:
            self._session.resize(window)
        else:
            self._terminal = Terminal(window, self._terminal.modes)
        return True

    def _signal(self, reader: Reader) -> bool:
        name = reader.text()
        if self._session is None or name not in SIGNALS:
            return False
        self._session.signal(name)
        return True

    def _break(self, reader: Reader) -> bool:
        """RFC 4335: for a terminal only. As with OpenSSH's sshd on Linux, whose pseudo-terminals take a
        break and have no line to send it on: success is all there is of it."""
        reader.uint32()
        return self._terminal is not None and self._session is not None

    def _end_of_write(self, reader: Reader) -> bool:
        """OpenSSH's PROTOCOL section 2.1: nobody reads stdout any more. The command finds out when it
        writes, as at any pipe whose reader went."""
        self._deaf = True
        if self._session is not None:
            self._session.deaf()
        self.discard(Stream.STDOUT)
        return True

    def _auth_agent(self, reader: Reader) -> bool:
        """OpenSSH's agent forwarding (draft-ietf-sshm-ssh-agent section 5): a socket in the guest, for
        this session, as soon as there is a command to be told of it."""
        if self._begun or self._agent is not None:
            return False
        try:
            self._around.check(Operation.LISTEN, PrivatePlace())
        except GateError:
            return False
        self._agent = Remote(self._around, self._line, b"auth-agent@openssh.com", PrivatePlace())
        return True

    _requests: dict[bytes, Callable[[SessionChannel, Reader], bool | None]] = {  # noqa: RUF012 (never changed)
        b"pty-req": _pty,
        b"env": _env,
        b"shell": _shell,
        b"exec": _exec,
        b"subsystem": _subsystem,
        b"window-change": _window_change,
        b"signal": _signal,
        b"break": _break,
        b"eow@openssh.com": _end_of_write,
        b"auth-agent-req@openssh.com": _auth_agent,
    }

    def _start(self, operation: Operation, *, line: bytes | None = None, subsystem: str = "") -> bool | None:
        """Begin, once. None: the session says later how it went (`started` or `failed`)."""
        if self._begun:
            return False
        if (line and b"\0" in line) or (subsystem and subsystem not in SUBSYSTEMS):
            return False
        self._begun = True
        around = self._around
        request = ExecRequest(
            line=line,
            subsystem=subsystem,
            terminal=self._terminal if not subsystem else None,
            env=self._variables(),
            user=around.login.user,
        )
        visitor = around.login.visitor
        try:
            instance = around.gate.enter(visitor, around.login.instance, operation)
            prepare = self._with_agent if self._agent is not None else succeed
            self._session = around.gate.exec(visitor, instance, request, self, around.wait, prepare)
        except GateError as error:
            self.failed(error)
            return None
        if self._input_over:
            self._session.end_of_input()
        if around.wait > PATIENCE:
            self._waits = around.clock.callLater(PATIENCE, self._tell_of_wait, instance)
        return None

    def _tell_of_wait(self, instance: Instance) -> None:
        self._waits = None
        if self._around.gate.reached(instance):
            return  # it is only slow, and whatever we say is among the command's own stderr
        words = f"vmgate: the guest does not answer yet; waiting up to {self._around.wait:g} s.\r\n"
        self.interject(Stream.STDERR, words.encode())

    def _calm(self) -> None:
        """There is nothing to wait for any more."""
        waits, self._waits = self._waits, None
        if waits is not None:
            waits.cancel()

    def _start_scp(self, line: bytes) -> bool:
        """Whether the line asks for scp's other half, and it is served. What takes a whole shell goes to
        the guest's, where the visitor may use that. Nor does scp speak through a terminal."""
        command = read_command(line)
        if command is None or self._begun or self._terminal is not None or b"\0" in line:
            return False
        words, may_run = read_words(command.words), self._around.may(Operation.EXEC)
        if words.needs is Needs.COMMANDS and may_run:
            return False
        self._begun = True
        scp = Conversation(self._around, self, command, words, shell=may_run, env=self._variables())
        self._session = scp
        if self._input_over:
            scp.end_of_input()
        scp.begin()
        return True

    def _variables(self) -> dict[str, str]:
        """What the client may set, what its key's line sets, what sshd would add, and over all that what the
        operator sets, as sshd's SetEnv; SSH_TTY is known to the guest alone."""
        theirs, their_port, ours, our_port = self._around.ends
        by_line = Environment(self._around.permit_user_environment)
        for name, value in reversed(self._around.login.key.environment):
            by_line.add(name, value)
        variables = {
            **self._environment.variables,
            **by_line.variables,
            "SSH_CLIENT": f"{theirs} {their_port} {our_port}",
            "SSH_CONNECTION": f"{theirs} {their_port} {ours} {our_port}",
        }
        if self._terminal is not None:
            variables["TERM"] = self._term
        if self._original:
            variables["SSH_ORIGINAL_COMMAND"] = self._original
        return {**variables, **self._around.set_env}

    def _with_agent(self, request: ExecRequest) -> Deferred[ExecRequest]:
        """Where the guest has no socket for it, the command runs without, as under sshd."""
        assert self._agent is not None

        def told(listener: Listener | None) -> ExecRequest:
            return replace(request, env={**request.env, "SSH_AUTH_SOCK": listener.path}) if listener else request

        ready: Deferred[ExecRequest] = self._agent.ready.addCallback(told)
        self._agent.begin()
        return ready

    def _let_go(self) -> None:
        if self._agent is not None:
            self._agent.finish()

    # From the session.

    def started(self, process: Process) -> None:
        """Only now is success told."""
        self.settle()

    def write(self, output: Output) -> None:
        """One piece of either stream."""
        if not (self._deaf and output.stream is Stream.STDOUT):
            self.hand_over(output.stream, output.data)

    def exited(self, ending: Ending) -> None:
        """Status, EOF, CLOSE, in this order: macOS's ssh reports 0 when EOF comes first."""
        self._let_go()
        if ending.signal in SIGNALS:
            payload = string(ending.signal) + boolean(ending.core_dumped) + string(b"") + string(b"")
            self.tell(b"exit-signal", payload)
        else:
            # A signal without a portable name (section 6.10) is told as a shell would: 128 + its number.
            self.tell(b"exit-status", uint32(ending.code & 0xFFFFFFFF))
        self.end()

    def failed(self, error: GateError) -> None:
        """The sentence on stderr, and 255 as ssh itself exits when it could not do its work.

        A start that failed is answered with success all the same. Tried with OpenSSH 9.2's ssh and
        sftp, paramiko 5.1 and asyncssh 2.24: after CHANNEL_FAILURE none of them shows the sentence,
        whether it was sent before or behind it; so they all show it and report 255."""
        self.broke_off(Stream.STDERR, f"vmgate: {error.sentence}\r\n".encode(), error.exit_status)

    def broke_off(self, stream: Stream, text: bytes, status: int) -> None:
        """These words, in place of what the client has not taken, and the end."""
        self.settle()
        self._let_go()
        self.last_words(stream, text)
        self.tell(b"exit-status", uint32(status))
        self.end()

    def settle(self) -> None:
        """Give the reply that a start owes, then those behind it."""
        self._calm()
        wanted, self._starting = self._starting, None
        if wanted:
            self.reply(True)
        held, self._held = self._held, []
        for success in held:
            self.reply(success)
