"""What copies cost the guest: how fast, in how much memory, how many at once."""

from __future__ import annotations

import getpass
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from agent import census
from agent.copying import COPIES
from proto import guest_pb2, vmgate_pb2
from proto.vmgate_pb2 import DIRECTORY
from tests.support.agent import SECONDS, Client, RealAgent
from tests.support.counts import count
from tests.support.processes import until
from tests.support.trees import END, Put, entry, messages, packed, put, request

MIB = 1 << 20
PIECE = 256 << 10
PATIENCE = 100.0  # of calls that outlive a wait for a place


class Peaks:
    """The most that the agent and the children of its launcher ever held."""

    def __init__(self, agent: RealAgent) -> None:
        self._agent = agent
        self.idle = agent.memory
        self.child = 0

    def look(self) -> None:
        for each in census.residents():
            if each.parent == self._agent.launcher_pid and not each.dead:
                self.child = max(self.child, peak(each.pid))

    @property
    def more(self) -> int:
        """Than idle: the agent's own growth and all of the child."""
        return peak(self._agent.pid) + peak(self._agent.launcher_pid) + self.child - self.idle


def peak(pid: int) -> int:
    """VmHWM, bytes; 0 for a process that is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def test_many_small_files_go_in_one_stream_each_way(tmp_path: Path) -> None:
    number = count(10_000, 500)
    data = os.urandom(1024)
    with RealAgent() as agent, agent.connect() as client:
        put(client, tmp_path, entry("warm", data))
        peaks = Peaks(agent)

        def entries() -> Iterator[vmgate_pb2.PutRequest]:
            yield from entry("", kind=DIRECTORY)
            for index in range(number):
                if index % 100 == 0:
                    yield from entry(f"d{index // 100}", kind=DIRECTORY)
                yield from entry(f"d{index // 100}/f{index}", data)

        began = time.monotonic()
        call = Put(client, tmp_path / "t")
        call.send(*packed(entries()))
        peaks.look()
        assert call.done() == vmgate_pb2.PutDone(entries=1 + number + number // 100, bytes=number * 1024)
        put_rate = number / (time.monotonic() - began)

        began = time.monotonic()
        stream = messages(client, tmp_path / "t")
        received = sum(len(message.data) for message in stream)
        take_rate = number / (time.monotonic() - began)
        assert received == number * 1024
        print(
            f"\n{number} files of 1 KiB: {put_rate:.0f} files/s in, {take_rate:.0f} files/s out; "
            f"{peaks.more / MIB:.0f} MiB more than idle, of which the child {peaks.child / MIB:.0f} MiB"
        )
        assert peaks.more < 64 * MIB


def test_a_big_file_costs_no_memory(tmp_path: Path) -> None:
    size = count(4 << 30, 64 * MIB) + 1
    piece = os.urandom(PIECE)
    source = hashlib.sha256()
    with RealAgent() as agent, agent.connect() as client:
        put(client, tmp_path, entry("warm", b"x"))
        peaks = Peaks(agent)
        call = Put(client, tmp_path / "big", wait=600)
        call.send(entry("", size=size)[0])
        for at in range(0, size, PIECE):
            data = piece[: min(PIECE, size - at)]
            source.update(data)
            call.send(request(data=data))
            if at % (32 * MIB) == 0:
                peaks.look()
        peaks.look()
        call.send(END)
        assert call.done() == vmgate_pb2.PutDone(entries=1, bytes=size)
        back = hashlib.sha256()
        for number, message in enumerate(messages(client, tmp_path / "big", wait=600)):
            back.update(message.data)
            if number % 128 == 0:
                peaks.look()
        assert back.hexdigest() == source.hexdigest()
        print(
            f"\n{size} bytes each way: {peaks.more / MIB:.0f} MiB more than idle, "
            f"of which the child {peaks.child / MIB:.0f} MiB"
        )
        assert peaks.more < 64 * MIB


def test_a_copy_of_one_kilobyte_starts_quickly(client: Client, tmp_path: Path) -> None:
    """Each is a process of its own; beside an Exec, which is one too. No assertion: machines differ."""

    def one(index: int) -> None:
        start = guest_pb2.CopyToGuestStart(path=str(tmp_path / f"f{index}"), size=1024)
        requests = [
            guest_pb2.CopyToGuestRequest(start=start),
            guest_pb2.CopyToGuestRequest(data=bytes(1024)),
            guest_pb2.CopyToGuestRequest(end=guest_pb2.CopyToGuestEnd()),
        ]
        assert client.guest.CopyToGuest(iter(requests), timeout=SECONDS).success

    def timed(work: object) -> float:
        times = []
        for index in range(count(200, 20)):
            began = time.monotonic()
            work(index)  # type: ignore[operator]
            times.append(time.monotonic() - began)
        return sorted(times)[len(times) // 2] * 1000

    copy, run = timed(one), timed(lambda _: client.exec("/bin/true").result)
    print(f"\nCopyToGuest of 1 KiB: {copy:.1f} ms; Exec of /bin/true: {run:.1f} ms; {copy / run:.1f} times")


def test_copies_at_once_are_bounded_and_more_of_them_wait_but_not_for_ever(tmp_path: Path) -> None:
    with RealAgent() as agent, agent.connect() as client:
        calls = [Put(client, tmp_path, wait=PATIENCE) for _ in range(COPIES)]
        for call in calls:
            call.await_("ready")
        late = Put(client, tmp_path, wait=PATIENCE)
        assert take_stat(client).is_dir, "a stat does not wait for copies"
        assert take_stat(client, user=getpass.getuser()).is_dir, "nor does one with a user"
        launcher = agent.launcher_pid
        # The stat's own child may be there still; a copy too many would stay.
        until(lambda: len([each for each in census.residents() if each.parent == launcher]) == COPIES)
        calls.pop().cancel()
        late.await_("ready")
        refused = Put(client, tmp_path, wait=PATIENCE).await_("refused")
        assert refused.reason == "the guest is busy with other copies"
        for call in (late, *calls):
            call.done()


def take_stat(client: Client, user: str = "") -> guest_pb2.StatPathResponse:
    return client.guest.StatPath(guest_pb2.StatPathRequest(path="/", user=user), timeout=SECONDS)
