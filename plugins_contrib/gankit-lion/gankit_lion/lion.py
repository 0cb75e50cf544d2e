"""Lion (Chen et al. 2023, "Symbolic discovery of optimization algorithms", algorithm 2)."""

from typing import Any

import torch

from gankit.interfaces import GankitError, Optimizer


class Lion(Optimizer):
    """Steps of the sign of a moving average of gradients: one state a parameter, where Adam has two.

    All steps are as large as the learning rate, so it wants a rate of a third to a tenth of Adam's. `train.betas` are
    the factor in the step's average and that of the remembered one; the paper's are [0.9, 0.99]. `train.eps` is not
    used.

    Args:
        weight_decay: share of a weight that a step with learning rate 1 takes away, >= 0; it acts times the rate.
    """

    def __init__(self, *, weight_decay: float = 0.0) -> None:
        if weight_decay < 0:
            raise GankitError(f"weight_decay = {weight_decay} of optimizer 'lion' must not be negative")
        self.weight_decay = weight_decay

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return LionSteps(groups, self.weight_decay)


class LionSteps(torch.optim.Optimizer):
    """The steps of Lion, for groups with 'lr' and 'betas'."""

    def __init__(self, groups: list[dict[str, Any]], weight_decay: float) -> None:
        super().__init__(groups, {"weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            rate, (beta1, beta2) = group["lr"], group["betas"]
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["average"] = torch.zeros_like(parameter)
                parameter.mul_(1 - rate * group["weight_decay"])
                parameter.sub_(rate * torch.lerp(gradient, state["average"], beta1).sign_())
                state["average"].lerp_(gradient, 1 - beta2)
