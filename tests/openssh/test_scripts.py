"""The list of scripts is whole, and the document says the same."""

from __future__ import annotations

import re

import pytest

from tests.openssh.scripts import DOCUMENT, SCRIPTS, SUITE, document


def test_the_document_is_what_the_list_says() -> None:
    assert DOCUMENT.read_text() == document(), "python -m tests.openssh --write-docs"


def test_no_script_is_named_twice() -> None:
    names = [script.name for script in SCRIPTS]
    assert len(names) == len(set(names))


@pytest.mark.skipif(not SUITE.exists(), reason="openssh-tests is not installed (make regress installs it)")
def test_every_script_of_the_suite_is_in_the_list() -> None:
    text = (SUITE / "Makefile").read_text().replace("\\\n", " ")
    suite = {name for line in re.findall(r"^(?:LTESTS|INTEROP_TESTS)=(.*)$", text, re.M) for name in line.split()}
    assert {script.name for script in SCRIPTS} == suite
