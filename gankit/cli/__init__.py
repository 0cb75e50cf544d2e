"""The command line: one file for each group of commands. torch, pydantic and yaml are imported inside the commands."""

from gankit.cli.app import main

__all__ = ["main"]
