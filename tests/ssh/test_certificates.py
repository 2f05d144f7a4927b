"""User certificates as ssh-keygen makes them and ssh shows them: who gets in, and who does not."""

from __future__ import annotations

import base64
import subprocess
import time
from pathlib import Path

import pytest
import pytest_twisted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.auth.certificates import Authorities, RefusedCertificate
from gateway.config.policy import Policy, Rule
from gateway.events import SessionStarted
from tests.ssh.house import House, eventually, new_identity

HERE = "127.0.0.1"


def certify(place: Path, *words: str, ca: str = "ca", key: str = "user", principals: str = "alpha") -> bytes:
    """A certificate of ssh-keygen's for a key; its blob. Beside the key, as ssh looks for it."""
    for name in (ca, key):
        if not (place / name).exists():
            new_identity(place / name)
    names = ["-n", principals] if principals else []
    command = ["ssh-keygen", "-q", "-s", place / ca, "-I", "anna", "-z", "7", *names, *words, place / f"{key}.pub"]
    subprocess.run(command, check=True)
    return base64.b64decode((place / f"{key}-cert.pub").read_text().split()[1])


def trust(place: Path, name: str = "ca") -> Authorities:
    if not (place / name).exists():
        new_identity(place / name)
    return Authorities.parse((place / f"{name}.pub").read_bytes())


def test_a_certificate_says_who_where_and_how(tmp_path: Path) -> None:
    cert = trust(tmp_path).read(certify(tmp_path, "-O", "no-pty", "-O", "force-command=id"), HERE, time.time())
    assert (cert.subject, cert.serial, cert.names) == ("anna", 7, ("alpha",))
    assert (cert.options.pty, cert.options.port_forwarding, cert.options.command) == (False, True, "id")
    assert cert.principal(ruled=False).instances == {"alpha"}
    assert (cert.principal(ruled=True).instances, cert.principal(ruled=True).groups) == (None, {"alpha"})


def test_a_star_is_no_name_of_every_instance(tmp_path: Path) -> None:
    cert = trust(tmp_path).read(certify(tmp_path, principals="*,alpha"), HERE, time.time())
    assert cert.principal(ruled=False).instances == {"alpha"}


WRONG = {
    "an unknown CA": (["-V", "+1h"], "alpha", "other"),
    "expired": (["-V", "20200101:20200102"], "alpha", "ca"),
    "not valid yet": (["-V", "20900101:20910101"], "alpha", "ca"),
    "no principals": ([], "", "ca"),
    "an unknown critical option 'new@example.org'": (["-O", "critical:new@example.org=1"], "alpha", "ca"),
    "not from this address": (["-O", "source-address=192.0.2.0/24"], "alpha", "ca"),
}


@pytest.mark.parametrize("why", WRONG)
@pytest_twisted.ensureDeferred
async def test_a_wrong_certificate_is_refused_and_audited(house: House, why: str) -> None:
    words, principals, ca = WRONG[why]
    await arrange(house, *words, principals=principals, ca=ca)
    done = await house.ssh("exit 0", identity="user")
    assert (done.code, b"Permission denied" in done.err) == (255, True)
    assert f"certificate: {why}" in house.refused()[-1].reason


@pytest_twisted.ensureDeferred
async def test_a_certificate_for_another_instance_is_refused_and_audited(house: House) -> None:
    await arrange(house, principals="beta")
    assert b"Permission denied" in (await house.ssh("exit 0", identity="user")).err
    assert "certificate 7 of anna: not for this instance" in house.refused()[-1].reason
    assert (await house.ssh("exit 0", identity="user", user="beta")).code == 0


def test_a_hosts_certificate_is_no_users(tmp_path: Path) -> None:
    """OpenSSH's client does not even show one."""
    with pytest.raises(RefusedCertificate, match="a host's certificate"):
        trust(tmp_path).read(certify(tmp_path, "-h"), HERE, time.time())


def test_an_altered_certificate_is_refused(tmp_path: Path) -> None:
    blob = certify(tmp_path)
    cas = trust(tmp_path)
    last = bytes((blob[-1] ^ 1,))
    for altered in (blob.replace(b"alpha", b"gamma"), blob[:-1] + last, blob.replace(b"anna", b"root")):
        with pytest.raises(RefusedCertificate, match="an altered signature"):
            cas.read(altered, HERE, time.time())


def test_a_signature_by_sha1_is_refused(tmp_path: Path) -> None:
    new_identity(tmp_path / "ca", "rsa", "-b", "2048")
    cas = trust(tmp_path)
    with pytest.raises(RefusedCertificate, match="SHA-1"):
        cas.read(certify(tmp_path, "-t", "ssh-rsa"), HERE, time.time())
    assert cas.read(certify(tmp_path, "-t", "rsa-sha2-512"), HERE, time.time()).subject == "anna"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(at=st.integers(0, 10_000), to=st.binary(max_size=8), cut=st.booleans())
def test_any_bytes_are_a_certificate_or_refused(tmp_path: Path, at: int, to: bytes, cut: bool) -> None:
    if not (tmp_path / "user").exists():
        certify(tmp_path)
    blob = base64.b64decode((tmp_path / "user-cert.pub").read_text().split()[1])
    at %= len(blob)
    spoilt = blob[:at] + to + (b"" if cut else blob[at + len(to) :])
    try:
        assert trust(tmp_path).read(spoilt, HERE, time.time()).subject == "anna"
    except RefusedCertificate as problem:
        assert str(problem)


async def arrange(house: House, *words: str, principals: str = "alpha", ca: str = "ca") -> None:
    """A house that trusts one CA and no key, and a user with a certificate."""
    house.authorize()
    trust(house.place)
    certify(house.place, *words, principals=principals, ca=ca)
    house.reconfigure(trusted_user_ca_keys=house.place / "ca.pub")


@pytest.mark.parametrize("kind", [("ed25519",), ("ecdsa",), ("rsa", "-b", "2048")], ids=lambda kind: kind[0])
@pytest_twisted.ensureDeferred
async def test_openssh_enters_by_a_certificate(house: House, kind: tuple[str, ...]) -> None:
    new_identity(house.place / "user", *kind)
    await arrange(house)
    assert (await house.ssh("exit 5", identity="user")).code == 5
    [started] = [event for event in house.events if isinstance(event, SessionStarted)]
    assert started.subject == "anna"
    assert started.credential.startswith("certificate 7 of SHA256:")


@pytest_twisted.ensureDeferred
async def test_a_certificate_forces_its_command_and_permits_what_it_says(house: House) -> None:
    await arrange(house, "-O", "clear", "-O", "force-command=echo forced")
    assert (await house.ssh("echo asked", identity="user")).out == b"forced\n"
    assert b"PTY allocation request failed" in (await house.ssh("-tt", "exit 3", identity="user")).err


@pytest_twisted.ensureDeferred
async def test_with_rules_the_principals_are_groups(house: House) -> None:
    await arrange(house, principals="ops")
    assert (await house.ssh("exit 0", identity="user")).code == 255
    house.gate.reload(Policy((Rule(name="ops", allows=True, groups=frozenset({"ops"})),)))
    assert (await house.ssh("exit 0", identity="user")).code == 0


@pytest_twisted.ensureDeferred
async def test_the_certificate_without_its_key_proves_nothing(house: House) -> None:
    await arrange(house)
    (house.place / "user").rename(house.place / "theirs")
    (house.place / "user-cert.pub").rename(house.place / "thief-cert.pub")
    new_identity(house.place / "thief")
    assert (await house.ssh("exit 0", identity="thief")).code == 255


@pytest_twisted.ensureDeferred
async def test_a_ca_that_is_trusted_no_more_puts_out_who_came_by_it(house: House) -> None:
    await arrange(house)
    running = house.ssh("sleep", identity="user")

    await eventually(lambda: house.alpha.requests)
    house.reconfigure(trusted_user_ca_keys=None)
    house.gate.review()
    house.front.review()
    assert (await running).code == 255
