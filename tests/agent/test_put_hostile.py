"""Put under streams that no client sends: put in place, told as a problem or refused by name; nothing
else, nowhere else, and nothing left behind."""

from __future__ import annotations

import os
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.copy import put
from agent.copy.frames import LENGTH, Frames, Gone
from agent.order import Broken
from proto import vmgate_pb2 as pb
from tests.agent.scene import scene, state
from tests.support.counts import count
from tests.support.putting import putting
from tests.support.trees import END, FINISH, entry, request

NAMES = [b"a", b"dir", b"sub", b"file", b"out", b"up", b"leak", b"loop", b"fifo", b"here", b"dangling", b"new", b"..",
         b".", b"", b"caf\xe9", b"a\nb", b"a\0b", b"x" * 256]  # fmt: skip
PATHS = st.lists(st.sampled_from(NAMES), max_size=4).map(b"/".join)
TIMES = st.builds(pb.PutTime, seconds=st.integers(-(1 << 63), (1 << 63) - 1), nanos=st.integers(0, 10**9))
ENTRIES = st.builds(
    pb.PutEntry,
    path=PATHS,
    kind=st.sampled_from([0, 0, 0, 1, 1, 2, 3, 4]),
    target=PATHS | st.sampled_from([b"/etc/passwd", b"../outside/secret", b"dir/../../outside"]),
    mode=st.sampled_from([0, 0o644, 0o755, 0o7777, 0o10000, 0xFFFFFFFF]),
    size=st.sampled_from([-1, 0, 1, 3, 1 << 40, (1 << 63) - 1, -(1 << 63)]),
    mtime=st.none()
    | st.builds(pb.PutTime, seconds=st.integers(-(1 << 63), (1 << 63) - 1), nanos=st.integers(0, 10**9)),
    owner=st.none() | st.builds(pb.PutOwner, uid=st.sampled_from([0, 1, 0xFFFFFFFF]), gid=st.sampled_from([0, 1])),
    resume=st.sampled_from(["", "", "it"]),
)
SINGLE = st.one_of(
    ENTRIES.map(lambda each: [request(entry=each), END]),
    ENTRIES.map(lambda each: [request(entry=each), request(data=b"x"), request(hole=2), END]),
    ENTRIES.map(lambda each: [request(entry=each)]),
    st.binary(max_size=3).map(lambda data: [request(data=data)]),
    st.integers(0, (1 << 64) - 1).map(lambda size: [request(hole=size)]),
    st.sampled_from([[END], [FINISH], [pb.PutRequest()], [request(start=pb.PutStart(path=b"/"))]]),
)
STREAMS = st.lists(SINGLE, max_size=12).map(lambda parts: [each for part in parts for each in part])
MANY = count(20_000, 100)


def left(root: Path) -> list[Path]:
    """Temporary files, without what is kept for a client that comes back."""
    return [path for path in root.rglob(".vmgate-*") if path.name.count("-") == 1]


@settings(max_examples=MANY, deadline=None)
@given(STREAMS, st.booleans())
def test_any_stream_stays_inside_and_ends_in_words(stream: list[pb.PutRequest], end: bool) -> None:
    with scene() as here:
        before = state(here.outside)
        told = putting(here.target, stream, end=end)
        assert (told.done is None) == bool(told.broken)
        assert state(here.outside) == before
        assert not left(here.target)


@settings(max_examples=MANY, deadline=None)
@given(st.data())
def test_any_bytes_are_refused_or_end_the_call(data: st.DataObject) -> None:
    entries = [*entry("a", b"data"), *entry("d", kind=1), *entry("d/f", b"x")]
    whole = [request(start=pb.PutStart(path=b"@")), *entries, FINISH]
    with tempfile.TemporaryDirectory(prefix="vmgate-test-") as name:
        whole[0].start.path = os.fsencode(name) + b"/t"
        os.mkdir(whole[0].start.path)
        stream = bytearray()
        for each in whole:
            message = each.SerializeToString()
            stream += LENGTH.pack(len(message)) + message
        # Not the start, or the target would be anywhere.
        first = LENGTH.size + len(whole[0].SerializeToString())
        for _ in range(data.draw(st.integers(1, 4))):
            stream[data.draw(st.integers(first, len(stream) - 1))] = data.draw(st.integers(0, 255))
        del stream[data.draw(st.integers(first, len(stream))) :]
        ours, theirs = socket.socketpair()
        with ours:
            ours.sendall(stream)
            ours.shutdown(socket.SHUT_WR)
            with suppress(Broken, Gone):
                put.serve(Frames(theirs.detach()))
        assert os.listdir(name) == ["t"]
        assert not left(Path(name))
