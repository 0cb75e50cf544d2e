"""Kernels for a CPU, compiled in memory by LLVM, for what operators of torch do in many passes. Without gradients.

Each has its place in a composite of torch's operators, which does the same where llvmlite is missing or fails.
"""

from __future__ import annotations

import importlib
import warnings
from types import ModuleType

import torch

_failures: list[str] = []  # why this process has no kernels


def load(name: str) -> ModuleType | None:
    """A module of this package, where it can be had."""
    if not _failures:
        try:
            return importlib.import_module(f"{__name__}.{name}")
        except ImportError as error:
            _failures.append(f"llvmlite cannot be imported: {error}")
        except Exception as error:  # whatever the loading of a library raises
            give_up(error)
    return None


def watched() -> bool:
    """Whether a mode of torch looks at the operators that run, of which a kernel is none.

    Torch tells it by a private name alone. Should that be gone, the answer is yes: slower, but never wrong.
    """
    depth = getattr(torch._C, "_len_torch_dispatch_stack", None)
    return depth is None or depth() > 0


def give_up(error: Exception) -> None:
    """Go on without kernels, after one warning."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    if not _failures:
        warnings.warn(
            f"gankit's kernels for CPUs failed ({reason}). Operators of torch take their place, slower but equal. "
            "Please report it with what `gankit doctor` prints",
            RuntimeWarning,
            stacklevel=2,
        )
    _failures.append(reason)


def obstacle() -> str | None:
    """What keeps kernels from running in this process, as far as it is known."""
    load("machine")
    return _failures[0] if _failures else None
