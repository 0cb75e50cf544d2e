"""Kernels for a CPU, compiled in memory by LLVM, for what operators of torch do in many passes. Without gradients.

Each has its place in a composite of torch's operators, which does the same where llvmlite is missing or fails.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from gankit.core.cuda.failures import note

LANES = 16  # floats in a vector of a kernel
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


def attempt(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function that runs a kernel gives, shown to torch's profiler by `name`; None where it fails, with which
    kernels are given up."""
    try:
        with _recorded(name):
            return function(*arguments)
    except Exception as error:
        give_up(error)
        return None


def _recorded(name: str) -> contextlib.AbstractContextManager[object]:
    """Shows a kernel to torch's profiler, which sees operators alone. Costs a tenth of a millisecond where it is on."""
    if getattr(torch.autograd.profiler, "_is_profiler_enabled", True):
        return torch.profiler.record_function(name)
    return contextlib.nullcontext()


def give_up(error: Exception) -> None:
    """Go on without kernels, after one warning."""
    note(_failures, error, "gankit's kernels for CPUs", "Operators of torch take their place")


def obstacle() -> str | None:
    """What keeps kernels from running in this process, as far as it is known."""
    load("machine")
    return _failures[0] if _failures else None
