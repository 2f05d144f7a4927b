"""Every metric of the gateway: `catalogue` says which there are, `feed` counts events into them, `lag` measures
the loop, `hypeman` adds that program's own names. Knows no room that events come from."""

from gateway.metrics.feed import Metrics
from gateway.metrics.hypeman import Hypeman
from gateway.metrics.lag import Lag

__all__ = ["Hypeman", "Lag", "Metrics"]
