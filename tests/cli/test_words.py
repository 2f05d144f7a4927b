"""Completion, tokens, the command line's own words."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import jwt
import pytest

from gateway.auth.tokens import Issuer, Kept, Tokens
from gateway.cli import main
from gateway.cli.completion import SCRIPTS, candidates
from gateway.cli.parser import parser
from gateway.config.tokens import IssuerConfig
from gateway.keyset import read_keys
from tests.support.issuer import private_key, private_pem, public_pem

SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No gateway is known."""
    for name in ("VMGATE_URL", "VMGATE_TOKEN", "VMGATE_SERVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["e"], ["exec"]),
        (["s"], ["shell", "stat", "ssh-config", "sessions"]),
        (["completion", "z"], ["zsh"]),
        (["exec", "--use"], ["--user"]),
        (["exec", "--user", ""], []),
        (["exec", "-t", "alpha", "--", "l"], []),
        (["demo", "--guests", "p"], ["process"]),
        (["nothing", ""], []),
        (["ls", ""], []),
    ],
)
def test_completion_knows_what_the_parser_knows(words: list[str], found: list[str]) -> None:
    assert candidates(words) == found


def test_every_subcommand_is_completed_and_explained() -> None:
    told = parser().format_help()
    for name in candidates([""]):
        assert name in told


@pytest.mark.parametrize("shell", SCRIPTS)
def test_a_shell_takes_its_script(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    command = tmp_path / "vmgate"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m gateway.cli "$@"\n')
    command.chmod(0o755)
    (tmp_path / "script").write_text(capsys.readouterr().out)
    ask = {
        "bash": "source ./script; COMP_WORDS=(vmgate tok); COMP_CWORD=1; _vmgate; echo ${COMPREPLY[@]}",
        # Outside of its line editor zsh completes nothing, so what the function would add is printed.
        "zsh": "compdef() { :; }; compadd() { print -- ${@[-1]}; }; source ./script; "
        "words=(vmgate tok); CURRENT=2; _vmgate",
        "fish": "source ./script; complete -C 'vmgate tok'",
    }[shell]
    assert shutil.which(shell), f"{shell} is not installed: make test does it"
    done = subprocess.run(
        [shell, "-c", ask],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.stdout.split() == ["token"], done.stderr


def test_a_token_says_what_was_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "secret").write_text(SECRET + "\n")
    words = ["--life", "15m", "--subject", "anna", "--instances", "alpha,beta", "--permissions", "files:read"]
    assert main(["token", "--secret-file", str(tmp_path / "secret"), *words]) == 0
    claims = jwt.decode(capsys.readouterr().out.strip(), SECRET, algorithms=["HS256"])
    assert claims.pop("exp") - claims.pop("iat") == 15 * 60
    assert claims == {"sub": "anna", "instances": ["alpha", "beta"], "permissions": ["files:read"]}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--life", "soon"], "'soon' is no time"),
        (["--permissions", "all"], "'all' is no permission"),
        (["--secret-file", "/nowhere"], "/nowhere cannot be read: No such file or directory"),
        (["--secret-file", "/dev/null"], "/dev/null holds 0 bytes; at least 32 are needed for HS256"),
        (["--algorithm", "HS512"], "holds 32 bytes; at least 64 are needed for HS512"),
        (["--algorithm", "RS256"], "holds a secret, and no HS algorithm is allowed for one"),
        (["--algorithm", "none"], "holds a secret, and no HS algorithm is allowed for one"),
    ],
)
def test_a_token_that_cannot_be_minted_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    (tmp_path / "secret").write_text(SECRET)
    assert main(["token", "--secret-file", str(tmp_path / "secret"), *words]) == 1
    told = capsys.readouterr()
    assert said in told.err
    assert told.out == ""


@pytest.mark.parametrize(
    ("kind", "words", "algorithm"),
    [
        ("rsa", [], "RS256"), ("rsa", ["--algorithm", "PS512"], "PS512"), ("P-256", [], "ES256"),
        ("P-384", [], "ES384"), ("P-521", [], "ES512"), ("Ed25519", [], "EdDSA"),
    ],
)  # fmt: skip
def test_a_token_by_a_key_is_one_that_a_gateway_believes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, words: list[str], algorithm: str
) -> None:
    (tmp_path / "key").write_bytes(private_pem(private_key(kind)))
    whose = ["--issuer", "https://ci.example", "--audience", "vmgate", "--groups", "ops,dev", "--subject", "anna"]
    assert main(["token", "--key-file", str(tmp_path / "key"), "--kid", "k1", *whose, *words]) == 0
    minted = capsys.readouterr().out.strip()
    assert jwt.get_unverified_header(minted) == {"alg": algorithm, "kid": "k1", "typ": "JWT"}
    config = IssuerConfig(
        issuer="https://ci.example", audience=("vmgate",), keys=read_keys(public_pem(private_key(kind)), [algorithm])
    )
    principal = Tokens(issuers=[Issuer(config, (Kept(config.keys),))]).believe(minted).principal
    assert (principal.subject, principal.groups, principal.instances) == ("anna", {"ops", "dev"}, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "holds no private key in PEM that could be read"),
        (public_pem(private_key("rsa")), "holds no private key in PEM that could be read"),
        (private_pem(private_key("Ed25519")), "holds a key for none of the allowed algorithms"),
    ],
    ids=["empty", "public", "another"],
)
def test_a_key_that_mints_nothing_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: bytes, said: str
) -> None:
    (tmp_path / "key").write_bytes(text)
    assert main(["token", "--key-file", str(tmp_path / "key"), "--algorithm", "RS256"]) == 1
    told = capsys.readouterr()
    assert (told.err, told.out) == (f"vmgate token: {tmp_path / 'key'} {said}\n", "")


def test_every_command_says_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    for name in candidates([""]):
        with pytest.raises(SystemExit) as left:
            main([name, "--help"])
        assert left.value.code == 0
        assert f"usage: vmgate {name}" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["exec", "vm"], ["exec", "vm", "--"]])
def test_a_command_is_needed(words: list[str]) -> None:
    # A process of its own: Autobahn is Twisted's or asyncio's, and the tests' is Twisted's.
    done = subprocess.run(
        [sys.executable, "-m", "gateway.cli", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
        env={"VMGATE_URL": "http://127.0.0.1:9", "VMGATE_TOKEN": "x"},
    )
    assert done.returncode == 255
    assert done.stderr == "vmgate exec: which command? Say `vmgate exec VM -- COMMAND`, or `vmgate shell VM`\n"
