"""`gankit doctor`: what this machine computes with, which implementation each operator gets and why, and self-tests."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator

import torch

from gankit._version import __version__
from gankit.core.config.registry import registry
from gankit.core.cuda import dispatch
from gankit.core.runtime.devices import bf16_units, has_fast_bf16, multiplies
from gankit.core.runtime.hardware import processor
from gankit.errors import GankitError


def examine() -> tuple[str, bool]:
    """The page; True if everything on it is well."""
    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices.append(torch.device("cuda"))
    if torch.backends.mps.is_available():
        devices.append(torch.device("mps"))
    lines = [*_machine(), ""]
    choices, chosen_well = _choices(devices)
    backends = _backends(devices)
    tests, passed = _self_tests(devices)
    page = "\n".join([*lines, *backends, "", *choices, "", *tests])
    well = chosen_well and passed
    return f"{page}\n\n{'all is well' if well else 'something is wrong: see FAILED above'}", well


def _machine() -> Iterator[str]:
    yield f"gankit   {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    yield f"torch    {torch.__version__}, {torch.get_num_threads()} threads"
    cpu = torch.device("cpu")
    slow = "slower than fp32 in training" if multiplies(torch.bfloat16, cpu) else "computed in fp32 by torch"
    pays = "fast" if has_fast_bf16(cpu) else slow
    units = ", ".join([torch.backends.cpu.get_cpu_capability(), *bf16_units()])
    yield f"CPU      {processor()}: {units}; bf16 {pays}"
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            p = torch.cuda.get_device_properties(i)
            yield f"CUDA     {i}: {p.name}, sm_{p.major}{p.minor}, {p.total_memory / 2**30:.0f} GiB"
    else:
        built = torch.version.cuda or torch.version.hip
        yield f"CUDA     no device{'' if built else ', and this torch is built without it'}"
    if torch.backends.mps.is_available():
        yield "MPS      available"
    yield f"{dispatch.ENVIRONMENT} {os.environ.get(dispatch.ENVIRONMENT) or 'not set'}"


def _backends(devices: Iterable[torch.device]) -> list[str]:
    """The table of op backends: package, devices, obstacles; a line on gankit-cpu where it is missing."""
    rows = [("op backend", "package", "runs on", "")]
    for name in dispatch.names():
        try:
            found, package = dispatch.backend(name), dispatch.version_of(name)
        except GankitError as error:
            rows.append((name, registry().get(dispatch.KIND, name).package, "nothing", str(error)))
            continue
        obstacles = {device.type: dispatch.obstacle(name, device) for device in devices}
        runs = [kind for kind, reason in obstacles.items() if reason is None]
        reasons = [
            f"{kind}: {reason}" for kind, reason in obstacles.items() if reason and kind in found.devices
        ]
        if not runs and not reasons:
            reasons = sorted({reason for reason in obstacles.values() if reason})
        words = [found.summary(), *reasons]
        rows.append((name, package, ", ".join(runs) or "nothing", "; ".join(word for word in words if word)))
    lines = _columns(rows)
    if "cpu" not in dispatch.names():
        lines.append(f"`pip install gankit-cpu` would bring {_kernels_for_cpus()}")
    return lines


def _kernels_for_cpus() -> str:
    """The gains of gankit-cpu on this CPU, see docs/ops.md."""
    gains = ["sampling and training in fp32 with half of the products of 3x3 convolutions"]
    if "AMX" in bf16_units():
        gains.append("sampling in bf16 with packed weights and one kernel for what follows a convolution")
    elif platform.machine() in ("x86_64", "AMD64"):
        gains.append("sampling in bf16 by kernels with half of the products")
    gains.append("StyleGAN3's filtered_lrelu as one kernel")
    return ", ".join(gains)


def _choices(devices: Iterable[torch.device]) -> tuple[list[str], bool]:
    rows, well = [("operator", "tensors on", "implementation", "because")], True
    try:
        dispatch.request("auto")
    except GankitError as error:  # an unknown name in GANKIT_OPS, which is the same for every operator
        return [f"FAILED: {error}"], False
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
            for name in (*dispatch.PLAIN, *_runnable(operator, device)):
                result = dispatch.self_test(operator, name, device)
                well = well and result.passed
                verdict = f"{result.error:.1e}" if result.passed else f"FAILED: {result.failure}"
                rows.append((operator, device.type, name, verdict))
    return _columns(rows), well


def _runnable(operator: str, device: torch.device) -> Iterator[str]:
    """Op backends that have an operator and no obstacle on a device."""
    for name in dispatch.names():
        try:
            found = dispatch.backend(name)
        except GankitError:  # its row among the backends says it
            continue
        if hasattr(found, operator) and dispatch.obstacle(name, device) is None:
            yield name


def _columns(rows: list[tuple[str, str, str, str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths)), row[3]]).rstrip() for row in rows]
