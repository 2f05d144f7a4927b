"""What is fetched from a URL: how much of an answer is taken, for how long, and which servers are believed."""

from __future__ import annotations

import datetime
import time
from ipaddress import ip_address
from typing import Any

import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import PrivateCertificate
from twisted.web.server import Site

from gateway import fetch
from gateway.fetch import BadAnswer, Fetcher
from gateway.keyset import MAX_TEXT
from tests.gateway.test_jwks import eventually
from tests.support.issuer import Published, private_key, private_pem, public_jwk

# What is taken of an answer.


class Stubborn(Protocol):
    """A server of raw bytes."""

    said: bytes = b""
    rest: bytes = b""  # again and again

    def connectionMade(self) -> None:
        self.open = True
        assert self.transport is not None
        self.transport.write(self.said)
        self._more()

    def _more(self) -> None:
        if self.rest and self.open:
            assert self.transport is not None
            self.transport.write(self.rest)
            reactor.callLater(0, self._more)

    def connectionLost(self, reason: Any = None) -> None:
        self.open = False


async def asked(said: bytes, rest: bytes = b"", seconds: float = fetch.ANSWER_TIME) -> tuple[str, list[Stubborn]]:
    """What a fetcher says of a server, and the server's connections."""
    made: list[Stubborn] = []

    class Server(Factory):
        noisy = False

        def buildProtocol(self, addr: Any) -> Stubborn:
            protocol = Stubborn()
            protocol.said, protocol.rest = said, rest
            made.append(protocol)
            return protocol

    port = reactor.listenTCP(0, Server(), interface="127.0.0.1")
    try:
        text = await Fetcher(reactor, MAX_TEXT, seconds=seconds).get(f"http://127.0.0.1:{port.getHost().port}/", "a/b")
        return text.decode(), made
    except BadAnswer as problem:
        return str(problem), made
    finally:
        await eventually(lambda: not any(server.open for server in made))
        await port.stopListening()


OK = b"HTTP/1.1 200 OK\r\n"


@pytest_twisted.ensureDeferred
async def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    assert (await asked(OK + b"Content-Length: 2\r\n\r\n{}"))[0] == "{}"


@pytest.mark.parametrize(
    ("said", "rest"),
    [
        (OK + b"Content-Length: 1000000000\r\n\r\n", b"x" * 65536),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + b"x" * 4096 + b"\r\n"),
        (OK, b"X: y\r\n" * 1000),
        (OK + b"X: ", b"y" * 65536),
        (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    ],
    ids=["body", "chunks", "headers", "header", "continue"],
)
@pytest_twisted.ensureDeferred
async def test_an_endless_answer_is_cut_off(said: bytes, rest: bytes) -> None:
    began = time.monotonic()
    word, _ = await asked(said, rest)
    assert word.startswith("no answer"), word
    assert time.monotonic() - began < fetch.ANSWER_TIME, "by its size, not by its time"


@pytest.mark.parametrize("said", [b"", OK, OK + b"Content-Length: 10\r\n\r\nabc"], ids=["silent", "head", "body"])
@pytest_twisted.ensureDeferred
async def test_an_answer_that_does_not_end_is_given_up(said: bytes) -> None:
    word, made = await asked(said, seconds=0.3)
    assert word == "no answer within 0.3 s"
    assert len(made) == 1, "and its connection is closed"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", "status 302"),
        (b"HTTP/1.1 404 No\r\nContent-Length: 4\r\n\r\nkeys", "status 404"),
        (b"\x16\x03\x01 what is this\r\n\r\n", "no answer"),
        (b"HTTP/9.9 999 ?\r\nContent-Length: -1\r\n\r\n", "no answer"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_another_answer_than_200_is_none(said: bytes, why: str) -> None:
    assert (await asked(said))[0].startswith(why)


# TLS.


def authority(name: str) -> tuple[Any, x509.Certificate]:
    key = private_key("P-256", hash(name))
    return key, certificate(name, key, name, key, ca=True)


def certificate(name: str, key: Any, issuer: str, by: Any, *, ca: bool = False, host: str = "") -> x509.Certificate:
    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(named(name)).issuer_name(named(issuer))
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
    builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    if host:
        address = x509.IPAddress(ip_address(host)) if host[0].isdigit() else x509.DNSName(host)
        builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    return builder.sign(by, SHA256())


@pytest.mark.parametrize(
    ("host", "ca", "why"),
    [
        ("127.0.0.1", "its own", ""),
        ("127.0.0.1", "another", "certificate verify failed"),
        ("127.0.0.1", "", "certificate verify failed"),
        ("127.0.0.9", "its own", "no answer"),
        ("login.example", "its own", "no answer"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_server_proves_itself_to_the_cas_that_are_given(host: str, ca: str, why: str) -> None:
    by, root = authority("its own")
    _, other = authority("another")
    key = private_key("P-256", 9)
    leaf = certificate("leaf", key, "its own", by, host=host)
    pem = leaf.public_bytes(Encoding.PEM) + private_pem(key)
    served = Published(public_jwk(private_key("rsa"), "k0"))
    context = PrivateCertificate.loadPEM(pem).options()
    port = reactor.listenSSL(0, Site(served), context, interface="127.0.0.1")
    trusted = {"its own": root, "another": other}
    text = trusted[ca].public_bytes(Encoding.PEM) if ca else b""
    both = text + other.public_bytes(Encoding.PEM) if ca == "its own" else text
    try:
        found = await Fetcher(reactor, MAX_TEXT, both).get(f"https://127.0.0.1:{port.getHost().port}/", "a/b")
        assert not why
        assert b"k0" in found
    except BadAnswer as problem:
        assert why, problem
        assert why in str(problem)
    finally:
        await port.stopListening()
