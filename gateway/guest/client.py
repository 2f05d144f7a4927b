"""A guest as its users see it: our words in, our words out, over the pooled channel of its way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as LateError
from twisted.internet.interfaces import IReactorTime

from gateway import doors
from gateway.entries import DownloadStart, Stat, UploadStart
from gateway.errors import BadRequest, GuestFailed, GuestLacks, GuestLost
from gateway.guest import answer
from gateway.guest.channel import Channel, Identity, Metadata
from gateway.guest.course import Course
from gateway.guest.crossing import deferred
from gateway.guest.link import connect_start, connected
from gateway.guest.listener import listen_start, listening
from gateway.guest.process import Process, exec_start
from gateway.guest.put import putting
from gateway.guest.series import Series
from gateway.guest.transfer import Download, download_request
from gateway.model import ExecRequest, Place, PrivatePlace
from proto import guest_pb2 as pb

START_SECONDS = 30.0  # for our agent to say that a process started


Telling = Callable[[str, str], Metadata]  # of a session's id and a call's name


class Way(Protocol):
    """Where a client gets its channel: a way of the pool."""

    @property
    def open(self) -> Channel | None:
        """The channel, while it stands."""

    def channel(self, wait: float) -> Deferred[Channel]:
        """The open channel, dialled when needed; `wait` as in `gateway.doors.Guest`."""


class Client:
    """Implements `gateway.doors.Guest`. Belongs to the guest that its first call reached: what was begun
    there does not go on in another one that came to the same socket."""

    def __init__(self, way: Way, clock: IReactorTime, told: Telling = lambda session_id, rpc: ()) -> None:
        """`told` gives what a session's call carries besides."""
        self._told = told
        self._way = way
        self._clock = clock
        self._identity: Identity | None = None

    @property
    def reached(self) -> bool:
        return self._way.open is not None

    async def _channel(self, wait: float) -> Channel:
        channel = await self._way.channel(wait)
        if self._identity not in (None, channel.identity):
            raise GuestLost("another guest answers at its socket now")
        self._identity = channel.identity
        return channel

    def start(self, request: ExecRequest, *, session_id: str = "", wait: float = 0) -> Deferred[doors.Process]:
        return Deferred.fromCoroutine(self._start(request, session_id, wait))

    async def _start(self, request: ExecRequest, session_id: str, wait: float) -> doors.Process:
        channel = await self._channel(wait)
        start = exec_start(request, channel.agent, session_id)
        process = Process(
            channel.exec(self._told(session_id, "guest.GuestService/Exec")), start, request.timeout, self._clock
        )
        started = False
        try:
            await process.started().addTimeout(START_SECONDS, self._clock)
            started = True
        except LateError as error:
            raise GuestFailed(message=f"no process started within {START_SECONDS:g} s") from error
        finally:
            if not started:
                process.close()
        return process

    def upload(self, start: UploadStart, *, session_id: str = "", wait: float = 0) -> Deferred[doors.Upload]:
        return Deferred.fromCoroutine(self._upload(start, session_id, wait))

    async def _upload(self, start: UploadStart, session_id: str, wait: float) -> doors.Upload:
        channel = await self._channel(wait)
        if "put" in channel.agent.abilities:
            told = self._told(session_id, "vmgate.v1.Agent/Put")
            return await putting(channel, start, session_id, self._clock, told)
        if start.user:
            _require(channel, "put", "copies as a user of the guest")
        _sendable(start.path.encode)
        try:
            found = await deferred(channel.stat(start.path, follow_links=True))
        except (GuestFailed, GuestLacks):  # it may take copies nevertheless, and says why when not
            found = pb.StatPathResponse()
        told = self._told(session_id, "guest.GuestService/CopyToGuest")
        return Series(lambda: channel.upload(told), start.path, exists=found.exists, is_dir=found.is_dir)

    def download(self, start: DownloadStart, *, session_id: str = "", wait: float = 0) -> Deferred[doors.Download]:
        return Deferred.fromCoroutine(self._download(start, session_id, wait))

    async def _download(self, start: DownloadStart, session_id: str, wait: float) -> doors.Download:
        channel = await self._channel(wait)
        ours = "put" in channel.agent.abilities
        if start.user or start.offset:
            _require(channel, "put", "copies as a user of the guest" if start.user else "copies from an offset")
        request = _sendable(lambda: download_request(start, session_id, ours=ours))
        told = self._told(session_id, "guest.GuestService/CopyFromGuest")
        return Download(channel.download(request, told), Course(start, ours=ours))

    def stat(self, path: str, *, follow_links: bool = False, user: str = "", wait: float = 0) -> Deferred[Stat]:
        return Deferred.fromCoroutine(self._stat(path, follow_links, user, wait))

    async def _stat(self, path: str, follow_links: bool, user: str, wait: float) -> Stat:
        _sendable(path.encode)
        channel = await self._channel(wait)
        if user:
            _require(channel, "put", "looking at files as a user of the guest")
        found = await deferred(channel.stat(path, follow_links=follow_links, user=user))
        told = "put" in channel.agent.abilities
        return Stat(
            exists=found.exists,
            is_dir=found.is_dir,
            is_file=found.is_file,
            is_symlink=found.is_symlink,
            link_target=found.link_target[: answer.PATH],
            mode=found.mode & answer.PERMISSIONS,
            size=max(found.size, 0),
            error=answer.words(found.error),
            mtime_ns=answer.nanoseconds(found.mtime, found.mtime_nanos),
            owner=(found.uid, found.gid) if found.exists and told else None,
        )

    def connect(self, place: Place, *, user: str = "", session_id: str = "", wait: float = 0) -> Deferred[doors.Link]:
        return Deferred.fromCoroutine(self._connect(place, user, session_id, wait))

    async def _connect(self, place: Place, user: str, session_id: str, wait: float) -> doors.Link:
        start = connect_start(place, user, session_id)
        channel = await self._channel(wait)
        _require(channel, "forward", "forwarding")
        return await connected(channel, start, self._clock, self._told(session_id, "vmgate.v1.Agent/Connect"))

    def listen(
        self, place: Place, *, user: str = "", session_id: str = "", wait: float = 0
    ) -> Deferred[doors.Listener]:
        return Deferred.fromCoroutine(self._listen(place, user, session_id, wait))

    async def _listen(self, place: Place, user: str, session_id: str, wait: float) -> doors.Listener:
        start = listen_start(place, user, session_id)
        channel = await self._channel(wait)
        if isinstance(place, PrivatePlace):
            _require(channel, "agent", "agent forwarding")
        _require(channel, "listen", "forwarding")
        return await listening(channel, start, self._clock, self._told(session_id, "vmgate.v1.Agent/Listen"))


def _require(channel: Channel, ability: str, what: str) -> None:
    if ability not in channel.agent.abilities:
        raise GuestLacks(what=what)


def _sendable(make: Callable[[], bytes]) -> bytes:
    try:
        return make()
    except ValueError as error:  # lone surrogates
        raise BadRequest(str(error), message="this path cannot be sent to a guest") from error
