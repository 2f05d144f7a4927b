"""Instances that stand in the configuration file."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.listing import Listing
from gateway.model import Instance


class Static:
    """A list that only a reload changes."""

    def __init__(self, instances: Sequence[Instance] = ()) -> None:
        self._listing = Listing(instances)

    def listing(self) -> Listing:
        """What is configured now."""
        return self._listing

    def replace(self, instances: Sequence[Instance]) -> None:
        """Another list from now on, as a whole."""
        self._listing = Listing(instances)
