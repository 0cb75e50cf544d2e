"""Learned attention pooling of a text encoder's tokens.

An average over tokens loses which colour belongs to which noun. A few queries, each with its own softmax over the
tokens, keep them apart: on avatar captions a linear classifier then reads the colours of hair and clothes almost
without error (`benchmarks/text_probe.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AttentionPool(nn.Module):
    """Attention pooling: tokens [B, T, D] and mask [B, T] -> [B, queries * values].

    Outputs are standardised by the mean and standard deviation over the captions that the module was fitted on."""

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
