"""Guests on processors that have more registers than their kernel keeps, and on those that have not."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from gateway.vm import xstate
from gateway.vm.packages import Kernel
from tests.support.vm import VM

AT_ONCE, ROUNDS, SIZE = 4, 30, 1 << 20


@pytest.mark.parametrize(
    ("processors", "needed"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512f amx_bf16 amx_tile amx_int8\n", True),
        ("processor\t: 0\nflags\t\t: fpu avx512f\nbugs\t\t: amx_tile\n", False),
        ("", False),
    ],
)
def test_it_is_needed_where_a_processor_has_amx(processors: str, needed: bool) -> None:
    assert xstate.needed(processors) == needed


@pytest.mark.parametrize("compiler", [None, "#!/bin/sh\necho 'no dlfcn.h' >&2; exit 1\n", "no program"])
def test_who_cannot_compile_it_is_told_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: str | None
) -> None:
    if compiler is not None:
        (tmp_path / "cc").write_text(compiler)
        (tmp_path / "cc").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(xstate.NoCompiler, match=r"needs a C compiler|cannot compile xstate.c: no dlfcn.h|does not run"):
        xstate.make(tmp_path / "xstate.so")
    assert not (tmp_path / "xstate.so").exists()


def test_with_it_programs_keep_their_registers_on_any_processor(kernel: Kernel, tmp_path: Path) -> None:
    """Several that compute in vectors at once, so that each is interrupted by the others in the middle."""
    same = tmp_path / "kernel"
    shutil.copytree(kernel.directory, same)
    xstate.make(same / "xstate.so")
    program = f"import hashlib; print({{hashlib.sha512(bytes([n]) * {SIZE}).hexdigest() for n in [7] * {ROUNDS}}})"
    with VM(Kernel(same), "vectors", cid=44) as machine:
        machine.until_up()
        told = machine.run(f'for n in {" ".join("x" * AT_ONCE)}; do python3 -c "{program}" & done; wait').decode()
    right = {hashlib.sha512(b"\7" * SIZE).hexdigest()}
    assert told.splitlines() == [str(right)] * AT_ONCE
