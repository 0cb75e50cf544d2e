"""The program `gankit`: its own commands, commands of plugins, and error messages for users' mistakes."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from gankit._version import __version__
from gankit.cli import measure, models, plugins, sample, train
from gankit.cli.strict import Strict, add_plugin_option
from gankit.core.config.registry import registry
from gankit.errors import GankitError

# click's ClickException; newer typers carry their own click
CommandLineError: Any = typer.BadParameter.__mro__[2]


class _PluginCommand(TyperCommand):
    """Placeholder for a plugin's command in `gankit --help`, which does not import the plugin."""

    def __init__(self, name: str) -> None:
        super().__init__(name, help=f"(from {registry().get('command', name).package})", callback=None)

    def load(self) -> Any:
        """Import the plugin's target, a `typer.Typer` or a function, and return its command."""
        target, around = registry().load("command", self.name or ""), typer.Typer(add_completion=False)
        if isinstance(target, typer.Typer):
            around.add_typer(target, name=self.name)
            return typer.main.get_group(around).commands[self.name or ""]
        around.command(self.name)(target)
        return typer.main.get_command(around)


class _Commands(TyperGroup):
    """The group of gankit's own commands and those of plugins, which cannot replace the former."""

    def _of_plugins(self) -> list[str]:
        return [name for name in registry().names("command") if name not in self.commands]

    def invoke(self, ctx: Any) -> Any:
        """Run a command; afterwards, when plugins are loaded, warn of a package that has registered its name."""
        try:
            return super().invoke(ctx)
        finally:
            called = ctx.invoked_subcommand
            if called in self.commands and called in registry().names("command"):
                package = registry().get("command", called).package
                warnings.warn(
                    f"command {called!r} of package {package!r} is ignored: gankit has its own", stacklevel=1
                )

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *self._of_plugins()]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        own = super().get_command(ctx, cmd_name)
        if own is not None or cmd_name not in self._of_plugins():
            return own
        return _PluginCommand(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.load() if isinstance(command, _PluginCommand) else command, rest


app = typer.Typer(
    cls=_Commands,
    help="Train and sample image generators conditioned on text prompts, tags, classes or nothing.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for group in (train, sample, measure, models, plugins):
    app.add_typer(group.app)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    strict_plugins: Strict = False,
) -> None:
    if version:
        print(f"gankit {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; a user's mistake prints one sentence on stderr and exits with code 2."""
    warnings.showwarning = _one_line_warning
    command = add_plugin_option(typer.main.get_command(app))
    try:
        sys.exit(command(sys.argv[1:] or ["--help"], prog_name="gankit", standalone_mode=False))
    except GankitError as error:
        print(f"gankit: {error}", file=sys.stderr)
        sys.exit(2)
    except CommandLineError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # of a group or command with no_args_is_help
            print(error.ctx.get_help())
            sys.exit(0)
        print(f"gankit: {' '.join(error.format_message().split())} (see --help)", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _one_line_warning(message: Any, category: Any, *_: Any, **__: Any) -> None:
    print(f"gankit: warning: {message}", file=sys.stderr)
