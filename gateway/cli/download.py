"""`vmgate cp` out of an instance: a file or a tree, written by a thread, each file whole or not there."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from gateway.cli.link import Link
from gateway.cli.meter import Meter
from gateway.cli.places import LOCAL, Place, inside, own_name, safe
from gateway.cli.problem import Problem
from gateway.cli.server import Server
from gateway.cli.tally import Tally
from gateway.disk.destination import Destination
from gateway.entries import DownloadStart, Entry, EntryError, Hole, Kind, Outbound
from gateway.errors import BadRequest
from gateway.web.v1.assembly import Assembly
from gateway.web.v1.entries import Batch, Download, Report
from gateway.web.v1.message import Channel, End, Terms

AHEAD = 1 << 20  # bytes that are written at once


class Fetching:
    """One copy out of an instance."""

    def __init__(self, source: Place, target: Place, tally: Tally, meter: Meter, *, owners: bool, trees: bool) -> None:
        self._source = source
        self._target = target
        self._tally = tally
        self._meter = meter
        self._owners = owners
        self._trees = trees
        self._assembly = Assembly()
        self._destination: Destination | None = None
        self._pieces: list[Outbound] = []  # that were not written yet
        self._waiting = 0  # bytes of them
        self._entries = self._size = 0

    async def run(self, server: Server, start: DownloadStart, terms: Terms) -> Report:
        """To its end. Raises Problem."""
        link = self._link = await Link.open(server, ("instances", self._source.instance, "cp"), Download(start, terms))
        try:
            while True:
                got = await link.receive()
                if isinstance(got, Report):
                    await self._write()
                    await self._close()
                    self._meter.went(self._entries, self._size)
                    return got
                await self._take(got)
        except BadRequest as error:
            raise Problem(f"{server.url} sent what is no copy: {error.sentence}") from None
        finally:
            await self._close()
            link.close()

    async def _take(self, got: object) -> None:
        match got:
            case (Channel.CONTENT, bytes(data)):
                self._pieces.extend(self._assembly.data(data))
                self._waiting += len(data)
            case Entry() | Batch() | Hole() | End():
                self._pieces.extend(self._assembly.take(got))
            case EntryError():
                self._assembly.broken()
                self._pieces.append(got)
            case _:
                return
        if self._waiting >= AHEAD or not self._link.waits:
            await self._write()

    async def _write(self) -> None:
        """What came so far; only then is there credit for more."""
        pieces, size = self._pieces, self._waiting
        self._pieces, self._waiting = [], 0
        good = [piece for piece in pieces if self._judge(piece)]
        if self._destination is None:
            self._destination = self._begin(good)
        problems: list[EntryError] = []
        if self._destination is not None:
            problems = await asyncio.to_thread(self._destination.take, good)
        else:
            problems = [piece for piece in good if isinstance(piece, EntryError)]
        for problem in problems:
            self._tally.problem(f"{self._source.instance}:{problem.path}", problem.message)
        self._link.consumed(size)
        self._meter.went(self._entries, self._size)

    def _judge(self, piece: Outbound) -> bool:
        """Count it. Raises BadRequest for a path that climbs: no gateway sends that."""
        match piece:
            case Entry():
                if not safe(piece.path) or (piece.kind is Kind.HARD_LINK and not safe(piece.target)):
                    raise BadRequest(message="a path that leads elsewhere")
                self._entries += 1
            case bytes():
                self._size += len(piece)
            case Hole():
                self._size += piece.size
        return True

    def _begin(self, pieces: list[Outbound]) -> Destination | None:
        """Now that the first entry tells what SRC is, where it goes. Raises Problem."""
        root = next((piece for piece in pieces if isinstance(piece, Entry)), None)
        if root is None:
            return None
        directory = root.kind is Kind.DIRECTORY
        if directory and not self._trees:
            raise Problem(f"{self._source} is a directory; say -r to copy it with all below it", LOCAL)
        if not directory and root.size > 0:
            self._meter.expect(root.size)
        place = Path(self._target.path)
        there, is_dir = os.path.lexists(place), place.is_dir()
        if inside(self._source, self._target, directory=directory, exists=there, is_dir=is_dir):
            place /= own_name(self._source, root.path.split("/")[0])
        elif is_dir or place.is_symlink():
            place = place.resolve()
        try:
            return Destination(place, owners=self._owners)
        except OSError as error:
            raise Problem(f"{self._target}: {(error.strerror or str(error)).lower()}", LOCAL) from None

    async def _close(self) -> None:
        """Directories get what they are to have; what is not whole is gone."""
        destination, self._destination = self._destination, None
        if destination is not None:
            await asyncio.to_thread(destination.close)
