"""A guest in memory: the doors of `gateway.doors`, with processes that a test scripts.

A process's script is a coroutine that gets the process and returns its Ending. By itself the guest
knows a small shell: commands apart by `;`, of `echo WORDS [>&2]`, `cat`, `yes`, `sleep`, `env`,
`size`, `kill NAME`, `exit N`, and whatever a test put into `programs`.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred, fail, succeed

from gateway.entries import DownloadStart, Entry, Kind, Outbound, Stat, UploadStart
from gateway.errors import GateError, PlaceRefused
from gateway.listing import Listing
from gateway.model import SIGNALS, Ending, ExecRequest, Instance, Place, Stream, TCPPlace, UnixAddress
from tests.support.links import MemoryLink, MemoryListener, Peer
from tests.support.memorycopies import MemoryDownload, MemoryUpload
from tests.support.memoryprocess import MemoryProcess, Script, cat, env, size, sleep, yes


@dataclass
class MemoryGuest:
    """One guest. `failure` is what its next starts raise; `silent` ones never answer."""

    programs: dict[str, Script] = field(default_factory=dict)
    failure: GateError | None = None
    silent: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    processes: list[MemoryProcess] = field(default_factory=list)
    requests: list[ExecRequest] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    uploads: list[UploadStart] = field(default_factory=list)
    downloads: list[DownloadStart] = field(default_factory=list)
    entries: dict[str, Entry] = field(default_factory=dict)  # by path: as they were put
    problems: dict[str, str] = field(default_factory=dict)  # by path: why it cannot be put
    placing: Deferred[None] | None = None  # what it waits for before it says that an entry is in place
    broken: dict[str, bytes] = field(default_factory=dict)  # by Entry.resume: what a broken copy left
    trees: dict[str, Sequence[Outbound]] = field(default_factory=dict)  # by path: what comes out
    peers: dict[str, Peer] = field(default_factory=dict)  # by place: who answers there
    links: list[MemoryLink] = field(default_factory=list)
    listeners: dict[str, MemoryListener] = field(default_factory=dict)  # by place
    users: list[str] = field(default_factory=list)  # who forwarded
    held: Deferred[None] | None = None  # what answers to forwards wait for
    reached: bool = False

    def connect(self, place: Place, *, user: str = "", session_id: str = "", wait: float = 0) -> Deferred[MemoryLink]:
        self.users.append(user)
        if self.failure is not None:
            return fail(self.failure)
        if self.silent:
            return Deferred()
        peer = self.peers.get(str(place))
        if peer is None:
            return fail(PlaceRefused(message="Connection refused"))
        link = MemoryLink(peer)
        self.links.append(link)
        return succeed(link)

    def listen(
        self, place: Place, *, user: str = "", session_id: str = "", wait: float = 0
    ) -> Deferred[MemoryListener]:
        self.users.append(user)
        if self.failure is not None:
            return fail(self.failure)
        if self.silent:
            return Deferred()
        if str(place) in self.listeners and not self.listeners[str(place)].closed:
            return fail(PlaceRefused(message="Address already in use"))
        listener = MemoryListener(path="/tmp/vmgate-1/agent")
        if isinstance(place, TCPPlace):
            listener = MemoryListener(port=place.port or 40000 + len(self.listeners))
            place = TCPPlace(place.host, listener.port)
        self.listeners[str(place)] = listener
        answer = succeed(listener)
        return answer if self.held is None else self.held.addCallback(lambda _: listener)

    def start(self, request: ExecRequest, *, session_id: str = "", wait: float = 0) -> Deferred[MemoryProcess]:
        self.requests.append(request)
        self.waits.append(wait)
        if self.failure is not None:
            return fail(self.failure)
        if self.silent:
            return Deferred()
        process = MemoryProcess(request, self._run)
        self.processes.append(process)
        return succeed(process)

    async def _run(self, process: MemoryProcess) -> Ending:
        request = process.request
        if request.subsystem:
            return await self.programs.get(request.subsystem, cat)(process)
        line = shlex.join(request.command) if request.line is None else request.line.decode(errors="replace")
        if line in self.programs:
            return await self.programs[line](process)
        if line in ("", "/bin/sh"):
            return await cat(process)
        ending = Ending(0)
        for part in line.split(";"):
            try:
                words = shlex.split(part)
            except ValueError:
                return Ending(2)
            if not words:
                continue
            if words[0] == "exit":
                return Ending(int(words[1]))
            ending = await self._command(process, words)
        return ending

    async def _command(self, process: MemoryProcess, words: list[str]) -> Ending:
        known: dict[str, Script] = {"cat": cat, "yes": yes, "sleep": sleep, "env": env, "size": size}
        name, *rest = words
        if name == "echo":
            stream = Stream.STDERR if rest[-1:] == [">&2"] else Stream.STDOUT
            if stream is Stream.STDERR:
                rest.pop()
            await process.write(" ".join(rest).encode() + b"\n", stream)
            return Ending(0)
        if name == "kill":
            return Ending(128 + SIGNALS[rest[0]], signal=rest[0], core_dumped=rest[0] in ("SEGV", "ABRT"))
        if name in known:
            return await known[name](process)
        await process.write(f"{name}: not found\n".encode(), Stream.STDERR)
        return Ending(127)

    def upload(self, start: UploadStart, *, session_id: str = "", wait: float = 0) -> Deferred[MemoryUpload]:
        self.uploads.append(start)
        self.waits.append(wait)
        if self.failure is not None:
            return fail(self.failure)
        return Deferred() if self.silent else succeed(MemoryUpload(self, start))

    def download(self, start: DownloadStart, *, session_id: str = "", wait: float = 0) -> Deferred[MemoryDownload]:
        self.downloads.append(start)
        self.waits.append(wait)
        if self.failure is not None:
            return fail(self.failure)
        return Deferred() if self.silent else succeed(MemoryDownload(self, start))

    def stat(self, path: str, *, follow_links: bool = False, user: str = "", wait: float = 0) -> Deferred[Stat]:
        self.waits.append(wait)
        if self.failure is not None:
            return fail(self.failure)
        data, entry = self.files.get(path), self.entries.get(path)
        if entry is not None and entry.kind is Kind.DIRECTORY:
            return succeed(Stat(exists=True, is_dir=True, mode=entry.mode))
        return succeed(
            Stat(exists=False) if data is None else Stat(exists=True, is_file=True, mode=0o755, size=len(data))
        )


@dataclass
class MemoryWorld:
    """Instances and their guests: the doors Instances and Guests at once."""

    guests: dict[str, MemoryGuest] = field(default_factory=dict)
    instances: list[Instance] = field(default_factory=list)

    def add(self, name: str, *, state: str = "Running") -> MemoryGuest:
        """A new instance, id `i-NAME`, with its guest."""
        instance = Instance(id=f"i-{name}", name=name, address=UnixAddress(f"/nowhere/{name}"), state=state)
        self.instances.append(instance)
        self.guests[instance.id] = MemoryGuest()
        return self.guests[instance.id]

    def listing(self) -> Listing:
        return Listing(self.instances)

    def guest(self, instance: Instance) -> MemoryGuest:
        return self.guests[instance.id]
