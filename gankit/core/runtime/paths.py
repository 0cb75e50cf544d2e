"""Location of gankit's cache folders."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir(name: str) -> Path:
    """GANKIT_CACHE/name, else $XDG_CACHE_HOME/gankit/name, else ~/.cache/gankit/name; not created here."""
    root = os.environ.get("GANKIT_CACHE")
    if root:
        return Path(root).expanduser() / name
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gankit" / name
