"""Measure, print, and write it down: `python -m bench [--quick | --guard] [--only CASES]`."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Iterable

from bench import guard, report
from bench.cases import copies, crowd, echo, floor, link, login, small, stream, web, workers
from bench.figures import Case
from bench.yard import FULL, GUARD, QUICK, Plan, opened, share

CASES = {
    "login": login.run,
    "echo": echo.run,
    "stream": stream.run,
    "copies": copies.run,
    "small": small.run,
    "crowd": crowd.run,
    "web": web.run,
    "link": link.run,
    "floor": floor.run,
    "workers": workers.run,
}
SLOW = ("workers",)  # not in the quick run: gateways of its own, whose cores the clients want
GUARDED = ("login", "stream", "copies")  # medians that a busy machine moves least


def main() -> None:
    """Run the cases that are wanted."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--quick", action="store_true", help="less of most things, in under 3 minutes")
    how.add_argument("--guard", action="store_true", help="2 minutes; fails when it is slower than was accepted")
    parser.add_argument(
        "--share", type=int, default=1, metavar="N", help="an Nth of everything, for machines in a hurry"
    )
    parser.add_argument("--accept", action="store_true", help="with --guard: accept what is found")
    parser.add_argument("--only", action="append", choices=CASES, help="these cases alone; docs/ stays as it is")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the servers end with us
    if options.guard:
        watch(options.only or GUARDED, accept=options.accept)
        return
    mode, plan = ("quick", QUICK) if options.quick else ("full", share(FULL, options.share))
    names = options.only or [name for name in CASES if not (options.quick and name in SLOW)]
    began = time.monotonic()
    found = report.results(run(plan, names), mode, time.monotonic() - began)
    found["seconds"], found["share"] = round(time.monotonic() - began), options.share
    report.write(found)
    if mode == "full" and not options.only:
        report.publish(found)


def run(plan: Plan, names: Iterable[str], *, alone: bool = False) -> list[Case]:
    """These cases, told as they are found."""
    found: list[Case] = []
    with opened(plan, alone=alone) as yard:
        for name in names:
            for case in CASES[name](yard):
                found.append(case)
                print(report.line(case), flush=True)
    return found


def watch(names: Iterable[str], *, accept: bool) -> None:
    """Compare with what was accepted; what looks too slow is measured once more before it counts."""
    began = time.monotonic()
    found = {case.case: case for case in run(GUARD, names, alone=True)}
    accepted = {} if accept else guard.accepted()
    if guard.slow(found.values(), accepted):
        print("Again, since some of it looks too slow:")
        for case in run(GUARD, names, alone=True):
            found[case.case] = guard.better(found.get(case.case, case), case)
    report.write(report.results(list(found.values()), "guard", time.monotonic() - began))
    if accept:
        guard.accept(found.values())
        return
    guard.tell(found.values(), accepted)
    failed = guard.slow(found.values(), accepted)
    for words in failed:
        print(f"bench: {words}", file=sys.stderr)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
