"""One scp, from the client's command to its exit status: what a process in the guest would be to the
session channel. Asks the gate for all that it does, and the guest for the words of the command line.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.copy import DownloadSession, UploadSession
from gateway.doors import DownloadFront, UploadFront
from gateway.entries import DownloadStart, UploadStart
from gateway.errors import BadRequest, ClientDone, ClientLost, GateError
from gateway.model import SIGNALS, Ending, Instance, Operation, Stream, Window
from gateway.session import ExecSession
from gateway.ssh.scp import records
from gateway.ssh.scp.command import Command
from gateway.ssh.scp.expansion import NoWords, Question
from gateway.ssh.scp.records import Broken
from gateway.ssh.scp.sink import Sink
from gateway.ssh.scp.source import Source
from gateway.ssh.scp.talk import Client, Talk
from gateway.ssh.scp.words import Needs, Words
from gateway.ssh.surroundings import Surroundings

NOT_HERE = "only quotes, ~ and patterns may be in these paths: copies are allowed here, commands are not"


class Conversation:
    """One `scp -t` or `scp -f`."""

    def __init__(
        self,
        around: Surroundings,
        client: Client,
        command: Command,
        words: Words,
        *,
        shell: bool,
        env: Mapping[str, str],
    ) -> None:
        """`shell`: whether the visitor may run commands, and so have its own shell asked."""
        self._around = around
        self._visitor = around.login.visitor
        self._user = around.login.user
        self._client = client
        self._command = command
        self._words = words
        self._shell = shell
        self._env = env
        self._talk = Talk(client)
        self._instance: Instance | None = None
        self._asked: ExecSession | None = None
        self._signal = ""
        self._role = self._sink() if command.sink else self._source()

    # From the channel.

    def begin(self) -> None:
        """Once."""
        self._talk.run(self._run())

    def feed(self, data: bytes) -> None:
        """The client's, within its credit."""
        self._role.heard.feed(data)
        self._talk.ring()

    def end_of_input(self) -> None:
        """The client says no more."""
        self._role.heard.end()
        self._talk.ring()

    def hang_up(self) -> None:
        """The client is gone."""
        self._talk.fail(ClientLost())

    def signal(self, name: str) -> None:
        """Every one of them ends it, as it would end scp."""
        self._signal = name
        self._talk.fail(ClientDone(f"signal {name}"))

    def resize(self, window: Window) -> None:
        """There is no terminal."""

    def deaf(self) -> None:
        """The client reads no more, which to an scp is its end."""
        self.hang_up()

    # The whole of it.

    async def _run(self) -> None:
        error: GateError = ClientDone()
        try:
            self._client.settle()
            self._client.exited(await self._serve())
        except Broken as problem:
            error = BadRequest(message=str(problem))
            self._break_off(f"scp: {problem}", 1)
        except GateError as problem:
            error = problem
            self._tell(error)
        finally:
            self._role.release(error)
            if self._asked is not None:
                self._asked.end(error)

    async def _serve(self) -> Ending:
        instance = self._around.login.instance
        self._instance = self._around.gate.enter(self._visitor, instance, self._operation)
        try:
            words = await self._expand(self._instance)
        except NoWords as problem:
            await self._talk.say(problem.said, Stream.STDERR)
            return Ending(problem.code)
        await self._role.run(words)
        return Ending(1 if self._role.errors else 0)

    @property
    def _operation(self) -> Operation:
        return Operation.UPLOAD if self._command.sink else Operation.DOWNLOAD

    async def _expand(self, instance: Instance) -> list[bytes]:
        """The words that a shell would give scp. Raises NoWords, Broken."""
        if self._words.needs is Needs.NOTHING:
            return self._words.plain()
        if self._words.needs > (Needs.VARIABLES if self._shell else Needs.PATTERNS):
            raise Broken(NOT_HERE)
        question = Question(self._words, shell=self._shell, user=self._user, env=self._env)
        around = self._around
        self._asked = around.gate.exec(
            self._visitor, instance, question.request, question, around.wait, part_of=self._operation
        )
        words: list[bytes] = await self._talk.wait(question.answer)
        self._asked = None
        return words

    def _tell(self, error: GateError) -> None:
        """How it ended before its end."""
        if self._signal:
            self._client.exited(Ending(128 + SIGNALS[self._signal], signal=self._signal))
        elif isinstance(error, ClientLost):
            self._client.exited(Ending(1))
        else:
            self._break_off(f"vmgate: {error.sentence}", error.exit_status)

    def _break_off(self, text: str, status: int) -> None:
        """In the protocol's way, which every client shows; where it would be taken for a file's bytes,
        on stderr."""
        words = records.octets(text)
        if self._role.between and not self._talk.saying:
            self._client.broke_off(Stream.STDOUT, records.complaint(words, fatal=True), status)
        else:
            self._client.broke_off(Stream.STDERR, words + b"\r\n", status)

    # What it does in the guest.

    def _sink(self) -> Sink:
        return Sink(self._command, self._talk, self._upload)

    def _source(self) -> Source:
        return Source(self._command, self._talk, self._download)

    def _upload(self, path: str, front: UploadFront) -> UploadSession:
        start = UploadStart(path=path, user=self._user)
        return self._around.gate.upload(self._visitor, self._inside(), start, front, wait=self._around.wait)

    def _download(self, path: str, front: DownloadFront) -> DownloadSession:
        # The protocol knows neither links nor holes: what a link leads to is copied, as by OpenSSH's.
        start = DownloadStart(path=path, user=self._user, follow_links=True, plain=True)
        return self._around.gate.download(self._visitor, self._inside(), start, front, wait=self._around.wait)

    def _inside(self) -> Instance:
        assert self._instance is not None, "the gate was asked"
        return self._instance
