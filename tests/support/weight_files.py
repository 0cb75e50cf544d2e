"""Tensors in files."""

from __future__ import annotations

from gankit.core.runtime import tensor_files


def stored(folder, **tensors):
    """Tensors as they are read from a safetensors file in a folder."""
    path = folder / "x.safetensors"
    tensor_files.save_tensors(path, tensors)
    return tensor_files.load_tensors(path)[0]
