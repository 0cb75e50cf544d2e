"""Tensors in files, and how much of them is in memory."""

from __future__ import annotations

import sys

import pytest

from gankit.core.runtime import devices, tensor_files

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pagemap is Linux's")


def stored(folder, **tensors):
    path = folder / "x.safetensors"
    tensor_files.save_tensors(path, tensors)
    return tensor_files.load_tensors(path)[0]


def resident(tensor):
    """How many of its pages are in memory that is this process's."""
    first, end = devices._pages(tensor)
    with open("/proc/self/pagemap", "rb") as file:
        file.seek(first * 8)
        return sum(entry >> 63 for entry in memoryview(file.read((end - first) * 8)).cast("Q"))
