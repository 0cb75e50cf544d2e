"""The program `gankit`: commands of plugins beside its own, and what it says of those that it does not take."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_packages import registering, run_gankit, write_package

COMMANDS = """
import typer

group = typer.Typer(help="Things to do.")

@group.command()
def one() -> None:
    print("one of a group")

@group.command()
def two() -> None: ...

def hello(name: str) -> None:
    '''Greet somebody.'''
    print(f"hello {name}")
"""


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    lines = (
        *("'command', 'hello', 'polite.commands:hello'", "'command', 'things', 'polite.commands:group'"),
        *("'command', 'recipes', 'polite.commands:hello'", "'command', 'gone', 'polite.no_such_module:x'"),
        "'recipe', 'lost', 'polite:no/such.yaml'",
    )
    files = {"polite/__init__.py": registering(*lines), "polite/commands.py": COMMANDS}
    write_package(tmp_path, "polite", files)
    return tmp_path


def test_commands_of_plugins(packages: Path) -> None:
    listed = run_gankit("--help", path=packages)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert [name in listed.stdout for name in ("hello ", "things ", "(from polite)")] == [True] * 3
    assert run_gankit("hello", "Ada", path=packages).stdout == "hello Ada\n"
    assert run_gankit("things", "one", path=packages).stdout == "one of a group\n"
    explained = run_gankit("hello", "--help", path=packages).stdout
    assert "Greet somebody." in explained
    assert "completion" not in explained
    broken = run_gankit("gone", path=packages)
    assert broken.returncode == 2
    assert "command 'gone' of package 'polite' cannot be imported" in broken.stderr


def test_a_name_that_gankit_has_itself(packages: Path) -> None:
    """Its own command runs; the warning comes when that is called, and then only."""
    done = run_gankit("recipes", path=packages)
    assert done.returncode == 0
    assert done.stderr == (
        "gankit: warning: command 'recipes' of package 'polite' is ignored: gankit has its own\n"
    )
    assert run_gankit("plugins", "--kind", "loss", path=packages).stderr == ""


def test_a_recipe_that_cannot_be_read_keeps_none_from_being_listed(packages: Path) -> None:
    rows = run_gankit("recipes", path=packages).stdout.splitlines()
    assert any(row.startswith("stylegan2 ") for row in rows)
    (lost,) = [row for row in rows if row.startswith("lost ")]
    assert "recipe 'lost' of package 'polite' cannot be read" in lost
