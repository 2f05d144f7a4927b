"""What the gateway as a whole does that no real client can make it do."""

from __future__ import annotations

from pathlib import Path

import pytest_twisted
from twisted.internet import reactor
from twisted.logger import LogLevel, capturedLogs

from gateway.config import Config
from gateway.notify import Manager
from gateway.service import Gateway
from tests.support import systemd


@pytest_twisted.ensureDeferred
async def test_a_reload_that_fails_as_nobody_foresaw_is_refused_and_over(tmp_path: Path) -> None:
    def load() -> Config:
        raise ZeroDivisionError

    with systemd.Manager(tmp_path) as manager, capturedLogs() as log:
        gateway = Gateway(Config(), load, reactor, Manager(manager.address, 0))
        problems = await gateway.reload()
        assert "RELOADING" in manager.told()
        assert manager.told()["READY"] == "1"
    assert problems == ["ZeroDivisionError, which nobody foresaw: the log has it"]
    assert any(event["log_level"] is LogLevel.critical for event in log)
