"""The command line, one module for each group of commands.

torch, pydantic and yaml are imported inside the commands, so that `gankit --help` starts fast."""

from gankit.cli.app import main

__all__ = ["main"]
