"""What a subcommand says when it cannot do its work: one sentence, and the code it exits with."""

from __future__ import annotations

TRANSPORT = 255  # it was not the command that failed but the way to it, as ssh has it


class Problem(Exception):
    """The text says what happened and what to do."""

    code = TRANSPORT

    def __init__(self, sentence: str, code: int | None = None) -> None:
        super().__init__(sentence)
        if code is not None:
            self.code = code


def printable(text: str) -> str:
    """Text from elsewhere for a terminal: what would steer it is shown as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
