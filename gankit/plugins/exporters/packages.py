"""What exporters and engines say about packages that are not there."""

from __future__ import annotations

import importlib.util


def missing(extra: str, *packages: str) -> str | None:
    """One sentence if any of the packages is not installed; the extra of gankit brings them."""
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    if not absent:
        return None
    verb = "is" if len(absent) == 1 else "are"
    return f"{' and '.join(absent)} {verb} not installed; run: pip install 'gankit[{extra}]'"
