"""The optimizers of G and D: built from a recipe, set to the rates of each step, saved and restored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gankit.core.config import options
from gankit.core.config.recipe import Recipe, TrainOptions
from gankit.core.interfaces import contracts
from gankit.core.interfaces.training import Optimizer, Regularizer
from gankit.errors import GankitError

SECTIONS = {"G": "optimizer_g", "D": "optimizer_d"}  # of a recipe


def build(
    recipe: Recipe,
    side: str,
    parameters: Mapping[str, Mapping[str, nn.Parameter]],
    regularizers: Mapping[str, Regularizer],
) -> torch.optim.Optimizer:
    """The optimizer that a recipe names for a side.

    Args:
        recipe: recipe of the stage.
        side: 'G' or 'D'.
        parameters: option of `train` with the learning rate -> name -> parameter.
        regularizers: of the recipe, whose intervals correct the rates.

    Raises ContractError if the plugin leaves parameters out, takes one twice, or loses the 'rate' of a group.
    """
    spec = getattr(recipe, SECTIONS[side])
    plugin: Optimizer = options.build("optimizer", spec, where=SECTIONS[side])
    groups: list[dict[str, Any]] = [
        {"params": list(named.items()), "rate": rate, "eps": recipe.train.eps, "lr": 0.0, "betas": (0.0, 0.0)}
        for rate, named in parameters.items()
    ]
    for group in groups:
        _set_group(group, recipe.train, side, regularizers)
    optimizer = plugin.make(groups)
    contracts.torch_optimizer(plugin, optimizer, parameters)
    optimizer._registered_as = getattr(plugin, "_registered_as", "")  # type: ignore[attr-defined]
    return optimizer


def set_rates(
    optimizer: torch.optim.Optimizer, train: TrainOptions, side: str, regularizers: Mapping[str, Regularizer]
) -> None:
    """Set learning rates and betas of now, with the correction for a lazy regularizer (StyleGAN2, appendix B)."""
    for group in optimizer.param_groups:
        _set_group(group, train, side, regularizers)


def _set_group(
    group: dict[str, Any], train: TrainOptions, side: str, regularizers: Mapping[str, Regularizer]
) -> None:
    intervals = [r.interval for r in regularizers.values() if r.side == side and r.interval > 1]
    c = max(intervals) / (max(intervals) + 1) if intervals else 1.0
    rate = group["rate"]
    factor = {"lr_g": c, "lr_d": c * train.ttur, "lr_conditioner": 1.0}[rate]
    group["lr"] = getattr(train, rate) * factor
    if "betas" in group:
        beta1, beta2 = (train.betas_g if side == "G" else train.betas_d) or train.betas
        group["betas"] = (beta1**c, beta2**c)


def first_step(optimizer: torch.optim.Optimizer) -> None:
    """Make a step, and check that all that it remembers is kept by checkpoints. Raises ContractError."""

    def numbers() -> list[dict[str, Any]]:
        return [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]

    before = numbers()
    optimizer.step()
    changed = [k for old, new in zip(before, numbers()) for k in new if new[k] is not old.get(k)]
    held = {k: v for state in optimizer.state.values() for k, v in state.items()}
    changed += [k for k, v in held.items() if not isinstance(v, (Tensor, int, float))]
    fault = f"remembers {changed[:1]} elsewhere than as a tensor or number in the state of a parameter"
    contracts.require(not changed, optimizer, fault)


def state_of(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State tensors of an optimizer as 'index.key'; hyper-parameters come from the recipe."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{k}": torch.as_tensor(v) for i, entry in state.items() for k, v in entry.items()}


def load_state(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Load what `state_of` returned. Raises GankitError, naming `origin`, for an entry of no parameter."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        if not index.isdigit() or int(index) >= len(parameters):
            raise GankitError(
                f"{origin} does not fit this run's optimizer (entry {name!r}); use --init instead"
            )
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape:
            slot = torch.empty_like(parameter, requires_grad=False)  # keeps the parameter's memory format
            optimizer.state[parameter][key] = slot.copy_(tensor)
        else:
            # counters of steps lie on the CPU, but for fused optimizers
            on_cpu = tensor.dim() == 0 and not optimizer.defaults.get("fused")
            optimizer.state[parameter][key] = tensor.to("cpu" if on_cpu else parameter.device, copy=True)
