"""Measure, print, and write it down: `python -m bench [--quick] [--only WORD]`."""

from __future__ import annotations

import argparse
import time

from bench import report
from bench.cases import copies, crowd, echo, floor, link, login, small, stream, web
from bench.figures import Case
from bench.yard import FULL, QUICK, opened

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
}


def main() -> None:
    """Run the cases that are wanted."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything: under 3 minutes")
    parser.add_argument("--only", action="append", choices=CASES, help="these cases alone; writes no docs")
    options = parser.parse_args()
    plan = QUICK if options.quick else FULL
    began = time.monotonic()
    found: list[Case] = []
    with opened(plan) as yard:
        for name in options.only or CASES:
            for case in CASES[name](yard):
                found.append(case)
                print(report.line(case), flush=True)
    report.write(found, "quick" if options.quick else "full", time.monotonic() - began)


if __name__ == "__main__":
    main()
