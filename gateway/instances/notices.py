"""Directories that tell when something in them changes: inotify(7)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from twisted.internet import inotify
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.filepath import FilePath

STEP = 100  # directories that are begun to be watched before others have their turn
FLOOD = 2000  # changes from one look to the next; whoever makes more is not listened to until then
CHANGES = inotify.IN_CREATE | inotify.IN_DELETE | inotify.IN_MOVED_FROM | inotify.IN_MOVED_TO | inotify.IN_CLOSE_WRITE
GONE = inotify.IN_DELETE_SELF | inotify.IN_MOVE_SELF | inotify.IN_UNMOUNT


class _Watches(inotify.INotify):
    """Twisted's closes as a whole when one of its directories is deleted."""

    def loseConnection(self, _connDone: Any = None) -> None:
        """Not for that."""

    def close(self) -> None:
        super().loseConnection()


class Notices:
    """Watches a set of directories, and tells nothing but that something changed."""

    _log = Logger()

    def __init__(self, reactor: Any, changed: Callable[[], None]) -> None:
        self._reactor = reactor
        self._changed = changed
        self._watched: set[str] = set()
        self._watches: _Watches | None = None
        self._noticed = 0  # since `keep` was called
        self._helpless = False
        self._closed = False

    async def keep(self, directories: Iterable[str]) -> bool:
        """Watch these and no others; whether any of them is new, in which something may have changed unseen."""
        self._noticed = 0
        wanted = set(directories)
        for path in self._watched - wanted:
            self._forget(path)
        new = wanted - self._watched
        for number, path in enumerate(new, 1):
            if self._closed or not self._watch(path):
                return False
            if number % STEP == 0:
                await deferLater(self._reactor, 0)
        return bool(new)

    def _watch(self, path: str) -> bool:
        """Whether it could be watched, or is gone again."""
        try:
            if self._watches is None:
                self._watches = _Watches(self._reactor)
                self._watches.startReading()
            mask = CHANGES | GONE | inotify.IN_ONLYDIR
            self._watches.watch(FilePath(path.encode()), mask, callbacks=[self._notice])
        except inotify.INotifyError as error:
            if not FilePath(path.encode()).isdir():
                return True
            if not self._helpless:
                self._helpless = True
                self._log.warn(
                    "Changes of {path} are noticed by looking alone ({error!s}); see max_user_watches in inotify(7)",
                    path=path, error=error,
                )  # fmt: skip
            return False
        self._watched.add(path)
        return True

    def _notice(self, _: object, path: FilePath[bytes], mask: int) -> None:
        self._noticed += 1
        if self._noticed > FLOOD:
            self._deafen()
        elif mask & inotify.IN_DELETE_SELF:
            self._watched.discard(path.asTextMode().path)  # Twisted forgets it itself
        elif mask & GONE:
            self._forget(path.asTextMode().path)
        self._changed()

    def _forget(self, path: str) -> None:
        self._watched.discard(path)
        if self._watches is not None:
            with suppress(KeyError):
                self._watches.ignore(FilePath(path.encode()))

    def _deafen(self) -> None:
        """Watch nothing until `keep` is called again, which then has everything to begin anew."""
        self._watched.clear()
        watches, self._watches = self._watches, None
        if watches is not None:
            watches.close()

    def close(self) -> None:
        """Watch nothing any more. Idempotent."""
        self._closed = True
        self._deafen()
