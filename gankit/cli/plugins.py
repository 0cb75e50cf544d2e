"""The commands `gankit recipes`, `plugins` and `doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gankit import api
from gankit.cli.strict import Strict
from gankit.cli.tables import print_table
from gankit.core.config.registry import registry

app = typer.Typer()


@app.command()
def recipes(strict_plugins: Strict = False) -> None:
    """List recipes."""
    rows = [
        (name, registry().get("recipe", name).package, description)
        for name, description in api.list_recipes().items()
    ]
    print_table(("recipe", "package", "what it is"), rows)


@app.command()
def doctor(strict_plugins: Strict = False) -> None:
    """Show torch, devices and the operators' implementations, and test these; exit code 1 if one is wrong."""
    from gankit.cli.doctor import examine

    page, well = examine()
    print(page)
    raise typer.Exit(0 if well else 1)


plugins_app = typer.Typer(help="List, show, check and start plugins.", rich_markup_mode=None)
app.add_typer(plugins_app, name="plugins")

Kind = Annotated[str | None, typer.Option(help="Only this kind.")]


@plugins_app.callback(invoke_without_command=True)
def plugins(context: typer.Context, kind: Kind = None, strict_plugins: Strict = False) -> None:
    """List plugins; with a command, show, check or start some."""
    if context.invoked_subcommand is None:
        list_(kind)


@plugins_app.command("list")
def list_(kind: Kind = None, strict_plugins: Strict = False) -> None:
    """List plugins with their packages, and say why a package failed to load."""
    rows = [(p.name, p.kind, p.package, p.version) for p in api.list_plugins(kind)]
    print_table(("name", "kind", "package", "version"), rows)
    for failure in registry().failures:
        print(f"\n{failure.summary}")
        if failure.traceback:
            print("  " + failure.traceback.rstrip().replace("\n", "\n  "))


@plugins_app.command()
def show(
    name: Annotated[str, typer.Argument(help="A plugin's name, or kind/name.")],
    strict_plugins: Strict = False,
) -> None:
    """Print the options of a plugin: types, defaults, help; or what is in a recipe or model."""
    from gankit.cli.describe import describe

    print(describe(name))


@plugins_app.command(no_args_is_help=True)
def check(
    package: Annotated[
        str, typer.Argument(help="An installed package, a folder with its pyproject.toml, or a plugin file.")
    ],
) -> None:
    """Import all that a package registers, with tracebacks of what fails; exit code 1 if something is wrong."""
    from gankit.cli.check_plugins import check as examine

    page, well = examine(package)
    print(page)
    raise typer.Exit(0 if well else 1)


@plugins_app.command(no_args_is_help=True)
def new(
    name: Annotated[str, typer.Argument(help="Name of the package, such as gankit-sagan.")],
    kind: Annotated[str, typer.Option(help="Kind of its plugin, such as generator.")],
    out: Annotated[Path | None, typer.Option(help="The new folder; by default ./NAME.")] = None,
    model: Annotated[str | None, typer.Option(help="Of kind 'model': the run or model to put in.")] = None,
    strict_plugins: Strict = False,
) -> None:
    """Write a package with a small working plugin, a recipe, and tests, to begin from."""
    from gankit.cli.new_plugin import new as write

    folder = write(name, kind, out, model=model)
    print(f"wrote {folder}; install it with: pip install -e {folder}")
