"""libvirt's domains, by libvirt's own test driver, which keeps them in this process."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import libvirt
import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ConfigError
from gateway.instances.libvirt import MAX_XML, vsock_cid
from gateway.model import CidAddress
from tests.instances.house import House, configured
from tests.instances.test_directory import said
from tests.support.counts import count

__all__ = ["said"]

TABLE = '[[sources]]\nkind = "libvirt"\nuri = "test:///default"\nrefresh = 1\n'
DOMAIN = """<domain type='test'><name>{name}</name><memory>1024</memory><os><type>hvm</type></os>
<devices>{devices}</devices></domain>"""


class Hypervisor:
    """libvirt's test driver, whose domains all connections of a process share."""

    def __init__(self) -> None:
        self.connection = libvirt.open("test:///default")
        self._defined: list[Any] = []

    def define(self, name: str, cid: int | None = None, *, auto: bool = False) -> Any:
        said = f"<cid auto='{'yes' if auto else 'no'}'" + (f" address='{cid}'/>" if cid else "/>")
        devices = "" if cid is None and not auto else f"<vsock model='virtio'>{said}</vsock>"
        domain = self.connection.defineXML(DOMAIN.format(name=name, devices=devices))
        self._defined.append(domain)
        return domain

    def close(self) -> None:
        for domain in self._defined:
            if domain.isActive():
                domain.destroy()
            domain.undefine()
        self.connection.close()


@pytest.fixture
def hypervisor() -> Iterator[Hypervisor]:
    hypervisor = Hypervisor()
    yield hypervisor
    hypervisor.close()


@pytest.fixture
def house(reactor: Any, hypervisor: Hypervisor) -> Iterator[House]:
    house = House(reactor)
    yield house
    house.sources.close()


def seen(house: House, domain: Any) -> tuple[str, int]:
    instance = house.sources.listing().get(domain.UUIDString())
    if instance is None:
        return "", 0
    assert isinstance(instance.address, CidAddress)
    return instance.state, instance.address.cid


@pytest_twisted.ensureDeferred
async def test_a_domain_with_a_vsock_device_is_an_instance_in_its_state(house: House, hypervisor: Hypervisor) -> None:
    web, plain = hypervisor.define("web", 42), hypervisor.define("plain")
    house.follow(*configured(TABLE))
    await house.until(lambda: seen(house, web) == ("Stopped", 42))
    web.create()
    await house.until(lambda: seen(house, web) == ("Running", 42))
    web.suspend()
    await house.until(lambda: seen(house, web)[0] == "Paused")
    web.resume()
    await house.until(lambda: seen(house, web)[0] == "Running")
    assert [i.id for i in house.sources.listing().called(["web"])] == [web.UUIDString()]
    assert house.sources.listing().get(plain.UUIDString()) is None
    web.destroy()
    web.undefine()
    hypervisor._defined.remove(web)
    await house.until(lambda: seen(house, web)[0] == "")


@pytest_twisted.ensureDeferred
async def test_a_cid_that_another_domain_has_now_is_its_alone_at_once(house: House, hypervisor: Hypervisor) -> None:
    one, other = hypervisor.define("one", 42), hypervisor.define("other", 42)
    one.create()
    house.follow(*configured(TABLE.replace("refresh = 1", "refresh = 3600")))
    await house.until(lambda: seen(house, one)[0] == "Running")
    slowest = 0.0
    for _ in range(count(100, 5)):
        one.destroy()
        gone = await house.until(lambda one=one: seen(house, one)[0] == "Stopped")
        other.create()
        came = await house.until(lambda other=other: seen(house, other) == ("Running", 42))
        one, other = other, one
        slowest = max(slowest, gone, came)
    print(f"libvirt's events were heard within {slowest * 1000:.0f} ms")


@pytest_twisted.ensureDeferred
async def test_a_domain_whose_name_is_none_is_there_by_its_uuid(
    house: House, hypervisor: Hypervisor, said: list[str]
) -> None:
    domain = hypervisor.define("win 10", auto=True)
    house.follow(*configured(TABLE))
    await house.until(lambda: seen(house, domain) == ("Stopped", 0))
    assert "'win 10' is left out: this is no name" in "".join(said)
    assert house.sources.listing().called(["win 10"]) == []


@pytest_twisted.ensureDeferred
async def test_a_libvirt_that_is_not_there_is_told_and_asked_again(house: House, reactor: Any) -> None:
    house.follow(*configured('[[sources]]\nkind = "libvirt"\nuri = "qemu+unix:///system?socket=/nowhere"\n'))
    await house.until(lambda: "libvirt says" in "".join(house.sources.unanswered))
    assert house.last("libvirt").broken == 1


@pytest_twisted.ensureDeferred
async def test_a_libvirt_that_hangs_is_late_and_delays_nobody(
    house: House, hypervisor: Hypervisor, monkeypatch: pytest.MonkeyPatch, reactor: Any
) -> None:
    domain = hypervisor.define("web", 42)
    house.follow(*configured(TABLE + "timeout = 1\n"))
    await house.until(lambda: seen(house, domain)[0] == "Stopped")
    answer = threading.Event()
    ask: Callable[..., Any] = libvirt.virConnect.listAllDomains

    def hang(*words: Any) -> Any:
        assert answer.wait(60)
        return ask(*words)

    monkeypatch.setattr(libvirt.virConnect, "listAllDomains", hang)
    domain.create()
    await house.until(lambda: house.last("libvirt").broken == 1)
    assert (seen(house, domain)[0], house.last("libvirt").instances) == ("Stopped", 1)
    answer.set()
    await house.until(lambda: seen(house, domain)[0] == "Running" and house.last("libvirt").broken == 0)


def test_without_libvirt_python_the_configuration_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, reactor: Any
) -> None:
    monkeypatch.setitem(sys.modules, "libvirt", None)
    house = House(reactor)
    with pytest.raises(ConfigError, match=r"pip install 'vmgate\[libvirt\]'"):
        house.follow(*configured(TABLE))


def xml(cid: str) -> str:
    return DOMAIN.format(name="a", devices=f"<vsock>{cid}</vsock>")


@pytest.mark.parametrize(
    ("text", "cid"),
    [
        (xml("<cid auto='yes' address='3'/>"), 3),
        (xml("<cid auto='yes'/>"), 0),
        (xml(""), 0),
        (DOMAIN.format(name="a", devices=""), None),
    ],
)
def test_a_domain_s_cid_is_read(text: str, cid: int | None) -> None:
    assert vsock_cid(text) == cid


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<domain>",
        "<!DOCTYPE x [<!ENTITY a 'b'>]><domain/>",
        " " * MAX_XML + "<domain/>",
        *(xml(f"<cid address='{cid}'/>") for cid in ("2", "-3", "٣", "4294967295", "x", "", "3 ", "9" * 5000)),
    ],
)
def test_what_is_no_domain_or_no_cid_is_an_error_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="its "):
        vsock_cid(text)


@given(st.text())
def test_any_text_is_a_cid_or_an_error_by_name(text: str) -> None:
    with contextlib.suppress(ValueError):
        vsock_cid(text)
