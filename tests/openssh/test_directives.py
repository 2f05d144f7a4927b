"""sshd_config is understood, or refused."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.keys import parse as parse_keys
from gateway.config import parse as parse_config
from tests.openssh.directives import KNOWN, BadDirective, authorize, document, read, rekey_limit

PLACE = Path("/state")


def translated(text: str, *first: str) -> dict[str, object]:
    text = document(read(text, first), "unix:/state/socket", PLACE / "keys", PLACE / "agent", "root")
    config = parse_config(text, "vmgate.toml", PLACE, lambda _: b"")
    assert config.instances[0].name == "root"
    return dict(tomllib.loads(text)["ssh"])


def test_a_directive_is_found_in_every_spelling() -> None:
    found = read("\tPort\t4242\nciphers=aes128-ctr\nMACs = a,b # note\n#Port 1\n\nBanner 'a file'\n")
    assert found == {"port": ["4242"], "ciphers": ["aes128-ctr"], "macs": ["a,b"], "banner": ["a file"]}


def test_the_first_counts_and_the_command_line_comes_before_the_file() -> None:
    assert read("Port 1\nPort 2")["port"] == ["1"]
    assert read("rekeylimit 1k", ["RekeyLimit 16 1m"])["rekeylimit"] == ["16", "1m"]


def test_host_keys_and_variables_add_up() -> None:
    found = read("HostKey a\nAcceptEnv X Y_*\nHostKey b\nAcceptEnv Z")
    assert (found["hostkey"], found["acceptenv"]) == (["a", "b"], ["X", "Y_*", "Z"])


@pytest.mark.parametrize("line", ["Match User x", "InvalidXXX=no", "Port", "AuthorizedKeysCommand /bin/x"])
def test_what_is_not_understood_is_refused(line: str) -> None:
    with pytest.raises(BadDirective):
        read(line)


def test_a_forced_command_other_than_sftp_is_refused() -> None:
    keys = "HostKey /a\nAuthorizedKeysFile /k\n"
    assert translated(keys + "ForceCommand internal-sftp -d /")
    with pytest.raises(BadDirective):
        translated(keys + "ForceCommand echo")


@pytest.mark.parametrize(
    ("words", "limit"),
    [
        ("16 1", (16, 1)),
        ("1k 1m", (1024, 60)),
        ("1G 1H", (1 << 30, 3600)),
        ("8G 1W", (8 << 30, 604_800)),
        ("default 5", (1 << 30, 5)),
        ("256k", (256 << 10, 3600)),
    ],
)
def test_limits_have_units(words: str, limit: tuple[int, int]) -> None:
    assert rekey_limit(read(f"RekeyLimit {words}")) == limit


def test_the_gateway_takes_what_the_scripts_ask_for() -> None:
    ssh = translated("HostKey /a\nAuthorizedKeysFile /k\nAcceptEnv _XXX_TEST\nLoginGraceTime 10s\n")
    assert (ssh["login_grace"], ssh["accept_env"], ssh["authorized_keys"]) == (10, ["_XXX_TEST"], "/state/keys")


def test_every_key_enters_the_one_instance_and_options_stay() -> None:
    blob = "AAAAC3NzaC1lZDI1NTE5AAAAIOEMRNf5gCHNEZmC12uGEgJhZ9RbCjuBRl+7kElBLRm6"
    text = authorize(f'# note\n\nssh-ed25519 {blob} c\ncommand="x" ssh-ed25519 {blob}\nssh-rsa AAAA bad\n', "root")
    assert text.splitlines() == [
        f'instances="root" ssh-ed25519 {blob} c',
        f'instances="root",command="x" ssh-ed25519 {blob}',
        'instances="root" ssh-rsa AAAA bad',
    ]
    keys = parse_keys(text.encode())
    [[plain, forced]] = keys.keys.values()
    assert (plain.options.command, forced.options.command) == (None, "x")
    assert len(keys.warnings) == 1


@given(st.text(st.sampled_from("aP ort=\"'#\n\t4,")) | st.sampled_from(sorted(KNOWN)).map(lambda name: f"{name} x\n"))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = read(text)
    except BadDirective:
        return
    assert all(name in KNOWN and values for name, values in found.items())
