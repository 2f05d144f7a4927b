"""What guests need where processors have more registers than user-mode Linux 6.1 keeps: Intel's since 2023, which
have AMX. A few lines of C (`xstate.c`), compiled here and loaded before the kernel."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("xstate.c")
PROCESSORS = Path("/proc/cpuinfo")
COMPILE_SECONDS = 60


class NoCompiler(Exception):
    """It is needed and cannot be made; the text says why."""


def needed(processors: str) -> bool:
    """Whether that text of /proc/cpuinfo tells of a processor with AMX."""
    flags = next((line for line in processors.splitlines() if line.startswith("flags")), "")
    return "amx_tile" in flags.split()


def make(target: Path) -> None:
    """Compile it to that path. Raises NoCompiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise NoCompiler("on this processor user-mode Linux needs a C compiler (on Debian: apt install gcc libc6-dev)")
    part = target.with_suffix(".part")
    words = [compiler, "-O2", "-shared", "-fPIC", "-o", str(part), str(SOURCE), "-ldl"]
    try:
        done = subprocess.run(words, capture_output=True, check=False, timeout=COMPILE_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoCompiler(f"{compiler} does not run: {error}") from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no word"]
        raise NoCompiler(f"{compiler} cannot compile {SOURCE.name}: {said[-1]}")
    part.rename(target)
