"""gankit: train and sample StyleGAN-class image generators from text prompts, tags, classes or nothing.

>>> import gankit
>>> pipe = gankit.load("RUN or MODEL")          # doctest: +SKIP
>>> images = pipe(prompt="a smiling person", seeds=[0, 1], psi=0.7)  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gankit.errors import GankitError
from gankit.hookspecs import hookimpl

if TYPE_CHECKING:
    from gankit.core.trainer import train
    from gankit.pipeline import Pipeline, load

__version__ = "0.1.0"
__all__ = ["GankitError", "Pipeline", "__version__", "hookimpl", "load", "train"]

_LAZY = {"Pipeline": "gankit.pipeline", "load": "gankit.pipeline", "train": "gankit.core.trainer"}


def __getattr__(name: str) -> Any:  # torch is imported when it is first needed, see tests/test_imports.py
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'gankit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
