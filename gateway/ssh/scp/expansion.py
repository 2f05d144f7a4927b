"""The words of a command line, as the user's login shell in the guest makes them of it. Who may not
run commands there gets them from sh(1), which is given nothing that could be one.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from twisted.internet.defer import Deferred, succeed

from gateway.doors import Process
from gateway.errors import GateError
from gateway.model import Ending, ExecRequest, Output, Stream
from gateway.ssh.scp.words import Words

MAX_BYTES = 4 << 20  # of all the words together, as a command's may be in Linux (execve(2)), twice
MAX_WORDS = 65_536
MAX_COMPLAINT = 64 << 10  # bytes of what the shell says besides
SECONDS = 30  # for a shell that hangs


class NoWords(Exception):
    """The shell ended with this code, and said something."""

    def __init__(self, code: int, said: bytes) -> None:
        super().__init__(code)
        self.code = code or 1
        self.said = said


class Question:
    """A process that prints words: an ExecFront. What a shell's own files print before the mark is none
    of them."""

    def __init__(self, words: Words, *, shell: bool, user: str, env: Mapping[str, str]) -> None:
        """`shell`: ask the user's own."""
        mark = secrets.token_hex(16).encode()
        line = b"printf '%s\\0' " + mark + b" "
        if shell:
            self.request = ExecRequest(line=line + words.text, user=user, env=env, timeout=SECONDS)
        else:
            script = (line + words.safe()).decode(errors="surrogateescape")
            self.request = ExecRequest(command=("/bin/sh", "-c", script), user=user, timeout=SECONDS)
        self.answer: Deferred[list[bytes]] = Deferred()
        self._mark = mark + b"\0"
        self._out = bytearray()
        self._err = bytearray()

    def started(self, process: Process) -> None:
        """It reads no input: there is none."""

    def write(self, output: Output) -> None:
        """Bounded: the rest of too much is not kept."""
        kept, most = (self._out, MAX_BYTES) if output.stream is Stream.STDOUT else (self._err, MAX_COMPLAINT)
        kept += output.data[: most + 1 - len(kept)]

    def drained(self) -> Deferred[None]:
        return succeed(None)

    def consumed(self, size: int) -> None:
        """No input."""

    def exited(self, ending: Ending) -> None:
        """Its words, where it ended well."""
        _, mark, words = bytes(self._out).rpartition(self._mark)
        if ending.code or not mark:
            self._end(NoWords(ending.code, bytes(self._err)))
        elif len(self._out) > MAX_BYTES or words.count(b"\0") > MAX_WORDS:
            self._end(NoWords(1, b"scp: argument list too long\n"))
        else:
            self._end(words.split(b"\0")[:-1])

    def failed(self, error: GateError) -> None:
        """The guest could not be asked."""
        self._end(error)

    def _end(self, result: list[bytes] | Exception) -> None:
        if not self.answer.called:
            if isinstance(result, Exception):
                self.answer.errback(result)
            else:
                self.answer.callback(result)
