"""Root directories with nothing in them but a static busybox: no Python, no libc, and users of their own."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

BUSYBOX = "/bin/busybox"  # Debian's busybox-static
APPLETS = (
    *(
        "cat",
        "chmod",
        "cp",
        "env",
        "grep",
        "head",
        "id",
        "kill",
        "ln",
        "ls",
        "mkdir",
        "mount",
        "nc",
        "ps",
        "pwd",
        "readlink",
    ),
    *("rm", "seq", "setsid", "sh", "sha256sum", "sleep", "stat", "true", "tty", "uname", "wc"),
)
USERS = "root:x:0:0::/root:/bin/sh\nanna:x:4711:4711::/home/anna:/bin/sh\n"


class Root:
    """A guest's root. `apart` and `within` are command prefixes: both have the mounts that a guest has,
    in a mount namespace of their own; the second has nothing else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for directory in ("bin", "dev/pts", "etc", "home/anna", "lib", "opt", "proc", "root", "run"):
            (path / directory).mkdir(parents=True)
        (path / "tmp").mkdir(mode=0o1777)
        (path / "tmp").chmod(0o1777)
        shutil.copy(BUSYBOX, path / "bin" / "busybox")
        for applet in APPLETS:
            (path / "bin" / applet).symlink_to("busybox")
        (path / "etc" / "passwd").write_text(USERS)
        (path / "etc" / "group").write_text("root:x:0:\nanna:x:4711:\n")
        (path / "dev" / "ptmx").symlink_to("pts/ptmx")
        for device in ("null", "zero", "urandom", "tty"):
            (path / "dev" / device).touch()
        if os.geteuid() == 0:
            os.chown(path / "home" / "anna", 4711, 4711)

    @property
    def _mounts(self) -> list[str]:
        place = shlex.quote(str(self.path))
        lines = ["set -e", f"mount -t proc proc {place}/proc"]
        lines += [f"mount --bind /dev/{device} {place}/dev/{device}" for device in ("null", "zero", "urandom", "tty")]
        lines.append(f"mount -t devpts -o newinstance,ptmxmode=0666 devpts {place}/dev/pts")
        return lines

    @property
    def apart(self) -> tuple[str, ...]:
        return ("unshare", "--mount", "sh", "-c", "\n".join([*self._mounts, 'exec "$@"']), "sh")

    @property
    def within(self) -> tuple[str, ...]:
        enter = f'exec env -i {shutil.which("chroot")} {shlex.quote(str(self.path))} "$@"'
        return ("unshare", "--mount", "sh", "-c", "\n".join([*self._mounts, enter]), "sh")
