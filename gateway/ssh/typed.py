"""A token where clients ask for a password: as one (RFC 4252 section 8), or as the answer to
keyboard-interactive (RFC 4256).

One try at a time. OpenSSH's clients cut what is typed, or comes from an SSH_ASKPASS, at 1023 bytes (its
readpass.c), and many tokens are longer: by keyboard-interactive the rest is asked for. Knows tokens, and no
instance.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from gateway.auth.tokens import MAX_TOKEN, Believed, Tokens
from gateway.errors import Unauthorized
from gateway.ssh.wire import Malformed, Reader, boolean, string, uint32

MSG_USERAUTH_INFO_REQUEST = 60
MSG_USERAUTH_INFO_RESPONSE = 61

PASSWORD, INTERACTIVE = b"password", b"keyboard-interactive"
METHODS = (INTERACTIVE, PASSWORD)
CUT = 1023  # bytes that OpenSSH's clients send of a longer answer


class Typed:
    """One client's tries to prove itself by a token. It ends each by one call of `proven` or `refused`, unless
    the client begins another before."""

    _log = Logger()

    def __init__(
        self,
        tokens: Tokens,
        say: Callable[[int, bytes], None],
        proven: Callable[[Believed], None],
        refused: Callable[[str], None],
    ) -> None:
        """`say` sends a message; `refused` hears why, for the audit."""
        self._tokens = tokens
        self._say = say
        self._proven = proven
        self._refused = refused
        self._token: str | None = None  # what was answered so far; None = nothing is asked
        self._coming: Deferred[None] | None = None  # newer keys that a token may need

    def begin(self, method: bytes, reader: Reader) -> None:
        """A request by one of METHODS. Raises Malformed."""
        if method == PASSWORD:
            change = reader.boolean()
            token = reader.string()
            if not change:
                reader.finish()
            self._judge("" if change else _text(token))
        else:
            reader.string()  # the language, and what kinds of question it would like
            reader.string()
            reader.finish()
            self._token = ""
            self._ask("Token: ")

    def answered(self, reader: Reader) -> None:
        """The answer to our question. Raises Malformed for one that was not asked."""
        if self._token is None or self._coming is not None:
            raise Malformed("an answer to no question")
        answers = [reader.string() for _ in range(min(reader.uint32(), 2))]
        reader.finish()
        if len(answers) != 1:
            raise Malformed("one question, and other than one answer")
        more = len(answers[0]) == CUT
        self._token += _text(answers[0])
        self._judge(self._token, more=more and len(self._token) < MAX_TOKEN)

    def abandon(self) -> None:
        """Whatever is under way is not wanted any more."""
        self._token = None
        self._coming = None

    def _ask(self, prompt: str) -> None:
        """Nothing that is typed is shown."""
        question = string(prompt) + boolean(False)
        self._say(MSG_USERAUTH_INFO_REQUEST, string(b"") * 3 + uint32(1) + question)

    def _judge(self, token: str, more: bool = False, waited: bool = False) -> None:
        """`more`: there may be, that the client cut off; `waited`: for newer keys."""
        try:
            believed = self._tokens.believe(token)
        except Unauthorized as problem:
            if more:
                self._ask(f"Token, from character {len(token) + 1} on: ")
            elif waited or not self._wait(token):
                self.abandon()
                self._refused(problem.detail)
        else:
            self.abandon()
            self._proven(believed)

    def _wait(self, token: str) -> bool:
        """Whether newer keys were asked for, by which the token is judged again."""
        coming = self._tokens.coming(token)
        if coming is None:
            return False
        self._coming = coming

        def come(_: None) -> None:
            if self._coming is coming:
                self._judge(token, waited=True)

        coming.addCallback(come).addErrback(lambda why: self._log.failure("A token was not judged", why))
        return True


def _text(token: bytes) -> str:
    """What is no ASCII is no token."""
    return token.decode("ascii", "replace")
