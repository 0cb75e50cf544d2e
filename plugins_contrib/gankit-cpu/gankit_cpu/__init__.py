"""Kernels for CPUs: gankit's operators by LLVM, oneDNN and Winograd's minimal filtering."""

from __future__ import annotations

from collections.abc import Callable

from gankit import hookimpl


@hookimpl
def gankit_register(register: Callable[[str, str, str], None]) -> None:
    register("op-backend", "cpu", "gankit_cpu.backend:CPUKernels")
