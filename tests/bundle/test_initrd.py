"""The overlay in an initrd, on a kernel of its own: the agent starts by itself, before the vsock driver is there,
and goes on when init switches to another root."""

from __future__ import annotations

import gzip
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.cli import bundle, cpio
from gateway.cli.cpio import Entry
from gateway.vm.machine import Machine
from gateway.vm.packages import Kernel
from tests.bundle.conftest import BUILD_SECONDS
from tests.bundle.test_bundle import copies
from tests.support import vm
from tests.support.agent import Client
from tests.support.counts import count
from tests.support.processes import until

pytestmark = pytest.mark.timeout(BUILD_SECONDS)
RDINIT = "rdinit=/opt/vmgate-agent/init"
# What the first process of a small initrd does; the driver comes a moment after the agent has looked for it.
INIT = """#!/bin/sh
busybox --install -s /bin
mount -t proc proc /proc 2>/dev/null
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir /dev/pts && mount -t devpts -o ptmxmode=0666 devpts /dev/pts
until dmesg | grep -q 'Cannot listen'; do sleep 0.1; done
for module in vsock vmw_vsock_virtio_transport_common vmw_vsock_virtio_transport; do insmod /$module.ko; done
echo the former init is $$
until [ -e /go ]; do sleep 0.1; done
mkdir /new && mount -t tmpfs tmpfs /new && cd /new
mkdir bin dev etc proc root sys tmp && cp /bin/busybox bin && cp /etc/passwd etc && echo new >etc/where
for applet in cat ls mount sh sleep true; do ln -s busybox bin/$applet; done
for place in dev proc sys; do mount --move /$place $place; done
exec switch_root /new /bin/sh -c 'echo switched; while :; do sleep 1; done'
"""
APPLETS = ("dmesg", "grep", "insmod", "mkdir", "mount", "readlink", "sh", "sleep", "true")


@pytest.fixture(scope="module")
def base(kernel: Kernel) -> bytes:
    """An initrd that knows nothing of the agent."""
    directories = [Entry(name, 0o40755) for name in ("bin", "dev", "etc", "proc", "root", "sys", "tmp")]
    links = [Entry(f"bin/{applet}", 0o120777, b"busybox") for applet in APPLETS]
    modules = [Entry(path.name, 0o100644, path.read_bytes()) for path in kernel.modules if "vsock" in path.name]
    files = [
        Entry("bin/busybox", 0o100755, kernel.busybox.read_bytes()),
        Entry("etc/passwd", 0o100644, b"root:x:0:0::/root:/bin/sh\n"),
        Entry("init", 0o100755, INIT.encode()),
        Entry("dev/console", 0o20600, device=(5, 1)),
    ]
    return gzip.compress(cpio.write([*directories, *links, *files, *modules]), 1)


@contextmanager
def booted(kernel: Kernel, initrd: bytes, words: Sequence[str] = ()) -> Iterator[tuple[Machine, Client]]:
    """A guest of that initrd alone, entered over vsock."""
    with tempfile.TemporaryDirectory(prefix="vmgate-vm-") as name:
        place = Path(name)
        (place / "initrd").write_bytes(initrd)
        arguments = (f"initrd={place}/initrd", *words)
        with Machine(place, kernel, "", cid=os.getpid() % 10_000 + 1000, arguments=arguments) as machine:
            took = until(lambda: answers(machine), vm.BOOT, "the agent answers: " + machine.console.read_text())
            print(f"the agent answered {took:.1f} s after power-on")
            joint = vm.Joint(place / "joint", machine.socket)
            try:
                with Client(f"unix:{joint.path}") as client:
                    yield machine, client
            finally:
                joint.close()


def answers(machine: Machine) -> bool:
    assert machine.running, machine.console.read_text()
    try:
        vm.dial(machine.socket).close()
    except OSError:
        return False
    return True


def shell(client: Client, line: str) -> str:
    out, err, code = client.exec("sh", "-c", line).result
    assert (code, err) == (0, b"")
    return out.decode()


def test_appended_it_starts_the_agent_by_itself_and_outlives_the_initramfs(
    out: Path, kernel: Kernel, base: bytes
) -> None:
    overlay = (out / "vmgate-agent.cpio.gz").read_bytes()
    with booted(kernel, base + overlay, [RDINIT]) as (machine, client):
        until(lambda: "the former init is 1\n" in machine.console.read_text(), vm.BOOT, "the former init runs")
        late = "Cannot listen on vsock:2222 yet: Address family not supported by protocol"
        assert shell(client, "dmesg").count(late) == 1
        assert client.exec("true", tty=True).finish().code == 0
        copies(client)
        resident = shell(client, "grep -sh -A99 'Name:.vmgate-' /proc/*/status | grep VmRSS").split()
        kibibytes = [int(word) for word in resident if word.isdigit()]
        print(f"{sum(kibibytes) >> 10} MiB are resident")
        assert len(kibibytes) >= 2
        assert sum(sorted(kibibytes)[-2:]) < 60 << 10

        running = client.exec("cat")
        running.started()
        shell(client, ": >/go")
        until(lambda: "switched\n" in machine.console.read_text(), vm.BOOT, "init switched")
        running.input(b"still here")
        running.end()
        assert running.result == (b"still here", b"", 0)
        assert shell(client, "cat /etc/where") == "new\n"
        assert shell(client, "ls /") == "bin\ndev\netc\nproc\nroot\nsys\ntmp\n"
        assert client.exec("true", tty=True).finish().code == 0
        copies(client)
        vm.dial(machine.socket).close()


def test_an_initrd_made_with_it_needs_no_word_to_the_kernel(out: Path, kernel: Kernel, base: bytes) -> None:
    initrd = bundle.joined(base, list(bundle.tree(out / "vmgate-agent")))
    for _ in range(count(20, 1)):
        with booted(kernel, initrd) as (_, client):
            assert shell(client, "cat /proc/1/cmdline").replace("\0", " ") == "/bin/sh /init.former "
