"""The messages of a session's end, on the whole path, as a client that records them sees them."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import pytest_twisted
from twisted.conch.ssh.keys import Key
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint

from gateway.config.ssh import MACS
from gateway.ssh.wire import string, uint32
from tests.ssh.raw import CLOSE, DATA, EOF, EXTENDED, REQUEST, RawClient, RawFactory
from tests.support.counts import count
from tests.support.processes import until
from tests.whole.conftest import Demo

NAMES = {DATA: "out", EXTENDED: "err", EOF: "eof", CLOSE: "close"}
STATUS_7 = string(b"exit-status") + b"\0" + uint32(7)
AT_ONCE = 10


def heard(client: RawClient, number: int) -> tuple[str, ...]:
    """What came on our channel of that number, in its order."""
    mine = [(kind, payload[4:]) for kind, payload in client.messages if payload[:4] == uint32(number)]
    return tuple("exit-status 7" if (kind, rest) == (REQUEST, STATUS_7) else NAMES.get(kind, "") for kind, rest in mine)


@pytest.fixture
def plain_macs(demo: Demo) -> None:
    """The recording client is Conch's, which knows no better MACs: a reload lets it in."""
    file = Path(demo.about["config_file"])
    reloads = demo.file("gateway.log").count("Reloaded:")
    file.write_text(file.read_text().replace("[ssh]\n", f"[ssh]\nmacs = {json.dumps(MACS)}\n"))
    os.kill(demo.gateway_pid, signal.SIGHUP)
    until(lambda: demo.file("gateway.log").count("Reloaded:") > reloads, what="the file is applied")


@pytest_twisted.ensureDeferred
async def test_output_then_exit_status_then_eof_then_close_every_time(demo: Demo, plain_macs: None) -> None:
    times = count(1000, 100)
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", demo.about["ssh_port"])
    client = await endpoint.connect(RawFactory())
    await client.login(b"alpha", Key.fromFile(Path(demo.about["identity_file"])))
    orders: dict[tuple[str, ...], int] = {}
    for start in range(0, times, AT_ONCE):
        client.messages.clear()
        channels = {number: await client.open(number=number) for number in range(start, start + AT_ONCE)}
        for channel in channels.values():
            client.exec(channel, b"echo out; echo err >&2; exit 7")
        await client.until(lambda: sum(kind == CLOSE for kind, _ in client.messages) == AT_ONCE, 60)
        for number, channel in channels.items():
            order = tuple(word for word in heard(client, number) if word)
            orders[order] = orders.get(order, 0) + 1
            client.sendPacket(CLOSE, uint32(channel))
    client.transport.loseConnection()
    await client.gone()
    end = ("exit-status 7", "eof", "close")
    assert set(orders) <= {("out", "err", *end), ("err", "out", *end)}
    assert sum(orders.values()) == times
    print(f"{times} of {times} runs in order")
