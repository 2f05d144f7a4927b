"""hypeman's guests are found by its data directory, in the state that hypeman derives."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st

from gateway.instances.hypeman import address, state
from gateway.model import CidAddress, Instance, MuxerAddress
from tests.instances.house import House, configured
from tests.instances.test_directory import Bind, said

__all__ = ["said"]

CUID = "tz4a98xxat96iws9zmbrgj3a"


def metadata(instance_id: str, **fields: Any) -> dict[str, Any]:
    """What hypeman stores of a guest, as its releases of 2026 do; Go marshals the embedded struct's fields flat."""
    return {
        "Id": instance_id,
        "Name": "web-1",
        "Image": "docker.io/library/nginx:alpine",
        "ResolvedImage": "docker.io/library/nginx@sha256:5a",
        "Size": 1 << 30,
        "Vcpus": 2,
        "Env": {"TOKEN": "secret"},
        "Tags": {"team": "edge"},
        "NetworkEnabled": True,
        "IP": "10.100.5.7",
        "CreatedAt": "2026-11-02T15:04:05.999999999Z",
        "StartedAt": "2026-11-02T15:04:07.1Z",
        "StoppedAt": None,
        "KernelVersion": "ch-v6.12.9",
        "HypervisorType": "cloud-hypervisor",
        "HypervisorVersion": "v51.1",
        "HypervisorPID": 4711,
        "SocketPath": f"/var/lib/hypeman/guests/{instance_id}/ch.sock",
        "DataDir": f"/var/lib/hypeman/guests/{instance_id}",
        "VsockCID": 9001,
        "VsockSocket": f"/var/lib/hypeman/guests/{instance_id}/vsock.sock",
        **fields,
    }


class Data:
    """hypeman's data directory, written as hypeman writes it: metadata whole, by a rename."""

    def __init__(self, path: Path, bind: Bind) -> None:
        self.path = path
        self._bind = bind

    def guest(self, instance_id: str = CUID, **fields: Any) -> Path:
        place = self.path / "guests" / instance_id
        (place / "logs").mkdir(parents=True, exist_ok=True)
        new = place / ".metadata-1.tmp"
        new.write_text(json.dumps(metadata(instance_id, **fields), indent=2))
        new.rename(place / "metadata.json")
        return place

    def start(self, instance_id: str = CUID) -> None:
        self._bind(self.path / "guests" / instance_id / "ch.sock")
        self._bind(self.path / "guests" / instance_id / "vsock.sock")

    def stop(self, instance_id: str = CUID) -> None:
        for name in ("ch.sock", "vsock.sock"):
            (self.path / "guests" / instance_id / name).unlink()


@pytest.fixture
def data(short: Path, bind: Bind) -> Data:
    return Data(short / "h", bind)


@pytest.fixture
def house(reactor: Any, data: Data) -> Iterator[House]:
    house = House(reactor)
    house.follow(*configured(f'[[sources]]\nkind = "hypeman"\ndata_directory = "{data.path}"\nrefresh = 3600\n'))
    yield house
    house.sources.close()


def seen(house: House, instance_id: str = CUID) -> str:
    instance = house.sources.listing().get(instance_id)
    return instance.state if instance else ""


@pytest_twisted.ensureDeferred
async def test_a_guest_is_told_of_as_hypeman_tells_of_it(house: House, data: Data) -> None:
    place = data.guest()
    await house.until(lambda: seen(house) == "Stopped")
    data.start()
    await house.until(lambda: seen(house) == "Running")
    assert house.sources.listing().get(CUID) == Instance(
        CUID,
        "web-1",
        MuxerAddress(str(place / "vsock.sock"), below=str(place.parent)),
        image="docker.io/library/nginx:alpine",
        created_at="2026-11-02T15:04:05.999999999Z",
        labels={"team": "edge"},
    )
    (place / "snapshots" / "snapshot-latest").mkdir(parents=True)
    (place / "snapshots" / "snapshot-latest" / "config.json").touch()
    data.stop()
    await house.until(lambda: seen(house) == "Standby")
    data.guest(Name="web-2", Tags=None)
    await house.until(lambda: [i.id for i in house.sources.listing().called(["web-2"])] == [CUID])
    shutil.rmtree(place)
    await house.until_ids()


@pytest_twisted.ensureDeferred
async def test_qemu_s_guests_have_a_cid(house: House, data: Data) -> None:
    data.guest(HypervisorType="qemu", SocketPath=f"/x/guests/{CUID}/qemu.sock")
    data._bind(data.path / "guests" / CUID / "qemu.sock")
    await house.until(lambda: seen(house) == "Running")
    instance = house.sources.listing().get(CUID)
    assert instance is not None
    assert instance.address == CidAddress(9001)


@pytest_twisted.ensureDeferred
async def test_one_bad_entry_spoils_no_other(house: House, data: Data, said: list[str]) -> None:
    texts = {
        "empty": "",
        "list": "[]",
        "deep": "[" * 100_000,
        "huge": "9" * 5000,
        "other": json.dumps(metadata("victim")),
        "cid": json.dumps(metadata("cid", HypervisorType="qemu", VsockCID=2)),
        "float": json.dumps(metadata("float", HypervisorType="qemu", VsockCID=3.5)),
        "dots": json.dumps(metadata("dots", VsockSocket="/x/..")),
        "binary": "\udcff",
        "large": '"' + "x" * (1 << 20) + '"',
    }
    for name, text in texts.items():
        (data.path / "guests" / name).mkdir(parents=True)
        (data.path / "guests" / name / "metadata.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    for name in ("fifo", "linked", "directory", "nothing"):
        (data.path / "guests" / name).mkdir()
    os.mkfifo(data.path / "guests" / "fifo" / "metadata.json")
    (data.path / "guests" / "linked" / "metadata.json").symlink_to("/etc/passwd")
    (data.path / "guests" / "directory" / "metadata.json").mkdir()
    (data.path / "guests" / "link").symlink_to("deep")
    data.guest("good")
    await house.until_ids("good")
    left_out = {line.split("'")[1] for line in said}
    assert left_out == {*texts, "fifo", "linked", "directory"}
    assert not any("secret" in line or "root:" in line for line in said)


PATH = "/h/guests/a"
anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text(), max_size=2)
keys = st.sampled_from(["HypervisorType", "VsockCID", "VsockSocket", "SocketPath"])


@given(st.dictionaries(keys, anything | st.sampled_from(["qemu", "firecracker", "/x/y.sock", ".."])))
def test_no_metadata_leads_out_of_the_guest_s_directory(data: dict[str, Any]) -> None:
    for read in (address, state):
        try:
            found: Any = read(PATH, data)
        except ValueError:
            continue
        if isinstance(found, MuxerAddress):
            assert os.path.dirname(found.path) == PATH
            assert os.path.basename(found.path) not in ("", ".", "..")
        elif isinstance(found, CidAddress):
            assert found.cid >= 3


@pytest_twisted.ensureDeferred
async def test_metadata_that_did_not_change_is_not_read_again(
    house: House, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.guest()
    await house.until_ids(CUID)
    parsed = []
    loads: Callable[..., Any] = json.loads
    monkeypatch.setattr("gateway.instances.hypeman.json.loads", lambda text: parsed.append(1) or loads(text))
    data.guest("another")
    await house.until_ids(CUID, "another")
    assert len(parsed) == 1
