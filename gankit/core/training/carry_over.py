"""Carries weights, averages and optimizer state from one stage of a run into the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gankit.core.training.optimizers import SECTIONS

if TYPE_CHECKING:
    import torch
    from torch import nn

    from gankit.core.config.recipe import Recipe
    from gankit.core.models.moving_average import MovingAverage
    from gankit.core.training.step import Stepper


# Long because weights, averages, moments and other state are carried over here, in this order.
def carry(
    old: Stepper, new: Stepper, before: Recipe, after: Recipe, restart: Sequence[str] = ()
) -> list[str]:
    """Copy weights, averages and optimizer state of the old stage's networks into those of the new stage.

    Tensors are matched by name, as with `--init`. If G's architecture or its frozen parameters change, the new G starts
    from the old EMA weights, as in StyleGAN-XL and StyleGAN-T; otherwise from the raw weights. The state of an
    optimizer is copied for networks whose architecture is the same, if its section of the recipe is unchanged.

    Args:
        old: stepper at the end of the old stage.
        new: stepper of the new stage, freshly built; changed in place.
        before: recipe of the old stage.
        after: recipe of the new stage.
        restart: sections whose networks keep their initial weights, of `gankit.core.config.sections.NETWORKS`.

    Returns one line for each network and thing left behind, for the user.
    """
    from gankit.core.models import warm_start

    new.nimg = new.stage_start = old.nimg
    new.step, new.bad_total, new.signs = old.step, old.bad_total, old.signs
    same = {
        name: name not in restart
        and name in old.parts.trainable()
        and _alike(old.parts.trainable()[name], module)
        for name, module in new.parts.trainable().items()
    }
    goes_on = same["generator"] and _frozen(old, "generator") == _frozen(new, "generator")
    raw_g = old.parts.G if goes_on else old.G_ema
    raw_conditioner = old.parts.conditioner if goes_on else old.conditioner_ema
    pairs = [
        ("generator", raw_g, new.parts.G),
        ("generator", old.G_ema, new.G_ema),
        ("discriminator", old.parts.D, new.parts.D),
        ("conditioner", raw_conditioner, new.parts.conditioner),
    ]
    if new.trains_conditioner:
        pairs.append(("conditioner", old.conditioner_ema, new.conditioner_ema))
    lines = [f"{kind}: begins anew" for kind in restart]
    for kind, source, target in pairs:
        if kind in restart:
            continue
        done = warm_start.copy_weights(
            kind, source, target, after, old.parts.conditioner.columns(), new.parts.conditioner
        )
        if done is not None and target is not new.G_ema and target is not new.conditioner_ema:
            lines.append(f"{kind}: {str(done).splitlines()[0]}")
    if "conditioner" not in restart and _shapes(old.parts.conditioner) and not _shapes(new.parts.conditioner):
        lines.append(
            "conditioner: what it has learned is left behind; keep it trainable, with conditioner in train.freeze, "
            "to go on with it"
        )
    _carry_state(old, new, before, after)
    for side, optimizer in new.optimizers.items():
        section = SECTIONS[side]
        if getattr(before, section) == getattr(after, section):
            _carry_moments(old, new, side, optimizer, same)
    # for `gankit ema` all of them must have begun together
    theirs, mine = _posthoc(old), _posthoc(new)
    go_on = not {"generator", "conditioner"} & set(restart) and theirs.keys() == mine.keys()
    go_on = go_on and all(_tensors_alike(theirs[name].networks, mine[name].networks) for name in mine)
    for name, average in mine.items():
        if go_on:
            average.load_state_dict(theirs[name].state_dict(), "the stage before")
        else:
            average.start = new.nimg
    return lines


def _posthoc(stepper: Stepper) -> dict[str, MovingAverage]:
    return {name: average for name, average in stepper.averages.items() if name != "ema"}


def _frozen(stepper: Stepper, root: str) -> list[str]:
    return [name for name in stepper.frozen if name.startswith(f"{root}.")]


def _shapes(module: nn.Module) -> dict[str, Any]:
    from gankit.core.models.stored_state import stored_state

    return {name: tensor.shape for name, tensor in stored_state(module).items()}


def _alike(a: nn.Module, b: nn.Module) -> bool:
    return type(a) is type(b) and _shapes(a) == _shapes(b)


def _tensors_alike(a: Mapping[str, nn.Module], b: Mapping[str, nn.Module]) -> bool:
    return a.keys() == b.keys() and all(_alike(a[name], b[name]) for name in a)


def _load(target: nn.Module, source: nn.Module) -> None:
    from gankit.core.models.stored_state import load_stored, stored_state

    load_stored(target, stored_state(source), "the stage before")


def _carry_state(old: Stepper, new: Stepper, before: Recipe, after: Recipe) -> None:
    """Copy tensors of regularizers, and of the augmentation if its section of the recipe is unchanged."""
    theirs = old.parts.stateful()
    for name, module in new.parts.stateful().items():
        if name == "augmentation" and before.augmentation != after.augmentation:
            continue
        if name in theirs and _alike(theirs[name], module):
            _load(module, theirs[name])


def _carry_moments(
    old: Stepper, new: Stepper, side: str, optimizer: torch.optim.Optimizer, same: Mapping[str, bool]
) -> None:
    """Copy the optimizer's state of parameters of the same name in networks that are the same."""
    trained = {phase.side: phase.parameters for phase in old.phases}[side]
    for phase in new.phases:
        for name, parameter in phase.parameters.items() if phase.side == side and phase.main else ():
            root = next(root for root in same if name.startswith(f"{root}."))
            if same[root] and name in trained and trained[name] in old.optimizers[side].state:
                state = old.optimizers[side].state[trained[name]]
                optimizer.state[parameter] = {key: value.clone() for key, value in state.items()}
