"""Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks") beside Adam."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from gankit.core.interfaces.training import Optimizer
from gankit.errors import GankitError
from gankit.plugins.optimizers.adam import fused

__all__ = ["Muon"]


class Muon(Optimizer):
    """An experiment: torch's Muon for weight matrices, Adam for everything else, such as convolutions and biases.

    A step of Muon is scaled to the root mean square of one of AdamW (Liu et al. 2025, "Muon is scalable for LLM
    training", section 2.2), so that learning rates for Adam are a start. Needs torch 2.9 or newer.

    Args:
        momentum: factor in [0, 1) on the running sum of gradients.
        nesterov: look one step ahead (Nesterov momentum).
        weight_decay: decoupled weight decay of the matrices, >= 0.
        iterations: Newton-Schulz iterations that orthogonalise a step, >= 1.
    """

    def __init__(
        self,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        iterations: int = 5,
    ) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise GankitError(f"optimizer 'muon' needs torch 2.9 or newer, this is {torch.__version__}")
        if not 0 <= momentum < 1:
            raise GankitError(f"momentum = {momentum} of optimizer 'muon' must be in [0, 1)")
        if weight_decay < 0:
            raise GankitError(f"weight_decay = {weight_decay} of optimizer 'muon' must not be negative")
        if iterations < 1:
            raise GankitError(f"iterations = {iterations} of optimizer 'muon' must be at least 1")
        self.momentum, self.nesterov = momentum, nesterov
        self.weight_decay, self.iterations = weight_decay, iterations

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        matrices, others = [], []
        for group in groups:
            params = [(n, p) for n, p in group["params"] if p.dim() == 2]
            if params:
                matrices.append({"params": params, "rate": group["rate"], "lr": group["lr"]})
            params = [(n, p) for n, p in group["params"] if p.dim() != 2]
            if params:
                others.append({**group, "params": params})
        optimizers: list[torch.optim.Optimizer] = []
        if matrices:
            optimizers.append(
                torch.optim.Muon(
                    matrices,
                    momentum=self.momentum,
                    nesterov=self.nesterov,
                    weight_decay=self.weight_decay,
                    ns_steps=self.iterations,
                    adjust_lr_fn="match_rms_adamw",
                )
            )
        if others:
            optimizers.append(torch.optim.Adam(others, fused=fused(others)))
        return _Joined(optimizers)


class _Joined(torch.optim.Optimizer):
    """Several optimizers of disjoint parameters as one, with common groups and state."""

    def __init__(self, optimizers: list[torch.optim.Optimizer]) -> None:
        super().__init__([group for optimizer in optimizers for group in optimizer.param_groups], {})
        self.optimizers = optimizers
        self.defaults = optimizers[-1].defaults
        for optimizer in optimizers:
            optimizer.state = self.state

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for optimizer in self.optimizers:
            optimizer.step()
