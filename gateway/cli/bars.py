"""A copy's progress by `rich`, which the extra `vmgate[cli]` brings. Without it this module cannot be imported."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from gateway.cli.meter import counted


class Bars:
    """One bar."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def expect(self, size: int) -> None:
        """So many bytes in all."""
        self._progress.update(self._task, total=size)

    def went(self, entries: int, size: int) -> None:
        """So much so far."""
        self._progress.update(self._task, completed=size, entries=counted(entries))

    def problem(self, sentence: str) -> None:
        """A line above the bar."""
        self._progress.console.print(sentence, markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def bars(name: str) -> Iterator[Bars]:
    """A bar that is there until the copy is over."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[entries]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield Bars(progress, progress.add_task(escape(name), total=None, entries=""))
