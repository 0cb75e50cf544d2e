"""Tests lie as the package does: a test of gankit/X/y.py is found at tests/X/test_y.py or at tests/X/y/test_*.py."""

from __future__ import annotations

from pathlib import Path

from layout_rules import misplaced

import gankit

APART = ("end_to_end", "golden", "support")
RULES = ("test_architecture.py", "test_imports.py", "test_layout.py")


def test_tests_lie_where_their_modules_do() -> None:
    found = list(misplaced(Path(__file__).parent, Path(gankit.__file__).parent, apart=APART, rules=RULES))
    assert not found, "\n".join(["", *found])


def test_misplaced_files_are_found(tmp_path: Path) -> None:
    for place in (
        "core/data/loader.py",
        "core/data/__init__.py",
        "core/__init__.py",
        "api.py",
        "__init__.py",
    ):
        (tmp_path / "gankit" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "gankit" / place).touch()
    good = ("test_api.py", "core/test_data.py", "core/data/test_loader.py", "core/data/loader/test_resume.py")
    apart = ("conftest.py", "core/conftest.py", "test_rule.py", "support/runs.py", "end_to_end/test_train.py")
    bad = ("core/data/helpers.py", "core/data/test_lader.py", "core/loader/test_x.py", "test_loader.py")
    for place in (*good, *apart, *bad):
        (tmp_path / "tests" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tests" / place).touch()
    found = list(
        misplaced(
            tmp_path / "tests", tmp_path / "gankit", apart=("support", "end_to_end"), rules=("test_rule.py",)
        )
    )
    assert [sentence.split(" ")[0] for sentence in found] == list(bad)
    assert found[0].endswith("is no test; what tests share lies in support/")
    assert found[1].endswith("tests neither gankit/core/data/lader.py nor a package of that name")
