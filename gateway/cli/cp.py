"""`vmgate cp`: files and trees into an instance or out of it, by vmgate.v1."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from gateway.cli import server
from gateway.cli.download import Fetching
from gateway.cli.link import terms
from gateway.cli.meter import Meter, meter
from gateway.cli.places import LOCAL, Place, pair
from gateway.cli.problem import Problem, printable
from gateway.cli.tally import Tally
from gateway.cli.upload import Sending
from gateway.entries import DownloadStart, UploadStart
from gateway.web.v1.entries import Report

SOME = 1  # the exit code when some entries could not be copied


def run(options: argparse.Namespace) -> int:
    """Copy; 0 when all is in place, 1 when some is not."""
    source, target = pair(options.source, options.target)
    gateway = server.find(options)
    with meter(source.name or str(source), quiet=options.quiet) as shown:
        tally = Tally(shown)
        report = _whole(_copy(options, gateway, source, target, tally, shown))
    if options.json:
        sys.stdout.write(tally.report(report.entries, report.size))
    if report.error is not None:
        raise Problem(printable(report.error.message))
    if not tally.problems:
        return 0
    if tally.problems > 1 and not options.json:
        print(f"vmgate cp: {tally.problems} entries could not be copied", file=sys.stderr)
    return SOME


def _whole(copy: Coroutine[Any, Any, Report]) -> Report:
    """Run it; Ctrl-C clears up what is not whole, and then ends us as it ends any program."""
    caught = signal.SIGINT

    def end(number: int, _: object) -> None:
        nonlocal caught
        caught = signal.Signals(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, signal.default_int_handler)  # which asyncio takes for its own
    signal.signal(signal.SIGTERM, end)
    try:
        return asyncio.run(copy)
    except KeyboardInterrupt:
        signal.signal(caught, signal.SIG_DFL)
        signal.raise_signal(caught)
        raise


async def _copy(
    options: argparse.Namespace, gateway: server.Server, source: Place, target: Place, tally: Tally, shown: Meter
) -> Report:
    trees, owners = options.recursive or options.archive, options.archive
    wanted = terms(options.wait)
    if source.instance:
        fetching = Fetching(source, target, tally, shown, owners=owners, trees=trees)
        if options.parents:
            try:
                Path(target.path).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise Problem(f"{target}: {(error.strerror or str(error)).lower()}", LOCAL) from None
        start = DownloadStart(path=_asked(source), user=options.user, follow_links=options.follow_links)
        return await fetching.run(gateway, start, wanted)
    sending = Sending(source, target, tally, shown, owners=owners, follow=options.follow_links)
    if sending.directory and not trees:
        raise Problem(f"{source} is a directory; say -r to copy it with all below it", LOCAL)
    return await sending.run(gateway, UploadStart(path=target.path, user=options.user, parents=options.parents), wanted)


def _asked(source: Place) -> str:
    """The path as the guest is asked for it: what is in a directory comes as the directory does."""
    return source.path.rstrip("/").removesuffix("/.") or "/" if source.contents else source.path
