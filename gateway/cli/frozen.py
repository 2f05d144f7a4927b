"""The agent frozen: one directory with the program, the interpreter, gRPC, and the C library with its loader.

PyInstaller gathers all but the last two, which it takes for the system's. A guest's own, of whatever kind, does
not matter then. The agent itself is never imported here.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from gateway.cli import elf
from gateway.cli.problem import Problem

LOADER = "ld-vmgate.so.1"  # PyInstaller's program knows by such a name that it was started by a loader
BUILD_SECONDS = 900

# Loaded by grpcio and the standard library where it is there, and never needed by the agent.
UNUSED = (
    *("grpc_tools", "ssl", "_ssl", "_hashlib", "lzma", "_lzma", "bz2", "_bz2", "decimal", "_decimal", "_pydecimal"),
    *("unittest", "pydoc", "doctest", "pdb", "xml", "xmlrpc", "http", "email", "urllib.request", "multiprocessing"),
    *("concurrent.futures.process", "tkinter", "curses", "readline", "sqlite3", "setuptools", "_distutils_hack"),
    *("_codecs_jp", "_codecs_hk", "_codecs_cn", "_codecs_kr", "_codecs_tw", "_codecs_iso2022", "_multibytecodec"),
)
# What the C library loads by itself, to look up users and hosts; part of it since glibc 2.34.
SERVICES = ("libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2")
SCRIPTS = ("vmgate-agent", "supervise", "init", "vmgate-agent.service", "vmgate-agent.openrc", "vmgate-agent.init")


class BundleError(Problem):
    """It cannot be made; the text says why, and what helps."""

    code = 1


def gather(directory: Path) -> str:
    """The program with everything that it needs; gives the glibc that it would need without the one it
    brings. Raises BundleError and ElfError."""
    if importlib.util.find_spec("PyInstaller") is None:
        raise BundleError("this needs PyInstaller: pip install 'vmgate[bundle]'")
    for command in ("objcopy", "objdump", "strip", "readelf"):
        if shutil.which(command) is None:
            raise BundleError(f"this needs {command}: install binutils")
    with tempfile.TemporaryDirectory(prefix="vmgate-bundle-") as work:
        freeze(Path(work))
        shutil.move(Path(work) / "dist" / "agent.bin", directory)
    lib = directory / "lib"
    shutil.rmtree(lib / "grpc" / "_cython" / "_credentials", ignore_errors=True)  # of TLS, which the agent has not
    loader = elf.loader(directory / "agent.bin")
    if not loader.name.startswith(("ld-linux", "ld64")):
        raise BundleError(
            f"this machine's libc is not glibc ({loader}); make the bundle on one where it is: it runs on any"
        )
    programs = elf.programs(directory)
    found = elf.foreign(loader, programs, lib)
    libc = next(path for path in found if path.name == "libc.so.6")
    found.update(path for name in SERVICES if (path := libc.parent / name).exists())
    baseline = elf.baseline(programs)
    for path in found:
        shutil.copy(path, lib / path.name)
    shutil.copy(loader, lib / LOADER)
    for name in SCRIPTS:
        script = directory / name
        shutil.copyfile(deployed() / name, script)
        script.chmod(0o755 if script.read_bytes().startswith(b"#!") else 0o644)
    return baseline


def freeze(work: Path) -> None:
    """Run PyInstaller; leaves `dist/agent.bin/` there. Raises BundleError."""
    top = Path(__file__).resolve().parents[2]
    entry = work / "entry.py"
    entry.write_text("from agent.__main__ import main\n\nmain()\n")
    # gRPC's compiled part imports modules that no analysis sees: what the agent has loaded is asked of itself.
    ask = "import sys, agent.__main__, agent.server; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = _output([sys.executable, "-c", ask], top).split()
    command = [
        sys.executable,
        "-m",
        "PyInstaller",
        "--onedir",
        "--strip",
        "--name",
        "agent.bin",
        "--log-level",
        "ERROR",
    ]
    command += ["--contents-directory", "lib", "--paths", str(top), "--specpath", str(work)]
    command += ["--distpath", str(work / "dist"), "--workpath", str(work / "build")]
    for name in UNUSED:
        command += ["--exclude-module", name]
    for name in sorted(loaded):
        if name not in UNUSED and not name.startswith("_"):
            command += ["--hidden-import", name]
    _output([*command, str(entry)], top, {"PYINSTALLER_CONFIG_DIR": str(work / "cache")})


def _output(command: list[str], top: Path, environment: dict[str, str] | None = None) -> str:
    env = {**os.environ, "PYTHONPATH": str(top), **(environment or {})}
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BUILD_SECONDS, env=env, check=False
    )
    if done.returncode:
        raise BundleError("\n".join(["it could not be built:", *done.stderr.strip().splitlines()[-12:]]))
    return done.stdout


def deployed() -> Path:
    """Where the scripts are: in a checkout, or where pip puts data. Raises BundleError."""
    places = [Path(__file__).resolve().parents[2] / "deploy" / "agent"]
    places.append(Path(sysconfig.get_path("data")) / "share" / "vmgate" / "agent")
    for place in places:
        if (place / "supervise").exists():
            return place
    raise BundleError("the agent's scripts are not installed: " + " and ".join(map(str, places)) + " are not there")
