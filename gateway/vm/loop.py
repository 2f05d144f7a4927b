"""One epoll loop: who waits for which descriptor. Level-triggered; handlers never block."""

from __future__ import annotations

import select
from collections.abc import Callable

IN, OUT, HANG_UP = select.EPOLLIN, select.EPOLLOUT, select.EPOLLHUP | select.EPOLLERR

Handler = Callable[[int], None]


class Loop:
    """A handler gets the events that came; one may come that is out of date by then."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}

    def watch(self, fd: int, events: int, handler: Handler) -> None:
        """Call the handler for these events, and for a hang-up in any case."""
        if fd in self._handlers:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def unwatch(self, fd: int) -> None:
        """Before it is closed. Idempotent."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def turn(self, seconds: float | None) -> None:
        """Wait for events, at most so long, and handle them."""
        for fd, events in self._epoll.poll(-1 if seconds is None else seconds):
            handler = self._handlers.get(fd)
            if handler is not None:
                handler(events)
