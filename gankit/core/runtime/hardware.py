"""Facts about the machine that a run trains on: hardware and versions, for the run's log."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch

from gankit._version import __version__
from gankit.core.runtime.distributed import World


def facts(device: torch.device, world: World, bf16: bool) -> dict[str, Any]:
    """Device, processor, memory, processes, precision, versions; 'machine' in the first log line after each start."""
    found: dict[str, Any] = {"device": str(device)}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["gpu"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    found["processor"] = processor()
    found["cores"] = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found["threads"] = torch.get_num_threads()
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory"] = f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"
    return {
        **found,
        "processes": world.size,
        "precision": "bf16" if bf16 else "fp32",
        "gankit": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
    }


def processor() -> str:
    """The trade name of the processor, or its architecture where the system does not tell it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return (names[0] if names else "") or platform.processor() or platform.machine()
