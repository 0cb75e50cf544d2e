"""Where files of the repository lie that are not installed with the package."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
