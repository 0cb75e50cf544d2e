"""Adam and AdamW beside torch's own."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from gankit.errors import GankitError
from gankit.plugins.optimizers.adam import Adam, AdamW


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.GroupNorm(2, 4))


def groups(module: nn.Module) -> list[dict[str, Any]]:
    named = list(module.named_parameters())
    return [{"params": named, "rate": "lr_g", "lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-6}]


def step(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for _ in range(3):
        optimizer.zero_grad()
        module(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()


def test_adam_is_torchs() -> None:
    mine, theirs = layers(), layers()
    step(mine, Adam().make(groups(mine)))
    step(theirs, torch.optim.Adam(theirs.parameters(), lr=0.1, betas=(0.5, 0.9), eps=1e-6, fused=True))
    for a, b in zip(mine.parameters(), theirs.parameters()):
        assert torch.equal(a, b)


@pytest.mark.parametrize("vectors", [False, True])
def test_adamw_decays_matrices_and_on_request_vectors(vectors: bool) -> None:
    mine = layers()
    start = copy.deepcopy(mine)
    optimizer = AdamW(weight_decay=0.5, decay_vectors=vectors).make(groups(mine))
    for parameter in mine.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for (name, a), b in zip(mine.named_parameters(), start.parameters()):
        torch.testing.assert_close(a, b * (0.95 if vectors or name == "0.weight" else 1.0))


def test_negative_decay_is_refused() -> None:
    with pytest.raises(GankitError, match="weight_decay = -1 of optimizer 'adamw'"):
        AdamW(weight_decay=-1)
