"""What went wrong with one entry of a copy, in words for the user."""

from __future__ import annotations

import errno
import os
from typing import Final

_OWN: Final = {
    errno.EBUSY: "something is mounted there, so it cannot be replaced",
    errno.EXDEV: "it is of another file system, so it cannot be replaced",
}


class CopyError(Exception):
    """A copy failed; the text is for the user, a part of a sentence."""


def reason(error: OSError) -> str:
    """What the system says, as a part of a sentence: "permission denied"."""
    words = os.strerror(error.errno) if error.errno else str(error)
    return words[:1].lower() + words[1:]


def told(error: Exception) -> str:
    """The same of what an entry's target answers; where the system's words say little, ours."""
    if isinstance(error, OSError):
        return _OWN.get(error.errno or 0) or reason(error)
    return str(error)
