"""Certificates of the gateway's own keys, before clients that trust a CA and know no key."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor

from gateway.auth.certificates import SUFFIX
from gateway.errors import ConfigError
from gateway.ssh import SSHFront
from gateway.ssh.hostcert import host_certificates
from gateway.ssh.hostkey import RSA, HostKeys, host_keys
from tests.ssh.house import House, new_identity
from tests.ssh.test_certificates import certify
from tests.support.processes import until

HOST = "127.0.0.1"
KINDS = [("ed25519",), ("ecdsa", "-b", "256"), ("ecdsa", "-b", "521"), ("rsa", "-b", "3072")]

ASYNCSSH = """
import asyncio, asyncssh, sys
async def main(port, key, known, *algorithms):
    settings = dict(username="alpha", client_keys=[key], known_hosts=known, config=None)
    settings["server_host_key_algs"] = list(algorithms)
    async with asyncssh.connect("127.0.0.1", port, **settings) as client:
        print((await client.run("echo in")).stdout, end="")
asyncio.run(main(int(sys.argv[1]), *sys.argv[2:]))
"""


def certified(house: House, *words: str, principals: str = HOST, key: str = "host_key") -> Path:
    """A certificate of the host's key. From now on clients know its CA, and no key."""
    certify(house.place, "-h", *words, key=key, principals=principals)
    ca = (house.place / "ca.pub").read_text()
    (house.place / "known_hosts").write_text(f"@cert-authority [{HOST}]:* {ca}")
    return house.place / f"{key}-cert.pub"


def opened(house: House, path: Path, key: str) -> None:
    """A second front of this house, the first that is asked, with that key and its certificate."""
    config = replace(house.config, host_keys=(house.place / key,), host_certificates=(path,))
    house.front = SSHFront(config, house.gate, house.front._events, reactor)
    house.ports.insert(0, reactor.listenTCP(0, house.front, interface=HOST))


@pytest_twisted.ensureDeferred
async def test_a_host_is_known_by_its_ca_once_the_certificate_is_loaded(house: House) -> None:
    path = certified(house)
    assert b"Host key verification failed" in (await house.ssh("exit 5")).err
    house.reconfigure(host_certificates=(path,))
    assert (await house.ssh("exit 5")).code == 5


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
@pytest_twisted.ensureDeferred
async def test_openssh_and_asyncssh_know_a_host_by_the_certificate_of_each_kind_of_key(
    house: House, kind: tuple[str, ...]
) -> None:
    new_identity(house.place / "host", *kind)
    opened(house, certified(house, key="host"), "host")
    algorithms = [(name + SUFFIX).decode() for name in house.front._host_keys.algorithms]
    offered = house.front._terms.proposal.host_keys
    assert offered == (*map(str.encode, algorithms), *house.front._host_keys.algorithms)
    for algorithm in algorithms:
        done = await house.ssh("-v", "-o", f"HostKeyAlgorithms={algorithm}", "-o", "RekeyLimit=64K", "cat; exit 5",
                               stdin=bytes(1 << 20))  # fmt: skip
        assert (done.code, len(done.out)) == (5, 1 << 20), done.err
        assert f"kex: host key algorithm: {algorithm}".encode() in done.err
        words = [str(house.place / "identity"), str(house.place / "known_hosts"), algorithm]
        done = await house.run([sys.executable, "-c", ASYNCSSH, str(house.port), *words])
        assert done.out == b"in\n", done.err


@pytest_twisted.ensureDeferred
async def test_who_knows_the_key_itself_enters_with_and_without_the_certificate(house: House) -> None:
    known = (house.place / "known_hosts").read_text()
    path = certified(house, "-V", "20200101:20200102")
    (house.place / "known_hosts").write_text(known)
    house.reconfigure(host_certificates=(path,))
    assert (await house.ssh("exit 5")).code == 5
    assert (await house.ssh("-o", "HostKeyAlgorithms=ssh-ed25519", "exit 5")).code == 5


@pytest.mark.parametrize(
    "words", [["-V", "20200101:20200102"], ["-V", "20900101:20910101"]], ids=["expired", "not valid yet"]
)
@pytest_twisted.ensureDeferred
async def test_a_certificate_that_does_not_hold_is_the_clients_to_refuse(house: House, words: list[str]) -> None:
    house.reconfigure(host_certificates=(certified(house, *words),))
    done = await house.ssh("exit 5")
    assert (done.code, b"Certificate invalid" in done.err) == (255, True)


@pytest_twisted.ensureDeferred
async def test_a_certificate_for_another_host_is_the_clients_to_refuse(house: House) -> None:
    house.reconfigure(host_certificates=(certified(house, principals="gate.example"),))
    done = await house.ssh("exit 5")
    assert (done.code, b"name is not a listed principal" in done.err) == (255, True)


@pytest.fixture
def keys(tmp_path: Path) -> HostKeys:
    """Two keys of a host, of two types, with a certificate each."""
    for name, kind in (("one", ["ed25519"]), ("two", ["rsa", "-b", "3072"])):
        new_identity(tmp_path / name, *kind)
        certify(tmp_path, "-h", key=name)
    return host_keys([tmp_path / "one", tmp_path / "two"])


def test_each_key_may_have_one(tmp_path: Path, keys: HostKeys) -> None:
    found = host_certificates([tmp_path / "two-cert.pub", tmp_path / "one-cert.pub"], keys)
    assert keys.private.keys() == {b"ssh-ed25519", RSA}
    assert list(found) == [name + SUFFIX for name in (b"rsa-sha2-512", b"rsa-sha2-256", b"ssh-ed25519")]


def test_what_is_no_certificate_of_ours_is_refused_with_every_problem(tmp_path: Path, keys: HostKeys) -> None:
    place = tmp_path
    certify(place, key="users")
    certify(place, "-h", key="strangers")
    whole = (place / "one-cert.pub").read_text()
    kind, encoded = whole.split()[:2]
    (place / "cut").write_text(f"{kind} {encoded[:200]}")
    (place / "altered").write_text(whole.replace(encoded[-12:-8], "AAAA"))
    (place / "empty").touch()
    wrong = {
        "users-cert.pub": "a user's certificate: ssh-keygen -h makes a host's",
        "strangers-cert.pub": "about none of the host keys",
        "one.pub": "it cannot be read",
        "cut": "it cannot be read",
        "altered": "an altered signature",
        "empty": "no certificate of ssh-keygen -s",
        "missing": "No such file",
    }
    with pytest.raises(ConfigError) as caught:
        host_certificates([place / name for name in wrong], keys)
    assert len(caught.value.problems) == len(wrong)
    for problem, (name, why) in zip(caught.value.problems, wrong.items(), strict=True):
        assert problem.startswith(f"ssh.host_certificates: {place / name}")
        assert why in problem


@pytest_twisted.ensureDeferred
async def test_ssh_keyscan_finds_it(house: House) -> None:
    path = certified(house)
    house.reconfigure(host_certificates=(path,))
    done = await house.run(["ssh-keyscan", "-c", "-p", str(house.port), "-t", "ed25519", HOST])
    assert path.read_bytes().split()[1] in done.out


@pytest.fixture
def agent() -> Iterator[Path]:
    """The socket of an ssh-agent; unix sockets' addresses are short."""
    with tempfile.TemporaryDirectory(prefix="a") as directory:
        path = Path(directory) / "agent"
        with subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL) as process:
            until(path.exists, what="ssh-agent listens")
            yield path
            process.terminate()


@pytest.mark.parametrize("by", ["key", "certificate"])
@pytest_twisted.ensureDeferred
async def test_a_key_that_its_agent_binds_to_a_host_enters_there_alone(house: House, agent: Path, by: str) -> None:
    """`ssh-add -h`: the agent sees for whom it signs (publickey-hostbound-v00), by OpenSSH's PROTOCOL.agent."""
    path = certified(house, principals="gate")
    if by == "certificate":
        house.reconfigure(host_certificates=(path,))
        here = f"@cert-authority gate {(house.place / 'ca.pub').read_text()}"
    else:
        here = f"gate {(house.place / 'host_key.pub').read_text()}"
    (house.place / "known_hosts").write_text(here + f"elsewhere {new_identity(house.place / 'elsewhere')}\n")
    env = {"SSH_AUTH_SOCK": str(agent)}
    words = [word.replace("IdentityAgent=none", f"IdentityAgent={agent}") for word in house.options()]
    words = ["ssh", *words, "-o", "HostKeyAlias=gate", "alpha@127.0.0.1", "exit 5"]
    words[words.index(f"IdentityFile={house.place / 'identity'}")] += ".pub"
    for host, code in (("elsewhere", 255), ("gate", 5)):
        add = ["ssh-add", "-q", "-H", str(house.place / "known_hosts"), "-h", host, str(house.place / "identity")]
        await house.run(["ssh-add", "-q", "-D"], env=env)
        assert (await house.run(add, env=env)).code == 0
        done = await house.run(words, env=env)
        assert done.code == code, done.err
