"""The message about missing packages, shared by exporters and engines."""

from __future__ import annotations

import importlib.util


def missing(extra: str, *packages: str) -> str | None:
    """A sentence with the pip command if any of `packages` is not installed, else None; gankit's `extra` brings
    them."""
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    if not absent:
        return None
    verb = "is" if len(absent) == 1 else "are"
    return f"{' and '.join(absent)} {verb} not installed; run: pip install 'gankit[{extra}]'"
