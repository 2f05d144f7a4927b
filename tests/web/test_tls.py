"""The sockets over TLS, with a certificate made for the test."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from pathlib import Path

from twisted.internet.endpoints import serverFromString
from websockets.asyncio.client import connect

from tests.web.house import House, conversation, on_loop, token


@on_loop
async def test_over_tls_everything_is_the_same(house: House, tmp_path: Path) -> None:
    from twisted.internet import reactor  # noqa: PLC0415

    certificate, key = await self_signed(tmp_path)
    where = f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={certificate}"
    listening = await serverFromString(reactor, where).listen(house.site).asFuture(asyncio.get_event_loop())
    context = ssl.create_default_context(cafile=certificate)
    house.port = listening.getHost().port
    data = os.urandom(3 << 20)
    headers = {"Authorization": f"Bearer {token()}"}
    where = f"wss://localhost:{house.port}/instances/alpha/exec"
    async with connect(where, ssl=context, additional_headers=headers, host="127.0.0.1", proxy=None) as socket:
        await socket.send(json.dumps({"command": ["cat"]}))

        async def send() -> None:
            await socket.send(data)
            await socket.send(b"")

        sending = asyncio.create_task(send())
        *pieces, last = await conversation(socket)
        await sending
    assert (b"".join(pieces), last) == (data, '{"exitCode":0}')  # type: ignore[arg-type]
    await listening.stopListening().asFuture(asyncio.get_event_loop())


async def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost and its key, as PEM files."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    making = await asyncio.create_subprocess_exec(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
        "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key),
        "-out", str(certificate), stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert await making.wait() == 0
    return certificate, key
