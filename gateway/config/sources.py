"""The tables [[sources]]: where instances come from besides the file itself, one table a source."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from gateway.config.policy import pairs
from gateway.table import Table

MAX_SOURCES = 100
TOKEN_BYTES = 8192
KINDS = ("directory", "hypeman", "libvirt", "http")


@dataclass(frozen=True, slots=True)
class PathPattern:
    """Where each guest's socket lies: a directory, and the parts below it, `{id}` in the first of them."""

    base: str
    parts: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> PathPattern:
        """An absolute path with `{id}` once in one of its parts, and as often as one likes behind that. Raises
        ValueError."""
        base = os.path.dirname(text.partition("{id}")[0])
        parts = tuple(text[len(base.rstrip("/")) + 1 :].split("/"))
        odd = "\0" in text or any(part in ("", ".", "..") for part in parts)
        if parts[0].count("{id}") != 1 or not os.path.isabs(text) or odd:
            raise ValueError(text)
        return cls(os.path.normpath(base), parts)

    def __str__(self) -> str:
        return os.path.join(self.base, *self.parts)

    def path(self, instance_id: str) -> str:
        """The socket of this instance, which must be an id (`gateway.model.ID`)."""
        return os.path.join(self.base, *(part.replace("{id}", instance_id) for part in self.parts))

    def instance_id(self, name: str) -> str | None:
        """Whose this entry of `base` is, if it is named as theirs are; it may be no id at all."""
        before, _, after = self.parts[0].partition("{id}")
        if len(name) > len(before) + len(after) and name.startswith(before) and name.endswith(after):
            return name[len(before) : len(name) - len(after)]
        return None


@dataclass(frozen=True, kw_only=True)
class Source:
    """What all kinds have."""

    kind: ClassVar[str]
    refresh: float  # seconds between looks
    timeout: float  # seconds until a look counts as late
    labels: Mapping[str, str] = field(default_factory=dict)  # of all its instances, before their own

    @property
    def place(self) -> str:
        """Where it looks: a changed source with the same place goes on with the list that it has."""
        raise NotImplementedError

    def __str__(self) -> str:
        return f"{self.kind} {self.place}"


@dataclass(frozen=True, kw_only=True)
class DirectorySource(Source):
    """A guest for each socket that lies where the pattern says."""

    kind: ClassVar[str] = "directory"
    sockets: PathPattern

    @property
    def place(self) -> str:
        return str(self.sockets)


@dataclass(frozen=True, kw_only=True)
class HypemanSource(Source):
    """hypeman's data directory."""

    kind: ClassVar[str] = "hypeman"
    data: Path

    @property
    def place(self) -> str:
        return str(self.data)


@dataclass(frozen=True, kw_only=True)
class LibvirtSource(Source):
    """The domains of libvirt that have a vsock device."""

    kind: ClassVar[str] = "libvirt"
    uri: str

    @property
    def place(self) -> str:
        return self.uri


@dataclass(frozen=True, kw_only=True)
class HTTPSource(Source):
    """The `GET /instances` of another service."""

    kind: ClassVar[str] = "http"
    url: str
    token: str = field(default="", repr=False)
    ca: bytes = field(default=b"", repr=False)  # PEM, instead of the certificates that the system trusts
    sockets: PathPattern | None = None  # None = each entry has its vsock_cid

    @property
    def place(self) -> str:
        return self.url


def read_sources(top: Table, read: Callable[[Path], bytes]) -> tuple[Source, ...]:
    """Every source, in order; what is wrong with one is its table's problem."""
    sources: list[Source] = []
    tables = top.tables("sources")
    for table in tables:
        source = _source(table, read)
        if source is None:
            continue
        table.done()
        if any((other.kind, other.place) == (source.kind, source.place) for other in sources):
            table.problem("", f"another source looks at {source.place} too")
        sources.append(source)
    if len(tables) > MAX_SOURCES:
        top.problem("sources", f"more than {MAX_SOURCES} sources")
    return tuple(sources)


def _source(table: Table, read: Callable[[Path], bytes]) -> Source | None:
    kind = table.text("kind")
    if kind not in KINDS:
        table.problem("kind", f"one of {', '.join(KINDS)} is needed")
        return None
    labels = table.table("labels")
    # Those of directories are told of changes; a look besides is for what is never told, such as on NFS.
    refresh = table.number("refresh", 30 if kind in ("directory", "hypeman") else 5, 1, 3600)
    timeout = table.number("timeout", 10, 1, 300)
    had = pairs(labels) if labels is not None else {}
    match kind:
        case "directory":
            sockets = _pattern(table) or PathPattern("/", ("{id}",))
            return DirectorySource(refresh=refresh, timeout=timeout, labels=had, sockets=sockets)
        case "hypeman":
            data = table.path("data_directory", "/var/lib/hypeman")
            return HypemanSource(refresh=refresh, timeout=timeout, labels=had, data=data)
        case "libvirt":
            uri = table.text("uri", "qemu:///system")
            return LibvirtSource(refresh=refresh, timeout=timeout, labels=had, uri=uri)
    token, ca = _token(table, read), _file(table, "ca", read)
    url = _url(table, secret=bool(token))
    pattern = _pattern(table) if "vsock_socket" in table.data else None
    table.text("vsock_socket", "")
    return HTTPSource(refresh=refresh, timeout=timeout, labels=had, url=url, token=token, ca=ca, sockets=pattern)


def _pattern(table: Table) -> PathPattern | None:
    text = table.text("vsock_socket")
    try:
        return PathPattern.parse(str(table.base / text))
    except ValueError:
        table.problem("vsock_socket", "a path with {id} in it is needed, such as /run/vms/{id}/vsock.sock")
        return None


def _url(table: Table, *, secret: bool) -> str:
    url = table.text("url")
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        if not fits or parts.username is not None or parts.fragment or not re.fullmatch(r"[!-~]{1,2000}", url):
            raise ValueError(url)
    except ValueError:
        table.problem("url", "an http:// or https:// address without user and fragment is needed")
        return url
    if secret and parts.scheme == "http" and not _here(parts.hostname or ""):
        table.problem("url", "a token goes to other machines by https:// alone")
    return url


def _here(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _token(table: Table, read: Callable[[Path], bytes]) -> str:
    token = _file(table, "token_file", read).strip()
    if token and not re.fullmatch(rb"[!-~]+", token):
        table.problem("token_file", "a token is one word of printable ASCII")
        return ""
    return token.decode()


def _file(table: Table, key: str, read: Callable[[Path], bytes]) -> bytes:
    path = table.maybe_path(key, secret=key == "token_file")
    if path is None:
        return b""
    try:
        data = read(path)
    except OSError as error:
        table.problem(key, f"{path}: cannot be read: {error.strerror}")
        return b""
    if key == "token_file" and not 0 < len(data) <= TOKEN_BYTES:
        table.problem(key, f"{path}: a token has 1 to {TOKEN_BYTES} bytes")
        return b""
    return data
