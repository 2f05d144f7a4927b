"""A machine's life: it boots, is entered, loses its power, stands still, and comes back at the same socket."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import grpc
import pytest

from gateway.vm.packages import Kernel
from tests.support.processes import find, until
from tests.support.vm import BOOT, VM


def test_a_command_runs_in_a_kernel_of_its_own(vm: VM) -> None:
    with vm.connect() as client:
        out, err, code = client.shell("uname -r; hostname; echo err >&2; exit 7").result
    assert code == 7
    assert err == b"err\n"
    release, name = out.decode().split()
    assert name == "shared"
    assert release != os.uname().release


def test_the_host_s_tree_is_there_and_what_is_written_stays_in_the_guest(vm: VM) -> None:
    assert vm.run(
        "cat /etc/debian_version 2>/dev/null || true; echo changed > /etc/vmgate-was-here; ls /usr/bin | wc -l"
    )
    assert vm.run("cat /etc/vmgate-was-here") == b"changed\n"
    assert not os.path.exists("/etc/vmgate-was-here")


def test_a_power_cut_ends_every_connection_and_the_next_boot_has_the_same_socket(own: VM) -> None:
    took = own.until_up()
    stream = own.dial()
    inode = own.socket.stat().st_ino
    own.kill()
    stream.settimeout(BOOT)
    while stream.recv(65536):  # what it still sent, then the end
        pass
    assert not own.running
    own.boot()
    again = own.until_up()
    assert own.socket.stat().st_ino == inode
    assert b"own" in own.run("hostname")
    print(f"the agent answered {took:.1f} s after the first boot, {again:.1f} s after the second")


def test_a_frozen_guest_answers_nothing_and_goes_on_where_it_was(own: VM) -> None:
    own.until_up()
    before = own.run("cat /proc/sys/kernel/random/boot_id")
    own.freeze()
    try:
        assert not own.answers()
    finally:
        own.thaw()
    own.until_up()
    assert own.run("cat /proc/sys/kernel/random/boot_id") == before


def test_two_guests_know_nothing_of_one_another(vm: VM, own: VM) -> None:
    own.until_up()
    own.run("echo mine > /tmp/mark")
    assert vm.run("ls /tmp/mark 2>&1 || true") != own.run("ls /tmp/mark")
    assert vm.run("cat /proc/sys/kernel/random/boot_id") != own.run("cat /proc/sys/kernel/random/boot_id")


def test_reboot_and_poweroff_do_what_they_say_and_nothing_of_a_machine_outlives_it(kernel: Kernel) -> None:
    with VM(kernel, "willing", cid=44) as guest:
        guest.until_up()
        before = guest.run("cat /proc/sys/kernel/random/boot_id")

        def attempt(line: str) -> bytes:
            """What it prints; as before when the guest goes down under it, or its init kills the shell first."""
            try:
                with guest.connect() as client:
                    out, _, code = client.shell(line).result
            except grpc.RpcError:
                return before
            return before if code else out

        attempt("setsid reboot >/dev/null 2>&1 &")
        until(lambda: attempt("cat /proc/sys/kernel/random/boot_id") != before, 2 * BOOT, "it boots again")
        attempt("setsid poweroff >/dev/null 2>&1 &")
        assert guest.off(BOOT)
        guest.boot()
        assert find(str(guest.directory))
    until(lambda: not find(str(guest.directory)), what="its processes are gone")
    with pytest.raises(OSError, match="No such file"), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(guest.socket))


def test_a_guest_s_root_can_write_to_nothing_of_this_machine(vm: VM, tmp_path: Path) -> None:
    vm.run(f"mkdir -p /mnt/host; mount -t hostfs none /mnt/host -o {tmp_path}")
    assert b"Read-only file system" in vm.run("touch /mnt/host/mine 2>&1; umount /mnt/host")
    assert not list(tmp_path.iterdir())
