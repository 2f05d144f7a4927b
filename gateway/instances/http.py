"""The list of another service: its `GET /instances`, as hypeman's, vmgate's own, or an inventory's.

What comes is hostile until checked. Redirections are not followed: the token is for one place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gateway.config.sources import HTTPSource
from gateway.errors import ConfigError
from gateway.fetch import BadAnswer, Fetcher
from gateway.instances.found import Found, SourceError
from gateway.model import Address, CidAddress, Instance, MuxerAddress
from gateway.threads import aside

MAX_BYTES = 16 << 20  # of a list: 10,000 instances with many labels


class HTTPList:
    """A source."""

    def __init__(self, config: HTTPSource, reactor: Any, changed: Callable[[], None]) -> None:
        """Raises ConfigError for certificates that are none."""
        self._config = config
        self._reactor = reactor
        try:
            self._fetcher = Fetcher(reactor, MAX_BYTES, config.ca, config.timeout)
        except ValueError:
            raise ConfigError([f"sources.ca: there is no PEM certificate to trust {config.url} by"]) from None

    async def look(self, earlier: Mapping[str, Instance]) -> Found:
        """Raises SourceError."""
        try:
            body = await self._fetcher.get(self._config.url, "application/json", self._config.token)
        except BadAnswer as error:
            raise SourceError(str(error)) from None
        return await aside(self._reactor, lambda: self._read(body, earlier))

    def _read(self, body: bytes, earlier: Mapping[str, Instance]) -> Found:
        found = Found(self._config.labels, earlier)
        try:
            for entry in elements(body.decode()):
                if isinstance(entry, dict):
                    self._add(entry, found)
                else:
                    found.leave_out(entry, "an entry must be an object")
        except (ValueError, RecursionError):
            raise SourceError("its answer is no JSON array") from None
        return found

    def _add(self, entry: Mapping[str, object], found: Found) -> None:
        address = self._address(entry)
        if address is None:
            found.leave_out(entry.get("id"), "its vsock_cid is not that of a guest, and no vsock_socket is configured")
            return
        labels = entry.get("labels", entry.get("tags"))
        known = {key: entry.get(key) for key in ("name", "image", "created_at")}
        found.add(entry.get("id"), address, state=entry.get("state", "Running"), labels=labels, **known)

    def _address(self, entry: Mapping[str, object]) -> Address | None:
        """A list never says which path is dialled: the configuration does."""
        sockets = self._config.sockets
        if sockets is not None:
            return MuxerAddress(sockets.path(str(entry.get("id"))), below=sockets.base)
        cid = entry.get("vsock_cid")
        return CidAddress(cid) if type(cid) is int and 3 <= cid < 0xFFFFFFFF else None

    def close(self) -> None:
        """Nothing is kept between looks."""


_DECODER = json.JSONDecoder()
_BLANK = re.compile(r"[ \t\n\r]*")


def elements(text: str) -> Iterator[object]:
    """Those of a JSON array, one by one: while Python parses a text, nothing else runs. Raises ValueError,
    RecursionError."""
    mark, at = _next(text, 0)
    if mark != "[":
        raise ValueError("no array")
    mark, after = _next(text, at)
    if mark != "]":
        after = at
        while mark != "]":
            element, at = _DECODER.raw_decode(text, _skip(text, after))
            yield element
            mark, after = _next(text, at)
            if mark not in (",", "]"):
                raise ValueError("neither another element nor an end")
    if _skip(text, after) != len(text):
        raise ValueError("something follows")


def _skip(text: str, at: int) -> int:
    """Behind what is blank."""
    blank = _BLANK.match(text, at)
    return blank.end() if blank else at


def _next(text: str, at: int) -> tuple[str, int]:
    """The next character that is not blank, "" at the end, and where it ends."""
    at = _skip(text, at)
    return text[at : at + 1], at + 1
