"""What the C library does with the memory of tensors."""

from __future__ import annotations

import subprocess
import sys

import pytest

PAGE_FAULTS = """
import resource, sys, torch
from gankit.core import devices
if sys.argv[1] == "keep":
    devices.keep_freed_memory()
def work():
    for _ in range(10):
        x = torch.zeros(4, 64, 200, 200)  # 41 MB: above 32 MB glibc never learns to keep them
        y = x * 2 + 1
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_freed_memory_is_kept() -> None:
    def faults(mode: str) -> int:
        command = [sys.executable, "-c", PAGE_FAULTS, mode]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert faults("keep") < 0.5 * faults("as it was")  # the heap may still grow by a tensor or two
