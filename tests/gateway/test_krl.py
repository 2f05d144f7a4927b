"""Lists of what is revoked: as ssh-keygen writes them, as others might, and as nobody should."""

from __future__ import annotations

import base64
import functools
import hashlib
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.auth.krl import KRL, MAGIC, MAX_SECTIONS, BadKRL, parse_krl
from gateway.auth.revocation import MAX_LIST, BadList, parse
from tests.support.counts import count

SERIALS = st.integers(1, (1 << 64) - 1)


@functools.cache
def line(name: str, kind: str = "ed25519") -> str:
    """A public key of that name, as ssh-keygen makes it."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "key")
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", name, "-f", path], check=True)
        return path.with_suffix(".pub").read_text()


def blob(name: str) -> bytes:
    return base64.b64decode(line(name).split()[1])


def made(*spec: str, ca: str = "") -> bytes:
    """What ssh-keygen -k makes of such lines; `ca` names whose certificates they are about."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        (place / "spec").write_text("".join(f"{text}\n" for text in spec))
        (place / "ca").write_text(line(ca or "ca"))
        signer = ["-s", "ca" if ca else "none"]
        subprocess.run(["ssh-keygen", "-q", "-k", "-f", "krl", *signer, "spec"], cwd=place, check=True)
        return (place / "krl").read_bytes()


def string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def section(kind: int, data: bytes) -> bytes:
    return bytes((kind,)) + string(data)


def packed(*serials: int) -> bytes:
    return struct.pack(f">{len(serials)}Q", *serials)


def krl(*sections: bytes, version: int = 1) -> bytes:
    return (
        MAGIC + struct.pack(">IQQQ", version, 3, 1_700_000_000, 0) + string(b"") + string(b"why") + b"".join(sections)
    )


def issued(*sections: bytes, ca: bytes = b"") -> bytes:
    return section(1, string(ca) + string(b"") + b"".join(sections))


def test_keys_and_fingerprints_are_revoked() -> None:
    for kind, why in (("key", "by the key itself"), ("sha1", "by its fingerprint"), ("sha256", "by its fingerprint")):
        found = parse_krl(made(f"{kind}: {line('anna')}"))
        assert (found.key(blob("anna")), found.key(blob("ben"))) == (why, "")
    digest = base64.b64encode(hashlib.sha256(blob("anna")).digest()).decode().rstrip("=")
    assert parse_krl(made(f"hash: SHA256:{digest}")).key(blob("anna"))


def test_certificates_are_revoked_by_serial_and_key_id_of_one_ca_or_of_any() -> None:
    spec = ("serial: 7", "serial: 100-200", "id: anna", "id: bj\u00f6rn")
    for ca, others in (("ca", ""), ("", "by its serial 7")):
        found = parse_krl(made(*spec, ca=ca))
        assert found.certificate(blob("ca"), 7, "x") == "by its serial 7"
        assert found.certificate(blob("ca"), 100, "x") == "by its serial 100"
        assert found.certificate(blob("ca"), 201, "x") == ""
        assert (
            found.certificate(blob("ca"), 0, "anna")
            == found.certificate(blob("ca"), 0, "bj\u00f6rn")
            == "by its key id"
        )
        assert found.certificate(blob("other"), 7, "x") == others


@settings(max_examples=count(300, 15), deadline=None)
@given(
    ranges=st.lists(st.tuples(SERIALS, st.integers(0, 300)), max_size=6),
    near=st.lists(st.integers(1, 2000), max_size=40),
    asked=st.lists(st.one_of(SERIALS, st.integers(0, 2100)), max_size=20),
)
def test_whatever_serials_ssh_keygen_writes_are_read(
    ranges: list[tuple[int, int]], near: list[int], asked: list[int]
) -> None:
    """It chooses among lists, ranges and bitmaps."""
    pairs = [(low, min(low + more, (1 << 64) - 1)) for low, more in ranges] + [(one, one) for one in near]
    spec = (f"serial: {low}-{high}" if low < high else f"serial: {low}" for low, high in pairs)
    found = parse_krl(made(*spec, ca="ca"))
    for serial in (*asked, *(end for pair in pairs for end in pair), *(high + 1 for _, high in pairs)):
        revoked = any(low <= serial <= high for low, high in pairs)
        assert bool(found.certificate(blob("ca"), serial, "")) == revoked


def test_all_three_ways_to_write_serials_are_read() -> None:
    written = krl(
        issued(
            section(0x20, packed(5, 3)),
            section(0x21, packed(10, 12)),
            section(0x22, packed(1000) + string(b"\x00\x81\x01")),
            section(0x22, packed((1 << 64) - 8) + string(b"\x00\x80")),
        )
    )
    found = parse_krl(written)
    revoked = [serial for serial in range(1100) if found.certificate(b"ca", serial, "")]
    assert revoked == [3, 5, 10, 11, 12, 1000, 1008, 1015]
    assert found.certificate(b"ca", (1 << 64) - 1, "")


def test_signatures_and_extensions_that_are_not_critical_are_passed_over() -> None:
    extension = string(b"new@example.org") + b"\0" + string(b"x")
    found = parse_krl(
        krl(
            section(255, extension),
            issued(section(0x39, extension), section(0x23, string(b"anna"))),
            section(4, blob("ca")) + string(b"signature"),
        )
    )
    assert found.certificate(b"ca", 1, "anna")


EXTENSION = string(b"new@example.org") + b"\1" + string(b"")
WRONG = {
    "version 2 of the format": krl(version=2),
    "it is cut off": krl()[:-1],
    "a section of an unknown kind, 9": krl(section(9, b"")),
    "an unknown critical extension 'new@example.org'": krl(section(255, EXTENSION)),
    "an unknown critical extension ": krl(issued(section(0x39, EXTENSION))),
    "a section of certificates of an unknown kind, 0x24": krl(issued(section(0x24, b""))),
    "a fingerprint of a wrong length": krl(section(3, string(b"x" * 21))),
    "an empty key": krl(section(2, string(b""))),
    "a key that cannot be read": krl(issued(ca=string(b"ssh-ed25519") + string(b"short"))),
    "a list of serial numbers that is cut off": krl(issued(section(0x20, b"1234567"))),
    "serial number 0": krl(issued(section(0x20, packed(1, 0)))),
    "serial numbers from 9 to 8": krl(issued(section(0x21, packed(9, 8)))),
    "serial numbers from 0 to 8": krl(issued(section(0x21, packed(0, 8)))),
    "data behind the end": krl(issued(section(0x21, packed(1, 2, 3)))),
    "a bitmap of serial numbers from 0": krl(issued(section(0x22, packed(0) + string(b"\1")))),
    "a bitmap of serial numbers from": krl(issued(section(0x22, packed((1 << 64) - 7) + string(b"\x00\x80")))),
    "a bitmap that is a negative number": krl(issued(section(0x22, packed(1) + string(b"\x80")))),
    "a section behind a signature": krl(section(4, b"k") + string(b"s"), section(2, string(b"key"))),
    f"more than {MAX_SECTIONS} sections": krl(section(2, b"") * (MAX_SECTIONS + 1)),
}


@pytest.mark.parametrize("why", WRONG)
def test_what_is_not_understood_refuses_the_whole_list(why: str) -> None:
    with pytest.raises(BadKRL, match=why):
        parse_krl(WRONG[why])


def test_a_list_that_is_cut_off_is_refused_but_between_its_sections() -> None:
    whole = krl(issued(section(0x20, packed(1, 2))), section(2, string(blob("anna"))))
    ends = {len(krl()), len(krl(issued(section(0x20, packed(1, 2)))))}
    for end in range(len(whole)):
        try:
            parse_krl(whole[:end])
        except BadKRL:
            assert end not in ends
        else:
            assert end in ends


@settings(deadline=None)
@given(data=st.binary(max_size=400), at=st.integers(0, 400), kinds=st.lists(st.sampled_from([1, 2, 3, 4, 5, 255])))
def test_any_bytes_are_a_list_or_refused(data: bytes, at: int, kinds: list[int]) -> None:
    known = krl(
        issued(section(0x20, packed(9)), section(0x22, packed(1) + string(b"\1")), section(0x23, string(b"id")))
    )
    spoilt = known[:at] + data + known[at + len(data) :]
    for text in (data, MAGIC + data, spoilt, krl(*(section(kind, data) for kind in kinds)), krl(issued(data))):
        try:
            found = parse(text)
        except BadList as problem:
            assert str(problem)
        else:
            assert isinstance(found.key(b"k") + found.certificate(b"c", 9, "id"), str)


def test_a_plain_list_has_public_keys_and_certificates() -> None:
    text = f"# gone\n\n{line('anna')}  {line('ben')}"
    found = parse(text.encode())
    assert found == KRL(frozenset({blob("anna"), blob("ben")}))
    assert parse(b"") == KRL()


@pytest.mark.parametrize(
    "text", ["ssh-ed25519", "ssh-ed25519 ????", "ssh-ed25519 AAAA", "new-type AAAA", 'from="x" ssh-ed25519 A', "\0"]
)
def test_a_plain_list_with_a_line_that_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(BadList, match="line 2: no public key"):
        parse(f"# a list\n{text}\n".encode())
    with pytest.raises(BadList, match="line 1"):
        parse(line("anna").replace("ssh-ed25519", "ssh-rsa").encode())


def test_a_list_that_is_too_large_is_refused() -> None:
    with pytest.raises(BadList, match="larger than"):
        parse(bytes(MAX_LIST + 1))
