"""Snapshots of discriminators on frozen networks, of any size without memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gankit.core.config import options
from gankit.core.interfaces.conditions import CondSpec
from gankit.core.models import stored_state
from gankit.interop.torch_files import Storage, TensorRecord


def record(*shape: int) -> TensorRecord:
    """A tensor of any size that takes no memory."""
    return TensorRecord(Storage("float32", bytes(4)), 0, shape, (0,) * len(shape))


def filled(seed: int, shape: tuple[int, ...]) -> TensorRecord:
    return TensorRecord.of(torch.rand(shape, generator=torch.Generator().manual_seed(seed)))


def shapes(tensors: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def planned(spec: dict[str, Any], shape: tuple[int, int, int], c_dim: int) -> dict[str, tuple[int, ...]]:
    """Tensors of the plugin that are saved."""
    with torch.device("meta"):
        module = options.build("discriminator", spec, shape, CondSpec(c_dim))
    return shapes(stored_state.stored_state(module))
