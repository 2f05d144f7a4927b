"""What is revoked lets nobody in, and puts out who is: keys, certificates and CAs, by lists of ssh-keygen's."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.logger import ILogObserver, formatEvent, globalLogPublisher
from zope.interface import provider

from gateway.config.ssh import SSHConfig
from gateway.errors import ConfigError
from gateway.events import Evicted
from tests.ssh.house import House, eventually, new_identity
from tests.ssh.test_certificates import arrange


def revoke(place: Path, *spec: str, name: str = "revoked") -> Path:
    """A key revocation list of the CA `ca`."""
    (place / "spec").write_text("".join(f"{text}\n" for text in spec))
    command = ["ssh-keygen", "-q", "-k", "-f", name, "-s", "ca.pub", "spec"]
    subprocess.run(command, cwd=place, check=True)
    return place / name


def public(place: Path, name: str) -> str:
    return (place / f"{name}.pub").read_text()


# What `arrange` makes is revoked; the audit's reason for it.
BY_LIST: dict[str, tuple[Callable[[Path], str], str]] = {
    "serial": (lambda place: "serial: 7", "serial 7 of anna is revoked by its serial 7"),
    "serials": (lambda place: "serial: 1-1000000", "is revoked by its serial 7"),
    "key id": (lambda place: "id: anna", "serial 7 of anna is revoked by its key id"),
    "key": (lambda place: f"key: {public(place, 'user')}", "serial 7 of anna is revoked by the key itself"),
    "sha1": (lambda place: f"sha1: {public(place, 'user')}", "is revoked by its fingerprint"),
    "sha256": (lambda place: f"sha256: {public(place, 'user')}", "is revoked by its fingerprint"),
    "CA": (lambda place: f"key: {public(place, 'ca')}", "is revoked by the key itself"),
    "CA's sha256": (lambda place: f"sha256: {public(place, 'ca')}", "is revoked by its fingerprint"),
}


@pytest.mark.parametrize("by", BY_LIST)
@pytest_twisted.ensureDeferred
async def test_a_revoked_certificate_is_refused_and_audited(house: House, by: str) -> None:
    spec, why = BY_LIST[by]
    await arrange(house)
    house.reconfigure(revoked_keys=(revoke(house.place, "serial: 8", "id: ben"),))
    assert (await house.ssh("exit 0", identity="user")).code == 0
    revoke(house.place, spec(house.place))
    done = await house.ssh("exit 0", identity="user")
    assert (done.code, b"Permission denied" in done.err) == (255, True)
    reason = house.refused()[-1].reason
    assert "certificate: " in reason
    assert why in reason


@pytest.mark.parametrize("whose", ["user", "ca"])
@pytest_twisted.ensureDeferred
async def test_a_plain_list_revokes_certificates_by_their_keys(house: House, whose: str) -> None:
    await arrange(house)
    (house.place / "gone").write_text(public(house.place, whose))
    house.reconfigure(revoked_keys=(revoke(house.place), house.place / "gone"))
    assert (await house.ssh("exit 0", identity="user")).code == 255
    assert "is revoked by the key itself" in house.refused()[-1].reason


@pytest_twisted.ensureDeferred
async def test_a_revoked_key_is_refused_and_audited_whatever_authorized_keys_says(house: House) -> None:
    (house.place / "gone").write_text("")
    house.reconfigure(revoked_keys=(house.place / "gone",))
    assert (await house.ssh("exit 0")).code == 0
    (house.place / "gone").write_text(public(house.place, "identity"))  # and without a reload
    assert (await house.ssh("exit 0")).code == 255
    assert re.search(r"\[publickey: SHA256:\S+ is revoked by the key itself]", house.refused()[-1].reason)


@pytest.mark.parametrize("what", ["missing", "cut off", "no list"])
@pytest_twisted.ensureDeferred
async def test_who_is_revoked_cannot_be_known_so_nobody_enters_until_it_is_again(house: House, what: str) -> None:
    new_identity(house.place / "ca")
    path = revoke(house.place, "serial: 1")
    good = path.read_bytes()
    house.reconfigure(revoked_keys=(path,))
    said: list[str] = []
    with muted(said):
        if what == "missing":
            path.unlink()
        else:
            path.write_bytes(good[:-1] if what == "cut off" else b"nonsense\n")
        assert (await house.ssh("exit 0")).code == 255
        assert "what is revoked cannot be read" in house.refused()[-1].reason
        assert any(str(path) in text for text in said)
    path.write_bytes(good)
    assert (await house.ssh("exit 0")).code == 0


@pytest_twisted.ensureDeferred
async def test_a_list_that_cannot_be_used_is_not_loaded_and_changes_nothing(house: House) -> None:
    (house.place / "gone").write_text("nonsense\n")
    for name, why in (("gone", "gone: line 1: no public key"), ("none", "none cannot be read: No such file")):
        with pytest.raises(ConfigError, match=why):
            house.front.prepare(replaced(house, name))
    assert (await house.ssh("exit 0")).code == 0


@pytest_twisted.ensureDeferred
async def test_who_is_revoked_is_out_with_the_next_review(house: House) -> None:
    await arrange(house)
    house.reconfigure(revoked_keys=(revoke(house.place, "serial: 8"),))
    running = house.ssh("sleep", identity="user")
    await eventually(lambda: house.alpha.requests)
    revoke(house.place, "serial: 7")
    house.gate.review()
    house.front.review()
    assert (await running).code == 255
    evicted = [event for event in house.events if isinstance(event, Evicted)]
    assert evicted[0].reason == "the certificate of anna holds no more"


def replaced(house: House, name: str) -> SSHConfig:
    return replace(house.config, revoked_keys=(house.place / name,))


@contextmanager
def muted(said: list[str]) -> Iterator[None]:
    """Errors in the log are what is asked for: the texts, in place of the house's complaints."""
    observers = list(globalLogPublisher._observers)
    for observer in observers:
        globalLogPublisher.removeObserver(observer)

    @provider(ILogObserver)
    def keep(event: dict[str, Any]) -> None:
        said.append(formatEvent(event))

    globalLogPublisher.addObserver(keep)
    try:
        yield
    finally:
        globalLogPublisher.removeObserver(keep)
        for observer in observers:
            globalLogPublisher.addObserver(observer)
