"""authorized_keys and the host key: what is taken, what is refused, and that nothing breaks them."""

from __future__ import annotations

import os
import subprocess
import sys
from base64 import b64decode, b64encode
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.auth.keys import MAX_TEXT, AuthorizedKey, AuthorizedKeys, parse
from gateway.errors import ConfigError
from gateway.ssh.auth import verified
from gateway.ssh.credentials import KeyFile
from gateway.ssh.hostkey import host_key
from gateway.ssh.wire import string


def public(key: object) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()  # type: ignore[attr-defined]


ED25519 = public(ed25519.Ed25519PrivateKey.generate())
ECDSA = public(ec.generate_private_key(ec.SECP384R1()))
SHORT_RSA = public(rsa.generate_private_key(65537, 1024))
SK_TYPE = "sk-ssh-ed25519@openssh.com"
SK_BLOB = string(SK_TYPE) + string(b64decode(ED25519.split()[1])[-32:]) + string("ssh:")
SK = f"{SK_TYPE} {b64encode(SK_BLOB).decode()}"


def only(text: str) -> AuthorizedKey:
    keys = parse(text.encode())
    assert not keys.warnings
    [[key]] = keys.keys.values()
    return key


def refused(text: str) -> str:
    keys = parse(text.encode())
    assert not keys.keys
    [warning] = keys.warnings
    return warning


@pytest.mark.parametrize(
    ("options", "instances"),
    [
        ('instances="alpha"', {"alpha"}),
        ('instances="alpha,beta"', {"alpha", "beta"}),
        ('instances="alpha, i-01ARZ"', {"alpha", "i-01ARZ"}),
        ('instances="*"', {"*"}),
        ('INSTANCES="alpha"', {"alpha"}),
        (r'instances="al\"pha"', {'al"pha'}),
    ],
)
@pytest.mark.parametrize("gap", [" ", "\t", "  \t "])
def test_instances_are_those_of_the_option(options: str, instances: set[str], gap: str) -> None:
    key = only(f"{options}{gap}{ED25519}{gap}Jane Doe\r\n")
    assert (key.instances, key.comment) == (instances, "Jane Doe")
    assert key.principal.subject == "Jane Doe"
    assert key.principal.instances == instances


@pytest.mark.parametrize(
    ("options", "permissions"),
    [
        ('instances="a"', {"*"}),
        ('instances="a",permissions="files:read"', {"files:read"}),
        ('permissions="files:read, instance:read",instances="a"', {"files:read", "instance:read"}),
    ],
)
def test_a_key_has_every_permission_unless_the_option_names_some(options: str, permissions: set[str]) -> None:
    assert only(f"{options} {ED25519} me").principal.permissions == permissions


@pytest.mark.parametrize("kind", [ED25519, ECDSA, SK], ids=["ed25519", "ecdsa", "sk"])
def test_a_key_without_a_comment_is_known_by_its_fingerprint(kind: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(kind + "\n")
    told = subprocess.run(["ssh-keygen", "-lf", tmp_path / "key"], capture_output=True, text=True, check=True).stdout
    assert only(f'instances="a" {kind}').principal.subject == told.split()[1]


def test_a_comment_that_cannot_be_shown_is_not() -> None:
    key = only(f'instances="a" {ED25519} evil\x1b[2J')
    assert key.principal.subject == key.fingerprint


def test_a_key_without_instances_enters_nothing_and_is_told() -> None:
    keys = parse(f"{ED25519} me\n".encode())
    [[key]] = keys.keys.values()
    assert not key.instances
    assert "enters nothing" in keys.warnings[0]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ('instances="a",no-touch-required', "unknown option 'no-touch-required'"),
        ('verify-required,instances="a"', "unknown option 'verify-required'"),
        ('principals="a"', "needs cert-authority"),
        ('tunnel="1"', "unknown option 'tunnel'"),
        ("no-", "unknown option 'no-'"),
        ("no-restrict", "unknown option 'no-restrict'"),
        ("pty,", "comma"),
        ("command", "unknown option 'command'"),
        ('pty="yes"', "unknown option 'pty'"),
        ('command="x",command="y"', "twice"),
        ('command=""', "needs a command"),
        ('from="10.0.0.1",from="*"', "twice"),
        ('from="host.example"', "names are not looked up"),
        ('from=""', "names are not looked up"),
        ('from="10.0.0.1/8"', "is no network"),
        ('from="1.2.3.4/99"', "is no network"),
        ('expiry-time="2027"', "is no time"),
        ('expiry-time="20271301"', "is no time"),
        ('expiry-time="20270101T00"', "is no time"),
        ('permitopen="80"', "is not host:port"),
        ('permitopen="a:b"', "is not host:port"),
        ('permitlisten="0x50"', "is not host:port"),
        ("instances=a", "without quotes"),
        ('instances="a', "not closed"),
        ('instances="a"b', "after a quoted value"),
        ('instances="a",', "after a quoted value"),
        ('instances="a",instances="b"', "twice"),
        ('instances=""', "needs names"),
        ('instances="a,,b"', "needs names"),
        ('instances="a b"', "needs names"),
        (",", "unknown option"),
        ('permissions="files:read",permissions="*"', "twice"),
        ('permissions=""', "needs names"),
        ('permissions="files:reed"', "unknown permission 'files:reed'"),
    ],
)
def test_options_that_are_not_understood_refuse_the_line(options: str, why: str) -> None:
    assert why in refused(f"{options} {ED25519} me")


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (SHORT_RSA, "too short"),
        ("ssh-dss AAAAB3NzaC1kc3M=", "no key of a known type"),
        ("ssh-ed25519", "cannot be read"),
        ("ssh-ed25519 AAAA", "cannot be read"),
        ("ssh-ed25519 " + ECDSA.split()[1], "cannot be read"),
        ("ssh-ed25519-cert-v01@openssh.com AAAA", "no key of a known type"),
    ],
    ids=["short RSA", "DSA", "no key", "short key", "another's type", "certificate"],
)
def test_keys_that_cannot_be_used_refuse_the_line(key: str, why: str) -> None:
    assert why in refused(f'instances="a" {key}')


def test_comments_and_blanks_are_no_lines_and_one_bad_line_spoils_no_other() -> None:
    keys = parse(f'# me\n\n  \ngarbage\ninstances="a" {ED25519}\n\xff\n'.encode("latin-1"))
    assert len(keys.keys) == 1
    assert [warning.split(":")[0] for warning in keys.warnings] == ["line 4", "line 6"]


def test_a_file_that_is_too_large_authorizes_nobody() -> None:
    keys = parse(f'instances="a" {ED25519}\n'.encode() + b"#" * MAX_TEXT)
    assert not keys.keys
    assert keys.warnings


@given(st.binary(max_size=400))
@example(b"\x0b")
def test_no_text_breaks_the_parser(text: bytes) -> None:
    assert isinstance(parse(text), AuthorizedKeys)
    assert isinstance(parse(b'instances="' + text + ED25519.encode()), AuthorizedKeys)


NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters=', \\"\x85', exclude_categories=("C", "Z")), min_size=1, max_size=20
)


@given(st.sets(NAMES, min_size=1), st.sampled_from([ED25519, ECDSA]))
def test_what_is_written_is_read(names: set[str], kind: str) -> None:
    assert only(f'instances="{",".join(names)}" {kind} me').instances == names


@given(st.text(st.sampled_from('instances="a", \\\t'), max_size=60))
def test_no_options_but_those_understood_let_anybody_in(options: str) -> None:
    for lines in parse(f"{options} {ED25519}".encode()).keys.values():
        for key in lines:
            assert not key.instances or ("instances=" in options.lower() and all(key.instances))


def test_the_file_is_read_again_when_it_changed_and_trusted_no_longer_when_it_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "authorized_keys"
    path.touch()
    file = KeyFile(path)
    path.write_text(f'instances="a" {ED25519}')
    os.utime(path, (1, 1))
    first = file()
    assert first.keys
    assert file() is first
    for name in ("x", "y"):  # of one size, and maybe of one tick of the clock
        path.write_text(f'instances="{name}" {ED25519}')
        [[key]] = file().keys.values()
        assert key.instances == {name}
    path.write_text("")
    assert not file().keys


def test_a_host_key_is_made_once_for_the_gateway_alone(tmp_path: Path) -> None:
    path = tmp_path / "key"
    made = host_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert made.sshType() == b"ssh-ed25519"
    assert host_key(path) == made
    written = subprocess.run(["ssh-keygen", "-yf", path], capture_output=True, text=True, check=True).stdout
    assert (tmp_path / "key.pub").read_text().split()[:2] == written.split()[:2]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["key", "key.pub"]


def test_a_host_key_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "key"
    host_key(path)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        host_key(path)


@pytest.mark.parametrize(
    "text",
    [b"", b"garbage", ED25519.encode(), b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"],
    ids=["empty", "garbage", "public", "cut"],
)
def test_what_is_no_host_key_is_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError):
        host_key(path)


def test_a_host_key_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        host_key(tmp_path / "missing" / "key")


def test_the_front_installs_no_reactor() -> None:
    program = "import gateway.ssh, sys; sys.exit('twisted.internet.reactor' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_an_rsa_signature_may_lack_its_leading_zeroes_as_putty_s_do() -> None:
    key = rsa.generate_private_key(65537, 2048)
    blob = b64decode(public(key).split()[1])
    for number in range(10_000):
        message = b"%d" % number
        proof = key.sign(message, padding.PKCS1v15(), hashes.SHA256())
        if proof[0] == 0:
            break
    assert proof[0] == 0
    for spelled in (proof, proof.lstrip(b"\0")):
        signature = string(b"rsa-sha2-256") + string(spelled)
        assert verified(b"rsa-sha2-256", blob, signature, message)
        assert not verified(b"rsa-sha2-256", blob, signature, message + b".")
