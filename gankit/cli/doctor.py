"""`gankit doctor`: what this machine computes with, which implementation each operator gets and why, and self-tests."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable, Iterator

import torch

from gankit._version import __version__
from gankit.core.cuda import dispatch, native
from gankit.core.runtime.devices import bf16_units, has_fast_bf16, multiplies
from gankit.errors import GankitError


def examine() -> tuple[str, bool]:
    """The page, and whether everything on it is well."""
    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices.append(torch.device("cuda"))
    if torch.backends.mps.is_available():
        devices.append(torch.device("mps"))
    lines = [*_machine(), ""]
    choices, chosen_well = _choices(devices)
    tests, passed = _self_tests(devices)
    page = "\n".join([*lines, *choices, "", *tests])
    well = chosen_well and passed
    return f"{page}\n\n{'all is well' if well else 'something is wrong: see FAILED above'}", well


def _machine() -> Iterator[str]:
    yield f"gankit   {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    yield f"torch    {torch.__version__}, {torch.get_num_threads()} threads"
    cpu = torch.device("cpu")
    slow = (
        "slower than fp32 in training" if multiplies(torch.bfloat16, cpu) else "by kernels for sampling alone"
    )
    pays = "fast" if has_fast_bf16(cpu) else slow
    units = ", ".join([torch.backends.cpu.get_cpu_capability(), *bf16_units()])
    yield f"CPU      {_cpu_name()}: {units}; bf16 {pays}"
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            p = torch.cuda.get_device_properties(i)
            yield f"CUDA     {i}: {p.name}, sm_{p.major}{p.minor}, {p.total_memory / 2**30:.0f} GiB"
    else:
        built = torch.version.cuda or torch.version.hip
        yield f"CUDA     no device{'' if built else ', and this torch is built without it'}"
    if torch.backends.mps.is_available():
        yield "MPS      available"
    try:
        yield f"Triton   {importlib.metadata.version('triton')}"
    except importlib.metadata.PackageNotFoundError:
        yield "Triton   not installed"
    reason = native.obstacle()
    version = None if reason else importlib.metadata.version("llvmlite")
    yield f"LLVM     {f'no kernels for CPUs: {reason}' if reason else f'llvmlite {version}'}"
    yield f"{dispatch.ENVIRONMENT} {os.environ.get(dispatch.ENVIRONMENT) or 'not set'}"


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _choices(devices: Iterable[torch.device]) -> tuple[list[str], bool]:
    rows, well = [("operator", "tensors on", "implementation", "because")], True
    for device in devices:
        for operator in dispatch.OPERATORS:
            try:
                choice = dispatch.choose(operator, device)
                rows.append((operator, device.type, choice.name, choice.reason))
            except GankitError as error:
                well = False
                rows.append((operator, device.type, "FAILED", str(error)))
    return _columns(rows), well


def _self_tests(devices: Iterable[torch.device]) -> tuple[list[str], bool]:
    """Every implementation that can run here, chosen or not."""
    rows, well = [("self-test", "tensors on", "implementation", "error")], True
    for device in devices:
        if device.type == "mps":  # has no float64 to compare in, and composites only
            continue
        for operator in dispatch.OPERATORS:
            for name in dispatch.IMPLEMENTATIONS:
                if name == "triton" and dispatch.obstacle(device):
                    continue
                result = dispatch.self_test(operator, name, device)
                well = well and result.passed
                verdict = f"{result.error:.1e}" if result.passed else f"FAILED: {result.failure}"
                rows.append((operator, device.type, name, verdict))
    return _columns(rows), well


def _columns(rows: list[tuple[str, str, str, str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths)), row[3]]) for row in rows]
