"""User certificates as ssh-keygen makes them and ssh shows them: who gets in, and who does not."""

from __future__ import annotations

import base64
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_twisted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.conch.ssh.keys import Key

from gateway.auth.certificates import Authorities, Certificate, RefusedCertificate, read_certificate
from gateway.auth.grants import by_authority
from gateway.auth.keys import parse_line
from gateway.config.policy import Policy, Rule
from gateway.events import SessionStarted
from tests.ssh.house import House, Result, eventually, new_identity
from tests.ssh.raw import USERAUTH_FAILURE, USERAUTH_SUCCESS

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


def trust(place: Path, name: str = "ca") -> Callable[[bytes], Certificate]:
    """Reads certificates of that CA."""
    if not (place / name).exists():
        new_identity(place / name)
    blobs = Authorities.parse((place / f"{name}.pub").read_bytes()).blobs
    return lambda blob: read_certificate(blob, blobs.__contains__, HERE, time.time())


def test_a_certificate_says_who_where_and_how(tmp_path: Path) -> None:
    cert = trust(tmp_path)(certify(tmp_path, "-O", "no-pty", "-O", "force-command=id"))
    assert (cert.subject, cert.serial, cert.names) == ("anna", 7, ("alpha",))
    assert (cert.options.pty, cert.options.port_forwarding, cert.options.command) == (False, True, "id")
    assert cert.principal(ruled=False).instances == {"alpha"}
    assert (cert.principal(ruled=True).instances, cert.principal(ruled=True).groups) == (None, {"alpha"})


def test_a_star_is_no_name_of_every_instance(tmp_path: Path) -> None:
    cert = trust(tmp_path)(certify(tmp_path, principals="*,alpha"))
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
        trust(tmp_path)(certify(tmp_path, "-h"))


def test_an_altered_certificate_is_refused(tmp_path: Path) -> None:
    blob = certify(tmp_path)
    read = trust(tmp_path)
    last = bytes((blob[-1] ^ 1,))
    for altered in (blob.replace(b"alpha", b"gamma"), blob[:-1] + last, blob.replace(b"anna", b"root")):
        with pytest.raises(RefusedCertificate, match="an altered signature"):
            read(altered)


def test_a_signature_by_sha1_is_refused(tmp_path: Path) -> None:
    new_identity(tmp_path / "ca", "rsa", "-b", "2048")
    read = trust(tmp_path)
    with pytest.raises(RefusedCertificate, match="SHA-1"):
        read(certify(tmp_path, "-t", "ssh-rsa"))
    assert read(certify(tmp_path, "-t", "rsa-sha2-512")).subject == "anna"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    kind=st.sampled_from(("ed25519", "ecdsa", "rsa")),
    at=st.integers(0, 10_000), to=st.binary(max_size=8), cut=st.booleans(),
)  # fmt: skip
def test_any_bytes_are_a_certificate_or_refused(tmp_path: Path, kind: str, at: int, to: bytes, cut: bool) -> None:
    place = tmp_path / kind
    if not place.exists():
        place.mkdir()
        for name in ("ca", "user"):
            new_identity(place / name, kind)
        certify(place)
    blob = base64.b64decode((place / "user-cert.pub").read_text().split()[1])
    at %= len(blob)
    spoilt = blob[:at] + to + (b"" if cut else blob[at + len(to) :])
    try:
        assert trust(place)(spoilt).subject == "anna"
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


SHOWN: dict[str, tuple[list[str], Callable[[bytes], bytes], str]] = {
    "whole": ([], lambda blob: blob, ""),
    "a host's": (["-h"], lambda blob: blob, "a host's certificate"),
    "another principal": ([], lambda blob: blob.replace(b"alpha", b"gamma"), "an altered signature"),
    "an altered signature": ([], lambda blob: blob[:-1] + bytes((blob[-1] ^ 1,)), "an altered signature"),
    "cut off": ([], lambda blob: blob[:-8], "it cannot be read"),
    "too long": ([], lambda blob: blob + bytes(30_000), "it cannot be read"),
}


@pytest.mark.parametrize("case", SHOWN)
@pytest_twisted.ensureDeferred
async def test_what_no_honest_client_shows_is_refused_and_audited(house: House, case: str) -> None:
    words, altered, why = SHOWN[case]
    await arrange(house, *words)
    blob = altered(base64.b64decode((house.place / "user-cert.pub").read_text().split()[1]))
    client = await house.connect()
    await client.ask_service()
    key = Key.fromFile(house.place / "user")
    client.prove(b"alpha", key, shown=blob, algorithm=b"ssh-ed25519-cert-v01@openssh.com")
    await client.see(USERAUTH_FAILURE if why else USERAUTH_SUCCESS)
    client.transport.abortConnection()
    if why:
        [refused] = await eventually(house.refused)
        assert f"certificate: {why}" in refused.reason


# Lines of CAs in authorized_keys.


async def by_line(house: House, options: str, *words: str, principals: str = "alpha") -> Result:
    """A login by a certificate whose CA has that line, and whose key has none."""
    trust(house.place)
    certify(house.place, *words, principals=principals)
    house.authorize(f"{options} {(house.place / 'ca.pub').read_text().strip()}")
    return await house.ssh("echo asked", identity="user")


LINES = {
    "where both say": ('cert-authority,instances="alpha"', [], "alpha", ""),
    "where the line says everywhere": ('cert-authority,instances="*"', [], "alpha", ""),
    "valid for all": ('cert-authority,instances="alpha"', [], "", ""),
    "one of the principals": ('cert-authority,instances="alpha",principals="ops,dev"', [], "dev,anna", ""),
    "only the line's": ('cert-authority,instances="beta"', [], "alpha", "certificate 7 of anna: not for this instance"),
    "only the certificate's": ('cert-authority,instances="alpha"', [], "beta", "certificate 7 of anna"),
    "a star is no name": ('cert-authority,instances="alpha"', [], "*", "not for this instance"),
    "nowhere": ("cert-authority", [], "alpha", "not for this instance"),
    "other principals": ('cert-authority,instances="alpha",principals="ops"', [], "alpha", "none of its principals"),
    "no principals": ('cert-authority,instances="alpha",principals="ops"', [], "", "none of its principals"),
    "a key, no CA": ('instances="alpha"', [], "alpha", "an unknown CA"),
    "from elsewhere": ('cert-authority,instances="alpha",from="192.0.2.1"', [], "alpha", "holds here and now"),
    "no more": ('cert-authority,instances="alpha",expiry-time="20200101"', [], "alpha", "holds here and now"),
    "two commands": (
        'cert-authority,instances="alpha",command="id"', ["-O", "force-command=ls"], "alpha", "its force-command",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LINES)
@pytest_twisted.ensureDeferred
async def test_a_cas_line_says_where_its_certificates_count(house: House, case: str) -> None:
    options, words, principals, why = LINES[case]
    done = await by_line(house, options, *words, principals=principals)
    if why:
        assert done.code == 255
        assert why in house.refused()[-1].reason
    else:
        assert (done.out, done.code) == (b"asked\n", 0)


@pytest_twisted.ensureDeferred
async def test_a_cas_line_and_the_certificate_narrow_each_other(house: House) -> None:
    line = 'cert-authority,instances="alpha",permissions="files:read",no-port-forwarding'
    assert (await by_line(house, line)).code != 0
    line = 'cert-authority,instances="alpha",command="echo forced"'
    assert (await by_line(house, line, "-O", "no-pty")).out == b"forced\n"
    assert b"PTY allocation request failed" in (await house.ssh("-tt", "exit 3", identity="user")).err
    line = 'cert-authority,instances="alpha"'
    assert (await by_line(house, line, "-O", "force-command=echo certified")).out == b"certified\n"


@pytest.mark.parametrize("first", ["the certificate", "the line"])
def test_what_a_line_and_a_certificate_open_ends_with_the_first_of_both(tmp_path: Path, first: str) -> None:
    soon, late = 1_900_000_000, 2_000_000_000
    ends = {"the certificate": (soon, late), "the line": (late, soon)}[first]
    words = ["-V", f"20200101:{time.strftime('%Y%m%d%H%M%S', time.localtime(ends[0]))}"]
    certificate = trust(tmp_path)(certify(tmp_path, *words))
    expires = time.strftime("%Y%m%d%H%M%SZ", time.gmtime(ends[1]))
    line = parse_line(f'cert-authority,instances="*",expiry-time="{expires}" {(tmp_path / "ca.pub").read_text()}')
    [grant] = by_authority(certificate, [line], HERE, time.time(), trusted=False, ruled=False).grants
    assert grant.principal.until == soon


@pytest_twisted.ensureDeferred
async def test_the_key_of_a_cas_line_is_nobodys(house: House) -> None:
    await by_line(house, 'cert-authority,instances="alpha"')
    assert (await house.ssh("exit 0", identity="ca")).code == 255


@pytest_twisted.ensureDeferred
async def test_a_cas_line_that_is_gone_puts_out_who_came_by_it(house: House) -> None:
    await by_line(house, 'cert-authority,instances="alpha"')
    running = house.ssh("sleep", identity="user")
    await eventually(lambda: house.gate.live)
    house.authorize()
    house.gate.review()
    house.front.review()
    assert (await running).code == 255
