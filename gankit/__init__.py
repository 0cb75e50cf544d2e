"""gankit: train and sample StyleGAN-class image generators from text prompts, tags, classes or nothing.

>>> import gankit
>>> pipe = gankit.load("RUN or MODEL")          # doctest: +SKIP
>>> images = pipe(prompt="a smiling person", seeds=[0, 1], psi=0.7)  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gankit._version import __version__
from gankit.errors import GankitError, for_python
from gankit.hookspecs import hookimpl

if TYPE_CHECKING:
    from gankit.api import convert, export, list_models, list_plugins, list_recipes, train
    from gankit.evaluation.evaluate import evaluate
    from gankit.sampling.pipeline import Pipeline, load

__all__ = [
    "GankitError",
    "Pipeline",
    "__version__",
    "convert",
    "evaluate",
    "export",
    "hookimpl",
    "list_models",
    "list_plugins",
    "list_recipes",
    "load",
    "train",
]

_LAZY = {  # modules of names that gankit.api does not define
    "Pipeline": "gankit.sampling.pipeline",
    "evaluate": "gankit.evaluation.evaluate",
    "load": "gankit.sampling.pipeline",
}


if not TYPE_CHECKING:  # type checkers would take any name for one of gankit's

    def __getattr__(name: str) -> Any:  # torch is imported when it is first needed, see tests/test_imports.py
        if name in __all__:
            found = getattr(importlib.import_module(_LAZY.get(name, "gankit.api")), name)
            globals()[name] = found if isinstance(found, type) else for_python(found)
            return globals()[name]
        raise AttributeError(f"module 'gankit' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted(__all__)
