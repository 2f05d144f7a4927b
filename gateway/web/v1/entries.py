"""The messages of vmgate.v1's cp path: how each is written and read. Pure.

Entries and what is told of them are the house's own words (`gateway.entries`). What is read is hostile:
a message is right, or a BadRequest says what is wrong with it. A path is only read here; whether it
climbs is for those to see who go there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.entries import DownloadStart, Entry, EntryError, Held, Hole, Kind, Placed, UploadStart
from gateway.model import Outcome
from gateway.web.message import MAX_WORDS, PERMISSIONS, SECOND, UINT32, Fields
from gateway.web.v1.message import SAFE, Problem, Terms, Words, text

MAX_BATCH = 1024  # entries
MAX_RESUME = 256  # characters
ENTRY_PRICE = 256  # bytes that an entry counts beside its text

KINDS = {"file": Kind.FILE, "directory": Kind.DIRECTORY, "symlink": Kind.SYMLINK, "hard_link": Kind.HARD_LINK}
NAMES = {kind: name for name, kind in KINDS.items()}


# From the client.


@dataclass(frozen=True, slots=True)
class Upload:
    """A copy into the guest."""

    start: UploadStart
    terms: Terms = field(default_factory=Terms)

    def words(self) -> Words:
        """Its JSON object."""
        start = self.start
        words: Words = {"type": "upload", **text("path", start.path)}
        words |= {key: True for key in ("parents", "sync") if getattr(start, key)}
        return words | ({"user": start.user} if start.user else {}) | self.terms.words()


@dataclass(frozen=True, slots=True)
class Download:
    """A copy out of the guest."""

    start: DownloadStart
    terms: Terms = field(default_factory=Terms)

    def words(self) -> Words:
        """Its JSON object."""
        start = self.start
        words: Words = {"type": "download", **text("path", start.path)}
        words |= {"follow_links": True} if start.follow_links else {}
        words |= {"offset": start.offset} if start.offset else {}
        return words | ({"user": start.user} if start.user else {}) | self.terms.words()


@dataclass(frozen=True, slots=True)
class Finish:
    """There are no more entries."""

    def words(self) -> Words:
        """Its JSON object."""
        return {"type": "finish"}


# From whoever copies.


@dataclass(frozen=True, slots=True)
class Batch:
    """Entries whose contents follow, one behind the other."""

    entries: tuple[Entry, ...]

    @property
    def size(self) -> int:
        """Of all contents, bytes."""
        return sum(entry.size for entry in self.entries if entry.kind is Kind.FILE)

    def words(self) -> Words:
        """Its JSON object."""
        return {"type": "batch", "entries": [_entry_words(entry) for entry in self.entries]}


# From the server.


@dataclass(frozen=True, slots=True)
class Ready:
    """The guest takes entries; this is where the upload goes now."""

    exists: bool
    is_dir: bool

    def words(self) -> Words:
        """Its JSON object."""
        return {"type": "ready", "exists": self.exists, "is_dir": self.is_dir}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How the copy ended; the last message."""

    outcome: Outcome
    entries: int
    size: int
    problems: int
    error: Problem | None = None

    def words(self) -> Words:
        """Its JSON object."""
        words: Words = {"type": "report", "outcome": self.outcome.value, "entries": self.entries}
        words |= {"size": self.size, "problems": self.problems}
        return words | ({"error": self.error.words()} if self.error else {})


def piece_words(piece: Entry | Hole | Held | Placed | EntryError) -> Words:
    """The JSON object of one of the house's own words."""
    match piece:
        case Entry():
            return {"type": "entry", **_entry_words(piece)}
        case Hole():
            return {"type": "hole", "size": piece.size}
        case Held():
            return {"type": "held", "size": piece.size}
        case Placed():
            return {"type": "placed", "entries": piece.entries, "size": piece.size}
        case EntryError():
            return {"type": "problem", **text("path", piece.path), "message": piece.message[:MAX_WORDS]}


def _entry_words(entry: Entry) -> Words:
    words: Words = {**text("path", entry.path), "kind": NAMES[entry.kind], "mode": entry.mode & PERMISSIONS}
    words |= {"size": entry.size} if entry.kind is Kind.FILE else {}
    if entry.mtime_ns is not None:
        seconds, nanos = divmod(entry.mtime_ns, SECOND)
        words |= {"mtime": seconds, "mtime_nanos": nanos}
    if entry.owner is not None:
        words |= {"uid": entry.owner[0], "gid": entry.owner[1]}
    words |= text("target", entry.target) if entry.target else {}
    return words | ({"resume": entry.resume} if entry.resume else {})


# Reading.


def read_upload(fields: Fields, terms: Terms) -> Upload:
    """The first message of a copy into the guest."""
    flags = {key: fields.flag(key) for key in ("parents", "sync")}
    return Upload(UploadStart(path=_path(fields), user=fields.text("user"), **flags), terms)


def read_download(fields: Fields, terms: Terms) -> Download:
    """The first message of a copy out of the guest."""
    follow, offset = fields.flag("follow_links"), fields.number("offset", SAFE)
    user = fields.text("user")
    return Download(DownloadStart(path=_path(fields), user=user, follow_links=follow, offset=offset), terms)


def _path(fields: Fields) -> str:
    path = _name(fields, "path")
    if not path:
        fields.wrong("path", "a path")
    return path


def _name(fields: Fields, key: str) -> str:
    return fields.name(key).decode("utf-8", "surrogateescape")


def read_entry(fields: Fields, *, whole: bool = False) -> Entry:
    """An entry; one that is `whole` has a size and no resume."""
    kind = KINDS.get(fields.text("kind"))
    if kind is None:
        fields.wrong("kind", "one of file, directory, symlink and hard_link")
    if not (fields.has("path") or fields.has("path_b64")):
        fields.wrong("path", "there")
    target, resume = _name(fields, "target"), fields.text("resume")
    if bool(target) != (kind in (Kind.SYMLINK, Kind.HARD_LINK)):
        fields.wrong("target", "there for links, and for them alone")
    if len(resume) > MAX_RESUME or (resume and (whole or kind is not Kind.FILE)):
        fields.wrong("resume", f"of at most {MAX_RESUME} characters, and a file's that comes alone")
    return Entry(
        path=_name(fields, "path"),
        mode=fields.number("mode", PERMISSIONS, default=-1),
        kind=kind,
        target=target,
        size=fields.number("size", SAFE, 0 if whole else -1) if kind is Kind.FILE else 0,
        mtime_ns=_mtime(fields),
        owner=_owner(fields),
        resume=resume,
    )


def _mtime(fields: Fields) -> int | None:
    if not fields.has("mtime"):
        return None
    return fields.number("mtime", SAFE, -SAFE) * SECOND + fields.number("mtime_nanos", SECOND - 1)


def _owner(fields: Fields) -> tuple[int, int] | None:
    if not (fields.has("uid") or fields.has("gid")):
        return None
    return fields.number("uid", UINT32, default=-1), fields.number("gid", UINT32, default=-1)


def read_batch(fields: Fields) -> Batch:
    """Whole entries."""
    entries = fields.objects("entries", MAX_BATCH)
    if not entries:
        fields.wrong("entries", "there")
    return Batch(tuple(read_entry(entry, whole=True) for entry in entries))


def read_hole(fields: Fields) -> Hole:
    """Zeroes."""
    return Hole(fields.number("size", SAFE, 1))


def read_held(fields: Fields) -> Held:
    """What the guest has of a file."""
    return Held(fields.number("size", SAFE))


def read_placed(fields: Fields) -> Placed:
    """What is in place."""
    return Placed(fields.number("entries", SAFE), fields.number("size", SAFE))


def read_problem(fields: Fields) -> EntryError:
    """What is not."""
    return EntryError(fields.text("message"), _name(fields, "path"))


def read_ready(fields: Fields) -> Ready:
    """What is there."""
    return Ready(fields.flag("exists"), fields.flag("is_dir"))
