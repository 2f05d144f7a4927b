"""What a scrape of the metrics costs the gateway's processor.

    python bench/scrape.py [--rounds 50] [--sessions 10000]

Makes the page of every metric there is, hypeman's names among them, in each format, plain and packed, and
adds up what so many sessions moved, as each scrape does. Prints milliseconds of processor time, median; asserts
nothing.
"""

from __future__ import annotations

import argparse
import gzip
import statistics
import time
from collections.abc import Callable

from prometheus_client.exposition import choose_encoder
from twisted.internet.task import Clock

from gateway.eventlog import EventLog
from gateway.events import Events, SessionStarted
from gateway.measures import Tally
from gateway.metrics import Hypeman, Metrics
from gateway.model import Operation, Via


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=50, help="pages of each kind (default: 50)")
    parser.add_argument("--sessions", type=int, default=10_000, help="that run meanwhile (default: 10000)")
    options = parser.parse_args()
    metrics = Metrics()
    events = Events([metrics, Hypeman(metrics.registry)])
    plain, _ = choose_encoder("")
    openmetrics, _ = choose_encoder("application/openmetrics-text; version=1.0.0")
    series = sum(len(family.samples) for family in metrics.registry.collect())
    text = plain(metrics.registry)
    print(f"{series} series, {len(text)} bytes, {len(gzip.compress(text, 1))} packed")
    told = SessionStarted(session_id="", via=Via.SSH, subject="", instance_id="", operation=Operation.EXEC, peer="")
    logs = [EventLog(events, told, Clock()) for _ in range(options.sessions)]

    def progress() -> None:
        tally = Tally()
        for log in logs:
            log.bytes_out += 1
            log.tell(tally)

    for name, work in (
        ("text", lambda: plain(metrics.registry)),
        ("OpenMetrics", lambda: openmetrics(metrics.registry)),
        ("text, packed", lambda: gzip.compress(plain(metrics.registry), 1)),
        (f"adding up {options.sessions} sessions", progress),
    ):
        print(f"{name:34} {1000 * median(work, options.rounds):6.2f} ms")


def median(work: Callable[[], object], rounds: int) -> float:
    """Seconds of processor time."""
    taken = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return statistics.median(taken)


if __name__ == "__main__":
    main()
