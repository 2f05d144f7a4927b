"""Which gateway is meant, and where its token comes from."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.problem import Problem
from gateway.cli.server import Server, find

URL = "https://gate.example"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the file is; the environment says nothing."""
    for name in ("VMGATE_URL", "VMGATE_TOKEN", "VMGATE_SERVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "vmgate").mkdir()
    return tmp_path / "vmgate"


def write(path: Path, text: str, mode: int = 0o600) -> None:
    path.write_text(text)
    path.chmod(mode)


def options(**given: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"server": None, "url": None, "token_file": None, **given})


def test_the_environment_is_enough(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMGATE_URL", URL)
    monkeypatch.setenv("VMGATE_TOKEN", "secret")
    server = find(options())
    assert server == Server(URL, "secret")
    assert "secret" not in repr(server)


def test_the_file_has_a_default_and_named_servers(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(place / "lab.token", "of the lab\n")
    write(
        place / "config.toml",
        f'url = "{URL}"\ntoken = "mine"\nssh = "gate.example:22"\n'
        '[servers.lab]\nurl = "http://lab:8080"\ntoken_file = "lab.token"\nca = "/ca.pem"\n',
    )
    assert find(options()) == Server(URL, "mine", ssh="gate.example:22")
    lab = Server("http://lab:8080", "of the lab", "/ca.pem", "gate.example:22")
    assert find(options(server="lab")) == lab
    monkeypatch.setenv("VMGATE_SERVER", "lab")
    assert find(options()) == lab
    monkeypatch.setenv("VMGATE_URL", URL)
    assert find(options(server="lab")) == lab, "who names one means it"


def test_a_token_file_of_the_command_line_is_a_path(place: Path) -> None:
    write(place / "token", "mine\n")
    assert find(options(url=URL, token_file=str(place / "token"))).token == "mine"


@pytest.mark.parametrize(
    ("text", "mode", "given", "said"),
    [
        ("", 0o600, {}, "which gateway? Set VMGATE_URL"),
        (f'url = "{URL}"', 0o600, {}, "there is no token: set VMGATE_TOKEN"),
        (f'url = "{URL}"\ntoken = "x"', 0o640, {}, "may be read by others, and tokens are in it: chmod 600"),
        (f'url = "{URL}"\ntoken = 7', 0o600, {}, "'token' is not known here, or no text"),
        (f'url = "{URL}"\npassword = "x"', 0o600, {}, "'password' is not known here"),
        ("url = ", 0o600, {}, "Invalid value"),
        (f'url = "{URL}"', 0o600, {"server": "lab"}, "has no table [servers.lab]"),
        ('url = "gate.example"\ntoken = "x"', 0o600, {}, "is no address of a gateway"),
        ('url = "ftp://gate.example"\ntoken = "x"', 0o600, {}, "is no address of a gateway"),
        (f'url = "{URL}"\ntoken_file = "none"', 0o600, {}, "none does not exist"),
    ],
)
def test_what_is_missing_or_wrong_is_said(place: Path, text: str, mode: int, given: Any, said: str) -> None:
    write(place / "config.toml", text, mode)
    with pytest.raises(Problem) as raised:
        find(options(**given))
    assert said in str(raised.value)
    assert raised.value.code == 255


def test_without_a_file_a_named_server_is_not_there(place: Path) -> None:
    with pytest.raises(Problem, match="there is no server 'lab'"):
        find(options(server="lab"))
