"""Learned attention pooling of a text encoder's tokens.

An average over tokens loses which colour belongs to which noun. A few queries, each with its own softmax over the
tokens, keep them apart: on avatar captions a linear classifier then reads the colours of hair and clothes almost
without error (`benchmarks/text_probe.py`).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from gankit.core.models.pretrained import find_state_dict, read_safetensors, shapes_only
from gankit.errors import GankitError


class AttentionPool(nn.Module):
    """Attention pooling: tokens [B, T, D] and mask [B, T] -> [B, queries * values], standardised to the mean and
    standard deviation of the captions that it was fitted on."""

    mean: Tensor
    std: Tensor

    def __init__(self, token_dim: int, queries: int = 8, values: int = 64) -> None:
        super().__init__()
        self.query, self.value = nn.Linear(token_dim, queries), nn.Linear(token_dim, values)
        self.width = queries * values
        self.register_buffer("mean", torch.zeros(self.width))
        self.register_buffer("std", torch.ones(self.width))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        scores = self.query(tokens).masked_fill(~mask[..., None], -torch.inf)
        pooled = (scores.softmax(1).mT @ self.value(tokens)).flatten(1)
        return (pooled - self.mean) / self.std


def load_pool(weights: str, token_dim: int) -> AttentionPool:
    """Load a fitted pool from a safetensors file or a hub id. Raises GankitError if it is no pool or for tokens of
    another width."""
    path = Path(weights).expanduser()
    tensors = read_safetensors(path) if path.is_file() else find_state_dict(weights)
    try:
        queries, values = tensors["query.weight"], tensors["value.weight"]
        pool = AttentionPool(queries.shape[1], len(queries), len(values))
        if not shapes_only():
            pool.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except (KeyError, IndexError, RuntimeError):
        raise GankitError(
            f"pool_weights = {weights!r} of conditioner 'text' is not a fitted attention pool"
        ) from None
    if queries.shape[1] != token_dim:
        raise GankitError(
            f"pool_weights = {weights!r} of conditioner 'text' is for tokens of width {queries.shape[1]}, "
            f"the encoder's have {token_dim}"
        )
    return pool.eval().requires_grad_(False)
