"""The options `--strict-plugins` and `--plugin` of every command that uses plugins."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from gankit.core.config.registry import ENV_FILES, ENV_STRICT, registry


def _strict(wanted: bool) -> bool:
    """Callback of --strict-plugins: load the plugins anew, with an error instead of a warning for a broken package."""
    if wanted and not os.environ.get(ENV_STRICT):
        os.environ[ENV_STRICT] = "1"
        registry.cache_clear()
        registry()
    return wanted


Strict = Annotated[
    bool,
    typer.Option(
        "--strict-plugins",
        help="A plugin that cannot be loaded is an error.",
        callback=_strict,
        is_eager=True,
    ),
]


def _load_files(paths: list[str] | None) -> list[str] | None:
    """Callback of --plugin: add files to GANKIT_PLUGIN_FILES, which processes started from here inherit; load them."""
    if paths:
        named = [os.environ.get(ENV_FILES, ""), *(os.path.abspath(path) for path in paths)]
        os.environ[ENV_FILES] = os.pathsep.join(filter(None, named))
        registry.cache_clear()
        registry()
    return paths


def _declare(
    plugin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Load a Python file with gankit_register, or a folder that is a package; may be repeated.",
            callback=_load_files,
            is_eager=True,
        ),
    ] = None,
) -> None: ...


def _plugin_option() -> Any:
    """The option --plugin for a command that does not have it as a parameter: the callback does all of its work."""
    around = typer.Typer(
        add_completion=False
    )  # the constructor of typer's options is another in each version
    around.command()(_declare)
    option = typer.main.get_command(around).params[0]
    option.expose_value = False
    return option


def add_plugin_option(command: Any) -> Any:
    """Give a command, and those of a group, the option --plugin beside each --strict-plugins; returns the command."""
    for child in getattr(command, "commands", {}).values():
        add_plugin_option(child)
    names = [parameter.name for parameter in command.params]
    if "strict_plugins" in names:
        command.params.insert(names.index("strict_plugins"), _plugin_option())
    return command
