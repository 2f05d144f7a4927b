"""The ssh programs and libraries that people have, behind one interface, so that one suite judges them all."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.whole.conftest import Demo

KINDS = {"ed25519": ("-t", "ed25519"), "rsa": ("-t", "rsa", "-b", "3072"), "ecdsa": ("-t", "ecdsa", "-b", "256")}
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Visitor:
    """A running demo, and keys of every kind that may enter its alpha, in every program's own format."""

    demo: Demo
    place: Path

    @property
    def port(self) -> str:
        return str(self.demo.about["ssh_port"])

    @property
    def known_hosts(self) -> str:
        return str(self.demo.about["known_hosts_file"])

    @property
    def host_key(self) -> str:
        """SHA256:…"""
        listed = subprocess.run(["ssh-keygen", "-lf", self.known_hosts], capture_output=True, text=True, check=True)
        return listed.stdout.split()[1]

    def key(self, kind: str, suffix: str = "") -> str:
        return str(self.place / f"{kind}{suffix}")


def new_visitor(demo: Demo, place: Path) -> Visitor:
    """Make the keys and let them in."""
    for kind, words in KINDS.items():
        path = place / kind
        for command in (
            ["ssh-keygen", "-q", *words, "-N", "", "-C", f"{kind} visitor", "-f", path],
            ["dropbearconvert", "openssh", "dropbear", path, f"{path}.dropbear"],
            ["puttygen", path, "-O", "private", "-o", f"{path}.ppk"],
        ):
            subprocess.run(command, check=True, capture_output=True, timeout=60)
        with open(demo.state / "authorized_keys", "a") as keys:
            keys.write(f'instances="alpha" {path.with_suffix(".pub").read_text()}')
    return Visitor(demo, place)


class Client(Protocol):
    """One of them. `killed` is the code it exits with when a signal ended the command."""

    name: str
    killed: int

    def command(self, visitor: Visitor, kind: str, line: str) -> Sequence[str]: ...


@dataclass(frozen=True)
class OpenSSH:
    name: str = "openssh"
    killed: int = 255

    def command(self, visitor: Visitor, kind: str, line: str) -> Sequence[str]:
        return visitor.demo.ssh("-i", visitor.key(kind), "-o", "IdentityFile=none", "alpha", line)


@dataclass(frozen=True)
class Dropbear:
    name: str = "dbclient"
    killed: int = 0  # its cli-chansession.c takes exit-signal for nothing

    def command(self, visitor: Visitor, kind: str, line: str) -> Sequence[str]:
        # It keeps host keys without their ports, so known_hosts cannot serve it: -y takes any.
        words = ["-y", "-y", "-p", visitor.port, "-i", visitor.key(kind, ".dropbear")]
        return ["dbclient", *words, "alpha@127.0.0.1", line]


@dataclass(frozen=True)
class Plink:
    name: str = "plink"
    killed: int = 128

    def command(self, visitor: Visitor, kind: str, line: str) -> Sequence[str]:
        words = ["-batch", "-ssh", "-noagent", "-P", visitor.port, "-hostkey", visitor.host_key]
        return ["plink", *words, "-i", visitor.key(kind, ".ppk"), "alpha@127.0.0.1", line]


@dataclass(frozen=True)
class Library:
    name: str
    killed: int = 255

    def command(self, visitor: Visitor, kind: str, line: str) -> Sequence[str]:
        words = ["127.0.0.1", visitor.port, visitor.known_hosts, visitor.key(kind), line]
        return [sys.executable, "-m", "tests.whole.libraries", self.name, *words]


CLIENTS: Sequence[Client] = (
    OpenSSH(), Dropbear(), Plink(), Library("paramiko"), Library("asyncssh"), Library("libssh"),
)  # fmt: skip


def run(
    client: Client, visitor: Visitor, line: str, stdin: bytes = b"", *, kind: str = "ed25519", seconds: float = 100
) -> subprocess.CompletedProcess[bytes]:
    """One command, to its end."""
    return subprocess.run(
        client.command(visitor, kind, line),
        input=stdin,
        capture_output=True,
        timeout=seconds,
        check=False,
        cwd=ROOT,
        env={**os.environ, "HOME": str(visitor.place)},
    )
