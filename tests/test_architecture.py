"""ARCHITECTURE.md describes every room, and lists every file with the first sentence of its docstring."""

from __future__ import annotations

import re

import architecture
from import_rules import ROOMS


def test_every_file_is_listed_as_it_describes_itself() -> None:
    assert architecture.PAGE.read_text(encoding="utf-8") == architecture.page(), (
        "ARCHITECTURE.md is out of date; run python tests/support/architecture.py"
    )


def test_every_room_has_a_line() -> None:
    table = architecture.PAGE.read_text(encoding="utf-8").partition("## Files")[0]
    package = architecture.ROOT / "gankit"
    for parent in (package, package / "core"):
        for folder in parent.iterdir():
            name = folder.relative_to(package).as_posix()
            if any(folder.glob("*.[py][ya]*")) and name != "core":  # Python or YAML files
                assert f"| `{name}/` |" in table, name
    for name in re.findall(r"^\| `([\w/]+)/` \|", table, re.MULTILINE):
        assert (package / name).is_dir(), f"{name} is described but does not exist"


def test_rooms_stand_in_their_order() -> None:
    table = architecture.PAGE.read_text(encoding="utf-8").partition("## Files")[0]
    first, *others = re.findall(r"^\| (`.*`) \|", table, re.MULTILINE)
    listed = re.findall(r"`([\w/]+?)(?:\.py|/)`", " ".join([first, *others]))
    rooms = [room.replace(".", "/") for room in ROOMS]
    order = [rooms.index(name) for name in listed if name in rooms]
    assert len(order) > 15
    assert order == sorted(order)


def test_every_file_in_the_walks_exists() -> None:
    walks = (
        architecture.PAGE.read_text(encoding="utf-8")
        .partition("## A training step")[2]
        .partition("## Files")[0]
    )
    names = re.findall(r"`([a-z_]+/[\w/]+\.py)`", walks)
    assert len(names) > 12
    for name in names:
        assert (architecture.ROOT / "gankit" / name).is_file(), name


def test_every_file_says_in_a_sentence_what_it_is() -> None:
    for path in (architecture.ROOT / "gankit").rglob("*.py"):
        sentence = architecture.first_sentence(path)
        assert 10 <= len(sentence) <= 200, f"{path}: {sentence!r}"
