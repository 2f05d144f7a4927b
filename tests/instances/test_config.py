"""The tables [[sources]]: whole and right, or every problem with its line."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.sources import KINDS, DirectorySource, HTTPSource, HypemanSource, LibvirtSource, PathPattern
from gateway.errors import ConfigError
from gateway.model import ID
from tests.instances.house import configured

ALL = """
[[sources]]
kind = "directory"
vsock_socket = "vms/{id}/vsock.sock"
labels = { rack = "7" }
[[sources]]
kind = "hypeman"
[[sources]]
kind = "libvirt"
refresh = 60
[[sources]]
kind = "http"
url = "https://inventory.example/instances"
token_file = "token"
vsock_socket = "/run/vms/{id}.sock"
timeout = 3
"""


def test_each_kind_has_its_keys_and_their_defaults() -> None:
    directory, hypeman, libvirt, http = configured(ALL, Path("/etc/vmgate"), {"token": b"secret\n"})
    pattern = PathPattern("/etc/vmgate/vms", ("{id}", "vsock.sock"))
    assert directory == DirectorySource(refresh=30, timeout=10, labels={"rack": "7"}, sockets=pattern)
    assert hypeman == HypemanSource(refresh=30, timeout=10, data=Path("/var/lib/hypeman"))
    assert libvirt == LibvirtSource(refresh=60, timeout=10, uri="qemu:///system")
    assert isinstance(http, HTTPSource)
    assert (http.url, http.token, http.timeout) == ("https://inventory.example/instances", "secret", 3)
    assert http.sockets == PathPattern("/run/vms", ("{id}.sock",))
    assert "secret" not in repr(http) + str(http)


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ('kind = "docker"', "5: sources.kind: one of directory, hypeman, libvirt, http is needed"),
        ('kind = "directory"', "4: sources.vsock_socket: a text is needed"),
        ('kind = "directory"\nvsock_socket = "/run/x.sock"', "6: sources.vsock_socket: a path with {id} in it"),
        ('kind = "directory"\nvsock_socket = "/run/{id}/../x"', "6: sources.vsock_socket: a path with {id} in it"),
        ('kind = "directory"\nvsock_socket = "/run/{id}{id}/x"', "6: sources.vsock_socket: a path with {id} in it"),
        ('kind = "libvirt"\nrefresh = 0', "6: sources.refresh: a number from 1 to 3600 is needed"),
        ('kind = "hypeman"\nurl = "http://x/"', "6: sources.url: no such key"),
        ('kind = "http"\nurl = "ftp://x/"', "6: sources.url: an http:// or https:// address"),
        ('kind = "http"\nurl = "http://anna:secret@x/"', "6: sources.url: an http:// or https:// address"),
        ('kind = "http"\nurl = "http://x:y/"', "6: sources.url: an http:// or https:// address"),
        ('kind = "http"\nurl = "http://[/"', "6: sources.url: an http:// or https:// address"),
        ('kind = "http"\nurl = "http://é/"', "6: sources.url: an http:// or https:// address"),
        ('kind = "directory"\nvsock_socket = "/run/\\u0000/{id}"', "6: sources.vsock_socket: a path with {id} in it"),
        ('kind = "http"\nurl = "https://x/"\ntoken_file = "gone"', "7: sources.token_file: /gone: cannot be read"),
        ('kind = "http"\nurl = "https://x/"\ntoken_file = "empty"', "7: sources.token_file: /empty: a token has"),
        ('kind = "http"\nurl = "https://x/"\ntoken_file = "two"', "7: sources.token_file: a token is one word"),
        ('kind = "http"\nurl = "http://10.0.0.5/"\ntoken_file = "good"', "6: sources.url: a token goes to other"),
    ],
)
def test_a_problem_is_told_with_its_line(lines: str, problem: str) -> None:
    files = {"empty": b"", "two": b"one two", "good": b"good"}
    with pytest.raises(ConfigError) as caught:
        configured(f"\n[[sources]]\n{lines}\n", files=files)
    assert any(f"vmgate.toml:{problem}" in told for told in caught.value.problems), caught.value.problems
    assert not any("secret" in told for told in caught.value.problems if "url" not in told)


@given(st.text(), st.text())
def test_any_url_and_path_is_a_source_or_a_problem(url: str, path: str) -> None:
    text = f'[[sources]]\nkind = "http"\nurl = {json.dumps(url)}\nvsock_socket = {json.dumps("/" + path)}\n'
    with contextlib.suppress(ConfigError):
        assert configured(text)


def test_two_sources_do_not_look_at_one_place() -> None:
    with pytest.raises(ConfigError, match="another source looks at qemu:///system too"):
        configured('[[sources]]\nkind = "libvirt"\n[[sources]]\nkind = "libvirt"\nrefresh = 9\n')


def test_a_token_goes_to_this_machine_without_tls() -> None:
    for host in ("localhost", "127.0.0.1", "[::1]:8080"):
        [source] = configured(
            f'[[sources]]\nkind = "http"\nurl = "http://{host}/instances"\ntoken_file = "t"\n', files={"t": b"x"}
        )
        assert isinstance(source, HTTPSource)
        assert source.token == "x"


@given(
    st.from_regex(ID, fullmatch=True), st.sampled_from(["/run/{id}/v", "/a/vm-{id}.sock", "/{id}", "/b/x{id}/y/{id}"])
)
def test_whose_a_path_is_is_told_by_its_pattern(instance_id: str, text: str) -> None:
    pattern = PathPattern.parse(text)
    assert str(pattern) == text
    path = pattern.path(instance_id)
    assert path == text.replace("{id}", instance_id)
    first = path[len(pattern.base.rstrip("/")) + 1 :].split("/")[0]
    assert pattern.instance_id(first) == instance_id


@given(st.text())
def test_any_text_is_a_pattern_or_none(text: str) -> None:
    try:
        pattern = PathPattern.parse(text)
    except ValueError:
        return
    assert "{id}" in pattern.parts[0]
    assert pattern.base.startswith("/")


@given(st.text(max_size=20))
def test_any_name_is_somebodys_or_nobodys(name: str) -> None:
    found = PathPattern.parse("/run/vm-{id}.sock").instance_id(name)
    assert (
        (f"vm-{found}.sock" == name)
        if found
        else not (name.startswith("vm-") and name.endswith(".sock") and len(name) > 8)
    )


def test_every_example_of_the_documentation_is_a_configuration() -> None:
    text = (Path(__file__).parents[2] / "docs" / "instances.md").read_text()
    examples = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    kinds = [source.kind for one in examples for source in configured(one, files={"inventory.token": b"t"})]
    assert set(kinds) == set(KINDS)
    assert len(kinds) == len(examples) == 6
    for key, default in {"refresh": "5", "timeout": "10"}.items():
        assert f"{key} = {default} " in text
