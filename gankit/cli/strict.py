"""The option `--strict-plugins` of every command that uses plugins."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from gankit.core.config.registry import ENV_STRICT, registry


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
