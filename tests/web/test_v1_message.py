"""The text messages of vmgate.v1: written and read back the same, as the schema says, and never a traceback."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway import errors
from gateway.entries import DownloadStart, Entry, EntryError, Held, Hole, Kind, Placed, UploadStart
from gateway.errors import BadRequest, GateError
from gateway.model import SIGNALS, ExecRequest, Outcome, Terminal, Window
from gateway.web.v1 import entries as cp
from gateway.web.v1 import message as v1
from gateway.web.v1.catalogue import ClientMessage, ServerMessage, encode
from gateway.web.v1.catalogue import words as words_of
from gateway.web.v1.reader import first_of_cp, first_of_exec, from_client, from_server
from tests.web.test_message import anything
from tests.web.v1 import CLIENT, SCHEMA, SERVER

DOCUMENT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()

words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
sizes = st.integers(0, v1.SAFE)
windows = st.builds(
    Window,
    rows=st.integers(1, 65535), cols=st.integers(1, 65535), width=st.integers(0, 65535), height=st.integers(0, 65535),
)  # fmt: skip
terms = st.builds(
    v1.Terms, wait=st.integers(0, 2**31 - 1), frame=st.integers(v1.LEAST_FRAME, v1.MAX_FRAME), window=sizes
)
modes = st.lists(st.tuples(st.integers(1, 255), st.integers(0, 2**32 - 1)), max_size=4).map(tuple)
common: dict[str, Any] = {
    "terminal": st.none() | st.builds(Terminal, window=windows, modes=modes),
    "env": st.dictionaries(words.filter(lambda name: name and "=" not in name), words, max_size=3),
    "cwd": words,
    "timeout": st.integers(0, 2**31 - 1),
    "user": words,
}
requests = st.builds(ExecRequest, command=st.lists(words, min_size=1).map(tuple), **common) | st.builds(
    ExecRequest, line=st.binary(max_size=12).map(lambda line: line.replace(b"\0", b"")), **common
)
firsts = st.builds(v1.Exec, requests, terms)
names = st.binary(max_size=12).map(lambda name: name.replace(b"\0", b"").decode("utf-8", "surrogateescape"))
paths = names.filter(bool)
about: dict[str, Any] = {
    "path": names,
    "mode": st.integers(0, 0o7777),
    "mtime_ns": st.none() | st.integers(-(10**18), 10**19),
    "owner": st.none() | st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
}
whole = (
    st.builds(Entry, size=sizes, **about)
    | st.builds(Entry, kind=st.just(Kind.DIRECTORY), **about)
    | st.builds(Entry, kind=st.sampled_from([Kind.SYMLINK, Kind.HARD_LINK]), target=paths, **about)
)
copied = (
    whole
    | st.builds(Entry, size=st.integers(-1, v1.SAFE), resume=words, **about)
    | st.builds(cp.Batch, st.lists(whole, min_size=1, max_size=4).map(tuple))
    | st.builds(Hole, st.integers(1, v1.SAFE))
    | st.just(v1.End())
)
copies = st.builds(
    cp.Upload,
    st.builds(UploadStart, path=paths, user=words, parents=st.booleans(), sync=st.booleans()),
    terms,
) | st.builds(
    cp.Download,
    st.builds(DownloadStart, path=paths, user=words, follow_links=st.booleans(), offset=sizes),
    terms,
)
from_clients = (
    copied
    | st.builds(v1.Resize, windows)
    | st.builds(v1.Signal, st.sampled_from(sorted(SIGNALS)))
    | st.builds(v1.Credit, sizes)
    | st.builds(v1.Ping, words)
    | st.sampled_from([v1.Deaf(), cp.Finish()])
)
problems = st.builds(v1.Problem, code=st.from_regex(r"[A-Za-z_]{1,8}", fullmatch=True), message=words)
from_servers = (
    copied
    | st.builds(cp.Ready, st.booleans(), st.booleans())
    | st.builds(Held, sizes)
    | st.builds(Placed, sizes, sizes)
    | st.builds(EntryError, words, names)
    | st.builds(
        cp.Report,
        outcome=st.sampled_from(Outcome),
        entries=sizes,
        size=sizes,
        problems=sizes,
        error=st.none() | problems,
    )
    | st.builds(
        v1.Accepted,
        session=words,
        frame=st.integers(1024, v1.SAFE),
        window=st.integers(1, v1.SAFE),
        ping=st.integers(1, 99),
        silence=st.integers(1, 99),
    )
    | st.builds(v1.Started, words)
    | st.builds(v1.Credit, sizes)
    | st.builds(v1.Pong, words)
    | st.builds(
        v1.Exit,
        outcome=st.sampled_from(Outcome),
        code=st.integers(0, 255),
        signal=words,
        core_dumped=st.booleans(),
        error=st.none() | problems,
    )
)


@given(firsts)
def test_a_first_message_is_read_as_it_was_meant(first: v1.Exec) -> None:
    CLIENT.validate(first.words())
    assert first_of_exec(encode(first)) == first


@given(copies)
def test_a_first_message_of_cp_is_read_as_it_was_meant(first: cp.Upload | cp.Download) -> None:
    CLIENT.validate(first.words())
    assert first_of_cp(encode(first)) == first


@given(from_clients)
def test_a_clients_message_is_read_as_it_was_meant(message: ClientMessage) -> None:
    CLIENT.validate(words_of(message))
    assert from_client(encode(message)) == message


@given(from_servers)
def test_a_servers_message_is_read_as_it_was_meant(message: ServerMessage) -> None:
    SERVER.validate(words_of(message))
    assert from_server(encode(message)) == message


KEYS = sorted({key for part in SCHEMA["$defs"].values() for key in part.get("properties", {})})
TYPES = sorted({name for name, part in SCHEMA["$defs"].items() if "type" in part.get("properties", {})})
hostile = st.tuples(
    st.sampled_from(TYPES) | st.text(max_size=4), st.dictionaries(st.sampled_from(KEYS), anything, max_size=6)
).map(lambda pair: json.dumps({"type": pair[0], **pair[1]}).encode())


@given(hostile | st.binary(max_size=64))
def test_whatever_comes_is_a_message_or_a_bad_one(text: bytes) -> None:
    for read in (first_of_exec, first_of_cp, from_client, from_server):
        try:
            read(text)
        except BadRequest as error:
            assert error.sentence.startswith("invalid JSON: ")


def test_a_server_may_say_what_a_client_does_not_know() -> None:
    assert from_server(b'{"type":"news"}') is None
    assert from_server(b'{"type":"started","tty":"","news":1}') == v1.Started()


# The document.


def test_the_document_has_every_message_of_the_schema() -> None:
    for side in ("client", "server"):
        for part in SCHEMA["$defs"][side]["oneOf"]:
            name = part["$ref"].removeprefix("#/$defs/")
            assert f"`{name}`" in DOCUMENT or f'"type":"{name}"' in DOCUMENT, name


def test_the_document_has_every_key_of_the_schema() -> None:
    told = set(re.findall(r"[a-z_0-9]+", DOCUMENT))
    for part in SCHEMA["$defs"].values():
        assert {key.removesuffix("_b64") for key in part.get("properties", {})} <= told


def test_the_examples_of_the_document_are_right() -> None:
    examples = [json.loads(text) for text in re.findall(r'`(\{"type":[^`…]*\})`', DOCUMENT)]
    assert len(examples) >= 4
    for example in examples:
        (CLIENT if example["type"] in ("exec", "upload", "download") else SERVER).validate(example)


def test_the_document_has_every_outcome_and_every_error() -> None:
    for outcome in Outcome:
        assert f"| `{outcome.value}` |" in DOCUMENT
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, GateError)]
    # Before the upgrade, to nobody, or of sftp, which comes by SSH alone.
    never_told = {"Unauthorized", "config", "client_lost", "client_done", "not_sftp"}
    for code in {kind.code for kind in kinds} - never_told:
        assert f"`{code}`" in DOCUMENT, code
