"""What the first process of a guest does: from the bare kernel to an agent that listens.

The guest's root is this machine's whole tree, read-only, under an overlay in the guest's memory: what
is written there is the guest's own and goes with it. Homes and /tmp begin empty. busybox is PID 1;
it keeps the agent running, and takes `poweroff` and `reboot`.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from gateway.vm.packages import Kernel

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NEW = "/mnt/root"  # where the guest's root is put together


def overlaid(
    kernel: Kernel,
    name: str,
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    hidden: Sequence[Path] = (),
    kept: Sequence[Path] = (),
    motd: str = "",
) -> str:
    """The script for a guest of that name whose agent is started by `command`. Directories that are
    `hidden` are empty there, but for what is `kept` of them."""
    settings = {"HOME": "/root", "PATH": PATH, **env}
    agent = "\n".join(
        [
            "#!/bin/sh",
            "cd /",
            *(f"export {name}={shlex.quote(value)}" for name, value in settings.items()),
            f"exec {shlex.join(command)}",
        ]
    )
    return "\n".join(
        [
            f"#!{kernel.busybox} sh",
            f"b={kernel.busybox}",
            "set -e",
            'trap "$b poweroff -f" EXIT',  # whatever goes wrong, the console tells and the guest is off
            "$b mount -t tmpfs tmpfs /mnt",
            f"$b mkdir /mnt/upper /mnt/work {NEW}",
            *(f"$b insmod {shlex.quote(str(module))}" for module in kernel.modules),
            f"$b mount -t overlay -o {_rights()}lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay {NEW}",
            *_system(),
            *(line for directory in hidden for line in _emptied(directory, kept)),
            *_named(name, motd),
            _file("run/vmgate/agent", agent, "755"),
            _file("etc/inittab", "::respawn:/run/vmgate/agent"),
            *_changed_over(),
        ]
    )


def _rights() -> str:
    """Started by an ordinary user, the machine's files seem to be nobody's (`jail`): programs that are
    to run as their owner would then lose root's rights instead of gaining them."""
    return "nosuid," if os.geteuid() else ""


def _system() -> list[str]:
    return [
        f"cd {NEW}",
        "$b mount -t proc proc proc",
        "$b mount -t sysfs sysfs sys",
        "$b mount -t devtmpfs dev dev",
        "$b mkdir -p dev/pts dev/shm",
        "$b mount -t devpts -o ptmxmode=0666,mode=0620,gid=5 devpts dev/pts",
        "$b mount -t tmpfs tmpfs dev/shm",
        "$b mount -t tmpfs -o mode=0755 tmpfs run",
        "$b mkdir run/vmgate run/lock",
        "$b ip link set lo up",
    ]


def _emptied(directory: Path, kept: Sequence[Path]) -> list[str]:
    """Put an empty directory in its place."""
    mode = "1777" if directory.name == "tmp" else "0700"
    target = shlex.quote(f"{NEW}{directory}")
    lines = ["$b mkdir -p /mnt/stage", f"$b mount -t tmpfs -o mode={mode} tmpfs /mnt/stage"]
    for path in sorted(path for path in kept if directory in path.parents):
        inside = shlex.quote(f"/mnt/stage/{path.relative_to(directory)}")
        lines += [f"$b mkdir -p {inside}", f"$b mount -o bind {shlex.quote(f'{NEW}{path}')} {inside}"]
    return [*lines, f"$b mkdir -p {target}", f"$b mount -o move /mnt/stage {target}"]


def _named(name: str, motd: str) -> list[str]:
    return [
        f"$b hostname {shlex.quote(name)}",
        _file("etc/hostname", name),
        f"echo {shlex.quote(f'127.0.0.1 {name}')} >>etc/hosts",
        _file("etc/motd", motd),
    ]


def _changed_over() -> list[str]:
    """The new root becomes the only one, and busybox PID 1 of it."""
    lines = ["$b cp $b run/vmgate/busybox", "$b mkdir -p usr/local/sbin"]
    for command in ("poweroff", "reboot", "halt"):
        lines.append(f"$b ln -sf /run/vmgate/busybox usr/local/sbin/{command}")
    lines += [
        "$b mkdir -p run/vmgate/old",
        "$b pivot_root . run/vmgate/old",
        "b=/run/vmgate/busybox",
        "cd /",
        "$b umount -l /run/vmgate/old",
        "exec $b env -i HOME=/root TERM=linux $b init </dev/console >/dev/console 2>&1",
    ]
    return lines


def _file(path: str, content: str, mode: str = "644") -> str:
    """A line that writes a file; whatever was there, perhaps a link, is gone."""
    return f"$b rm -f {path}; printf '%s\\n' {shlex.quote(content)} >{path}; $b chmod {mode} {path}"
