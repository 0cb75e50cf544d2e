"""The program `gankit`: commands of plugins beside its own, and what it says of those that it does not take."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from fake_packages import registering, run_gankit, write_package

COMMANDS = """
import typer

group = typer.Typer(help="Things to do.", no_args_is_help=True)

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
    alone = run_gankit("things", path=packages)
    assert (alone.returncode, alone.stderr) == (0, "")
    assert "Things to do." in alone.stdout
    assert "two" in alone.stdout
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


@pytest.mark.parametrize("before", [True, False])
def test_a_plugin_file(tmp_path: Path, before: bool) -> None:
    """Given before or after the command, more than once, and added to those of the environment."""
    for name in ("one", "two", "three"):
        lines = (f"'loss', '{name}', '{name}:Loss'", f"'command', 'greet-{name}', '{name}:greet'")
        code = registering(*lines) + f"\ndef greet():\n    print('hello from {name}')\n"
        (tmp_path / f"{name}.py").write_text(code)
    options = ["--plugin", tmp_path / "one.py", "--plugin", tmp_path / "two.py"]
    command = ["plugins", "--kind", "loss"]
    arguments = [*options, *command] if before else [*command, *options]
    done = run_gankit(*arguments, GANKIT_PLUGIN_FILES=str(tmp_path / "three.py"), GANKIT_PLUGINS="")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split() for line in done.stdout.splitlines()]
    for name in ("one", "two", "three"):
        assert [name, "loss", f"{name}.py", "file"] in rows
    assert run_gankit(*options, "greet-two").stdout == "hello from two\n"


def test_every_command_that_can_be_strict_takes_plugin_files() -> None:
    from gankit.cli.app import app
    from gankit.cli.strict import add_plugin_option

    commands = [add_plugin_option(typer.main.get_command(app))]
    for command in commands:
        commands += getattr(command, "commands", {}).values()
        names = [parameter.name for parameter in command.params]
        assert ("strict_plugins" in names) == ("plugin" in names), command.name
    assert len(commands) > 10


def test_a_plugin_file_that_is_not_there(tmp_path: Path) -> None:
    done = run_gankit("recipes", "--plugin", tmp_path / "gone.py")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"gankit: plugin file {tmp_path / 'gone.py'} does not exist; see --plugin and GANKIT_PLUGIN_FILES\n"
    )
