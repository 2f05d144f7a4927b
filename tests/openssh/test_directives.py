"""sshd_config is understood, or refused."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.keys import parse as parse_keys
from gateway.config import parse as parse_config
from gateway.config.ssh import PUBKEY_ACCEPTED
from tests.openssh.directives import KNOWN, BadDirective, authorize, document, read, rekey_limit

PLACE = Path("/state")
BLOB = "AAAAC3NzaC1lZDI1NTE5AAAAIOEMRNf5gCHNEZmC12uGEgJhZ9RbCjuBRl+7kElBLRm6"


def translated(text: str, *first: str) -> dict[str, object]:
    text = document(read(text, first), "unix:/state/socket", PLACE / "keys", PLACE / "agent", "root", PUBKEY_ACCEPTED)
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


@pytest.mark.parametrize(
    "line",
    ["Match Address x", "Match", "InvalidXXX=no", "Port", "AuthorizedKeysCommand /bin/x",
     "AuthenticationMethods publickey,publickey"],
)  # fmt: skip
def test_what_is_not_understood_is_refused(line: str) -> None:
    with pytest.raises(BadDirective):
        read(line)


KEYS = "HostKey /a\nAuthorizedKeysFile /k\n"


def test_a_forced_command_is_forced() -> None:
    assert translated(KEYS + "ForceCommand internal-sftp -d /")["force_command"] == "internal-sftp"
    assert translated(KEYS + "ForceCommand echo on")["force_command"] == "echo on"
    assert translated(KEYS)["force_command"] == ""


def test_a_block_about_the_one_user_counts_over_the_rest() -> None:
    text = "Port 1\nBanner a\nMatch User x*\n  Banner b\nMatch all\nPort 2\n"
    assert read(text, user="root") == {"port": ["2"], "banner": ["a"]}
    assert read(text, user="xaver") == {"port": ["2"], "banner": ["b"]}


def test_users_are_instances_and_their_lists_are_rules() -> None:
    text = document(read(KEYS + "DenyUsers a b\nAllowUsers root"), "unix:/s", PLACE / "keys", PLACE / "agent", "root")
    deny, allow = parse_config(text, "vmgate.toml", PLACE, lambda _: b"").policy.rules or ()
    assert (deny.allows, deny.instances, allow.allows, allow.instances) == (False, ("a", "b"), True, ("root",))


def test_algorithms_are_patterns_of_those_that_there_are() -> None:
    for words, names in {
        "*": PUBKEY_ACCEPTED,
        "+ssh-dss": PUBKEY_ACCEPTED,
        "ssh-ed25519,rsa-*256": ("ssh-ed25519", "rsa-sha2-256"),
        "ssh-ed25519": ("ssh-ed25519",),
    }.items():
        assert translated(KEYS + f"PubkeyAcceptedAlgorithms {words}")["pubkey_accepted_algorithms"] == list(names)


def test_forwards_are_permitted_as_sshd_does() -> None:
    ssh = translated(KEYS + "AllowTcpForwarding local\nPermitOpen a:1 b:*\nPermitListen none\n")
    assert (ssh["allow_tcp_forwarding"], ssh["permit_open"], ssh["permit_listen"]) == ("local", ["a:1", "b:*"], [])
    assert "permit_open" not in translated(KEYS + "PermitOpen any")


def test_a_file_of_principals_makes_lines_of_the_cas() -> None:
    ca = f"ssh-ed25519 {BLOB} ca"
    assert authorize("", "root", '# no\n\nops\ncommand="a b" dev\n', f"{ca}\n").splitlines() == [
        f'instances="root",cert-authority,principals="ops" {ca}',
        f'instances="root",command="a b",cert-authority,principals="dev" {ca}',
    ]
    with_principals = translated(KEYS + "TrustedUserCAKeys /ca\nAuthorizedPrincipalsFile /p")
    assert "trusted_user_ca_keys" not in with_principals
    assert translated(KEYS + "TrustedUserCAKeys /ca")["trusted_user_ca_keys"] == "/ca"


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
    blob = BLOB
    text = authorize(f'# note\n\n ssh-ed25519 {blob} c\ncommand="x" ssh-ed25519 {blob}\nssh-rsa AAAA bad\n', "root")
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
