"""Attention pooling of tokens: padding does not matter."""

from __future__ import annotations

import torch

from gankit.core.nn.attention_pool import AttentionPool


def test_padding_does_not_matter():
    torch.manual_seed(0)
    pool = AttentionPool(4, queries=2, values=3)
    tokens = torch.randn(1, 3, 4)
    padded = torch.cat([tokens, torch.full((1, 2, 4), 9.0)], 1)
    mask = torch.tensor([[True, True, True, False, False]])
    torch.testing.assert_close(pool(tokens, mask[:, :3]), pool(padded, mask))
