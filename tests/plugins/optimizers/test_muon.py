"""Muon for matrices, Adam for the rest, as one optimizer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gankit.errors import GankitError
from gankit.plugins.optimizers.muon import Muon


def test_matrices_take_muons_steps_and_others_adams() -> None:
    torch.manual_seed(0)
    start = {"matrix": torch.randn(4, 6), "kernel": torch.randn(2, 3, 3, 3), "bias": torch.randn(4)}
    gradients = {name: torch.randn_like(value) for name, value in start.items()}
    mine, theirs = ({name: nn.Parameter(v.clone()) for name, v in start.items()} for _ in range(2))
    group = {"params": list(mine.items()), "rate": "lr_g", "lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-8}
    muon = torch.optim.Muon(
        [theirs["matrix"]],
        lr=0.05,
        weight_decay=0.0,
        momentum=0.9,
        nesterov=False,
        adjust_lr_fn="match_rms_adamw",
    )
    adam = torch.optim.Adam([theirs["kernel"], theirs["bias"]], lr=0.05, betas=(0.5, 0.9), fused=True)
    joined = Muon(momentum=0.9, nesterov=False).make([group])
    for each in joined.param_groups:
        each["lr"] = 0.05  # as gankit sets it before a step
    for _ in range(2):
        for parameters in (mine, theirs):
            for name, parameter in parameters.items():
                parameter.grad = gradients[name].clone()
        for optimizer in (joined, muon, adam):
            optimizer.step()
    for name in start:
        assert torch.equal(mine[name], theirs[name])
        assert not torch.equal(mine[name], start[name])
    assert joined.state[mine["matrix"]].keys() == {"momentum_buffer"}


@pytest.mark.parametrize(
    "options", [{"momentum": 1.0}, {"weight_decay": -0.1}, {"iterations": 0}], ids=lambda o: next(iter(o))
)
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    (name,) = options
    with pytest.raises(GankitError, match=f"{name} = .* of optimizer 'muon'"):
        Muon(**options)  # type: ignore[arg-type]


def test_torch_without_muon_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(GankitError, match=r"needs torch 2\.9 or newer"):
        Muon()
