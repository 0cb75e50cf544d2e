"""Loads the kernels that LLVM compiles, runs them, and gives them up after the first failure.

They are without gradients, and each has its place in a composite of torch's operators, which does the same where
llvmlite is missing or a kernel fails.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from gankit_cpu.failures import note

LANES = 16  # floats in a vector of a kernel
_missing: list[str] = []  # why LLVM cannot be had
_failures: list[str] = []  # why this process has given up its kernels


def load(name: str) -> ModuleType | None:
    """A module of `gankit_cpu.llvm`, or None where LLVM is missing or kernels have failed."""
    if not (_missing or _failures):
        try:
            return importlib.import_module(f"gankit_cpu.llvm.{name}")
        except ImportError as error:
            _missing.append(f"llvmlite cannot be imported: {error}")
        except Exception as error:  # whatever the loading of a library raises
            give_up(error)
    return None


def watched() -> bool:
    """True if a mode of torch looks at the operators that run, of which a kernel is none.

    Torch tells it by a private name alone. Should that be gone, the answer is yes: slower, but never wrong.
    """
    depth = getattr(torch._C, "_len_torch_dispatch_stack", None)
    return depth is None or depth() > 0


def attempt(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function that runs a kernel, or None where it fails; kernels are given up then.

    `name` is what torch's profiler shows.
    """
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


def failures() -> list[str]:
    """Errors for which kernels were given up; a missing LLVM is not one."""
    return list(_failures)


def obstacle() -> str | None:
    """The reason why this process has no kernels by LLVM, None if it has or that is not known yet."""
    load("machine")
    return next(iter([*_missing, *_failures]), None)
