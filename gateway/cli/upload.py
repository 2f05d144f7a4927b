"""`vmgate cp` into an instance: a file or a tree of this disk, read ahead by a thread, as fast as credit comes."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import replace
from pathlib import Path

from gateway.cli.link import Link
from gateway.cli.meter import Meter
from gateway.cli.places import LOCAL, Place, below, inside, own_name
from gateway.cli.problem import Problem
from gateway.cli.server import Server
from gateway.cli.tally import Tally
from gateway.disk.source import Source
from gateway.entries import Entry, EntryError, Held, Inbound, Kind, Placed, UploadStart
from gateway.web.v1.bundle import Bundle, Told
from gateway.web.v1.entries import Batch, Finish, Ready, Report, Upload
from gateway.web.v1.message import Channel, Terms

BUNDLE = 256 << 10  # bytes of content in one batch


class Sending:
    """One copy into an instance."""

    def __init__(self, source: Place, target: Place, tally: Tally, meter: Meter, *, owners: bool, follow: bool) -> None:
        self._source = source
        self._target = target
        self._tally = tally
        self._meter = meter
        root = Path(source.path)
        try:
            self._directory = root.is_dir()
            self._files = Source(root, owners=owners, resume=True, follow_links=follow)
        except OSError as error:
            raise Problem(f"{source}: {(error.strerror or str(error)).lower()}", LOCAL) from None
        self._held: asyncio.Queue[int] = asyncio.Queue()
        self._bundle = Bundle(BUNDLE)

    @property
    def directory(self) -> bool:
        """Whether SRC is one."""
        return self._directory

    async def run(self, server: Server, start: UploadStart, wait: Terms) -> Report:
        """To its end. Raises Problem."""
        link = self._link = await Link.open(server, ("instances", self._target.instance, "cp"), Upload(start, wait))
        sending: asyncio.Task[None] | None = None
        measuring = asyncio.create_task(self._measure())
        try:
            while True:
                match await link.receive():
                    case Ready() as ready:
                        sending = asyncio.create_task(self._send(self._name(ready)))
                        sending.add_done_callback(self._sent)
                    case Held(size):
                        self._held.put_nowait(size)
                    case Placed(entries, size):
                        self._meter.went(entries, size)
                    case EntryError(message, path):
                        self._tally.problem(below(str(self._target), path), message)
                    case Report() as report:
                        self._meter.went(report.entries, report.size)
                        return report
        finally:
            for task in (measuring, *([sending] if sending else [])):
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            self._files.close()
            link.close()

    def _sent(self, task: asyncio.Task[None]) -> None:
        """Our own side broke: who waits for the gateway is told."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._link.failed(error)

    def _name(self, ready: Ready) -> str:
        """Under which name everything goes below the target."""
        directory = self._directory
        if inside(self._source, self._target, directory=directory, exists=ready.exists, is_dir=ready.is_dir):
            return own_name(self._source, Path(self._source.path).resolve().name)
        return ""

    async def _measure(self) -> None:
        """How much it will be, for the meter."""
        self._meter.expect(await asyncio.to_thread(_size, Path(self._source.path)))

    async def _send(self, name: str) -> None:
        while pieces := await asyncio.to_thread(self._files.batch):
            for piece in pieces:
                if isinstance(piece, EntryError):
                    self._tally.problem(piece.path, piece.message)
                    continue
                for told in self._bundle.take(_named(name, piece)):
                    await self._hand_over(told)
            last = pieces[-1]
            if isinstance(last, Entry) and last.resume:
                self._files.held = await self._held.get()
        for told in self._bundle.flush():
            await self._hand_over(told)
        self._link.tell(Finish())

    async def _hand_over(self, told: Told) -> None:
        match told:
            case bytes():
                await self._link.stream(Channel.CONTENT, told)
            case Entry() | Batch():
                await self._link.put(told)
            case EntryError():
                pass  # a local one, which the user was told
            case _:
                self._link.tell(told)


def _named(name: str, piece: Inbound) -> Inbound:
    """The piece, with its paths below that name."""
    if not name or not isinstance(piece, Entry):
        return piece
    target = below(name, piece.target) if piece.kind is Kind.HARD_LINK else piece.target
    return replace(piece, path=below(name, piece.path), target=target)


def _size(root: Path) -> int:
    """Of all files, bytes; what cannot be read counts nothing."""
    total = 0
    with contextlib.suppress(OSError):
        if not root.is_dir():
            return root.stat().st_size
    for directory, _, names in os.walk(root):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(directory, name)).st_size
    return total
