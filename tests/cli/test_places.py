"""SRC and DST: which is an instance's, and docker cp's rules for what is there already."""

from __future__ import annotations

import pytest

from gateway.cli.places import Place, inside, own_name, pair, safe
from gateway.cli.problem import Problem


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("alpha:/etc", Place("/etc", "alpha")),
        ("alpha:", Place(".", "alpha")),
        ("alpha:a:b", Place("a:b", "alpha")),
        ("./a:b", Place("./a:b")),
        ("/a:b", Place("/a:b")),
        (":a", Place(":a")),
        ("a", Place("a")),
    ],
)
def test_a_colon_before_any_slash_makes_a_place_an_instances(text: str, place: Place) -> None:
    assert Place.parse(text) == place


@pytest.mark.parametrize(("source", "target"), [("a", "b"), ("x:a", "y:b"), ("", "x:a")])
def test_one_side_is_an_instances_and_one_is_here(source: str, target: str) -> None:
    with pytest.raises(Problem):
        pair(source, target)


# docker's documentation of `docker cp`: SRC a file or a directory, DST missing, a file, a directory.
RULES = [
    ("a", "b", False, "missing", False),
    ("a", "b/", False, "missing", "there is no directory v:b/"),
    ("a", "b", False, "file", False),
    ("a", "b/", False, "file", "v:b/ is no directory"),
    ("a", "b", False, "directory", True),
    ("d", "b", True, "missing", False),
    ("d/", "b", True, "missing", False),
    ("d", "b/", True, "missing", False),
    ("d", "b", True, "file", "v:b is a file; a directory cannot be copied to it"),
    ("d", "b", True, "directory", True),
    ("d/", "b", True, "directory", True),
    ("d/.", "b", True, "missing", False),
    ("d/.", "b", True, "directory", False),
    (".", "b", True, "directory", False),
    ("d/.", "b", True, "file", "v:b is a file; a directory cannot be copied to it"),
    ("a/", "b", False, "missing", "a/ is no directory"),
    ("a/.", "b", False, "directory", "a/. is no directory"),
]


@pytest.mark.parametrize(("source", "target", "directory", "there", "answer"), RULES)
def test_what_is_there_decides_as_with_docker_cp(
    source: str, target: str, directory: bool, there: str, answer: bool | str
) -> None:
    def ask() -> bool:
        places = Place(source), Place(target, "v")
        return inside(*places, directory=directory, exists=there != "missing", is_dir=there == "directory")

    if isinstance(answer, bool):
        assert ask() is answer
    else:
        with pytest.raises(Problem) as raised:
            ask()
        assert str(raised.value) == answer


def test_a_copy_has_the_name_that_was_asked_for() -> None:
    assert own_name(Place("/a/b/", "v"), "elsewhere") == "b"
    assert own_name(Place(".", "v"), "anna") == "anna"
    for told in ("", ".", "..", "a/b"):
        with pytest.raises(Problem):
            own_name(Place("/", "v"), told)


def test_a_path_that_climbs_is_not_safe() -> None:
    assert safe("x")
    assert safe("..")  # the first name is ours
    assert safe("x/a/..b")
    for path in ("x/..", "x/../a", "x//a", "/x/./a", "x/a\0"):
        assert not safe(path), path
