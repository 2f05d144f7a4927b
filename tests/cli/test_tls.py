"""The command over TLS: it believes what it is told to, and nothing else."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString

from tests.web.house import House, on_loop, token
from tests.web.test_tls import self_signed

ROOT = Path(__file__).parents[2]


@pytest_twisted.async_yield_fixture
async def house() -> AsyncIterator[House]:
    built = House()
    yield built
    await Deferred.fromFuture(asyncio.ensure_future(built.close()))


async def vmgate(place: Path, *words: str) -> tuple[int, str, str]:
    """Run it; its code, output and errors."""
    kept = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "XDG_CONFIG_HOME": str(place)}
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway.cli", *words, env=kept,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await child.communicate()
    return child.returncode or 0, out.decode(), err.decode()


@on_loop
async def test_a_certificate_that_is_named_is_trusted_and_no_other(house: House, tmp_path: Path) -> None:
    from twisted.internet import reactor  # noqa: PLC0415

    certificate, key = await self_signed(tmp_path)
    where = f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={certificate}"
    listening = await serverFromString(reactor, where).listen(house.site).asFuture(asyncio.get_event_loop())
    (tmp_path / "vmgate").mkdir()
    config = tmp_path / "vmgate" / "config.toml"
    config.touch(mode=0o600)
    text = f'url = "https://localhost:{listening.getHost().port}"\ntoken = "{token()}"\n'
    config.write_text(f'{text}ca = "{certificate}"\n')
    assert await vmgate(tmp_path, "exec", "alpha", "--", "echo", "in") == (0, "in\n", "")
    code, out, _ = await vmgate(tmp_path, "ls", "-q")
    assert (code, out) == (0, "alpha\nstopped\n")
    config.write_text(text)
    for words in (("exec", "alpha", "--", "echo", "in"), ("ls",)):
        code, out, err = await vmgate(tmp_path, *words)
        assert (code, out) == (255, "")
        assert "its certificate is not trusted" in err
    await listening.stopListening().asFuture(asyncio.get_event_loop())
