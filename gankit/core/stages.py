"""Stages of a run, such as growing resolutions or the training of one part after another.

A stage is the recipe's page with changes of its own; the weights of the stage before are carried over by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gankit.core.counts import parse_count
from gankit.errors import GankitError, unknown

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gankit.core.recipe import Recipe
    from gankit.core.step import Stepper

SECTIONS = (
    *("data", "conditioner", "generator", "discriminator", "loss", "regularizers"),
    *("guidance", "augmentation", "schedules", "train"),
)
OWN = ("until", "patience", "restart")
ENDS = ("until", "patience")
RESTARTS = ("generator", "discriminator", "conditioner")
# of the run as a whole
FIXED = {"data": ("path", "options", "channels"), "train": ("images", "seed")}


def check(stages: list[dict[str, Any]], evaluated: bool, origin: str) -> list[dict[str, Any]]:
    """The list `stages` of a recipe with its counts as numbers; what is in a stage is checked by merging it."""
    if len(stages) == 1:
        raise GankitError(f"{origin}: a single stage is no stage; add another, or move its keys to the page")
    checked = []
    for index, stage in enumerate(stages):
        where = f"{origin}: stages.{index}"
        for key in stage:
            if key not in (*OWN, *SECTIONS):
                raise GankitError(f"{where}: {unknown('key', str(key), [*OWN, *SECTIONS])}")
        for section, keys in FIXED.items():
            for key in keys:
                if isinstance(stage.get(section), Mapping) and key in stage[section]:
                    raise GankitError(
                        f"{where}: {section}.{key} is the same in all stages; move it out of the stage"
                    )
        restart = stage.get("restart", [])
        if not isinstance(restart, list) or not all(isinstance(name, str) for name in restart):
            raise GankitError(f"{where}.restart = {restart!r} must be a list of {', '.join(RESTARTS)}")
        for name in restart:
            if name not in RESTARTS:
                raise GankitError(f"{where}.restart: {unknown('part', name, RESTARTS)}")
        if restart and index == 0:
            raise GankitError(f"{where}: the first stage starts everything; leave restart away")
        last = index == len(stages) - 1
        if last and (ends := [key for key in ENDS if key in stage]):
            raise GankitError(f"{where}: the last stage ends at train.images; leave {ends[0]} away")
        patience = stage.get("patience", 1)
        if not isinstance(patience, int) or isinstance(patience, bool) or patience < 1:
            raise GankitError(f"{where}.patience = {patience!r} must be a number of evaluations, at least 1")
        if "patience" in stage and not evaluated:
            raise GankitError(f"{where}.patience needs evaluations; set evaluation.every (--eval-every 50k)")
        if last:
            checked.append(stage)
            continue
        try:
            until = parse_count(stage.get("until"))
        except ValueError as error:
            raise GankitError(f"{where}.until: {error}") from None
        before = checked[-1]["until"] if checked else 0
        if not isinstance(until, int) or isinstance(until, bool) or until <= before:
            raise GankitError(
                f"{where}.until = {until!r} must be the number of images at which the stage ends, above {before}"
            )
        checked.append({**stage, "until": until})
    return checked


def merge(page: Any, changes: Any) -> Any:
    """A page with changes: mappings are merged, but another plugin takes none of the options of the one it replaces."""
    if isinstance(page, Mapping) and isinstance(changes, str) and "name" in page:
        return page if page["name"] == changes else {"name": changes}
    if not isinstance(page, Mapping) or not isinstance(changes, Mapping):
        return changes
    if "name" in page and changes.get("name", page["name"]) != page["name"]:
        return changes
    return {**page, **{k: merge(page[k], v) if k in page else v for k, v in changes.items()}}


# ------------------------------------------------------------------------------------------- between two stages


def carry(
    old: Stepper, new: Stepper, before: Recipe, after: Recipe, restart: Sequence[str] = ()
) -> list[str]:
    """Continue with the networks of a new stage where those of the old one ended; returns what was done, for the user.

    Everything goes by name, as with `--init`. Where G changes or parts of it are frozen, it starts from its average, as
    in StyleGAN-XL and StyleGAN-T; where it stays the same it goes on as it is. Moments of the optimisers go on where a
    network is the same.

    Args:
        old: at the end of its stage.
        new: as built for its own stage; changed in place.
        before: the recipe of the old stage.
        after: that of the new one.
        restart: networks that begin anew instead, of RESTARTS.
    """
    from gankit.core import models

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
    if new.conditioner_ema is not new.parts.conditioner:
        pairs.append(("conditioner", old.conditioner_ema, new.conditioner_ema))
    lines = [f"{kind}: begins anew" for kind in restart]
    for kind, source, target in pairs:
        if kind in restart:
            continue
        done = models.copy_weights(
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
    _carry_moments(old, new, same)
    averaged = old.posthoc.modules()
    if not {"generator", "conditioner"} & set(restart) and _tensors_alike(averaged, new.posthoc.modules()):
        new.posthoc.start = old.posthoc.start
        for name, module in new.posthoc.modules().items():
            _load(module, old.posthoc.modules()[name])
    else:
        new.posthoc.start = new.nimg
    return lines


def _frozen(stepper: Stepper, root: str) -> list[str]:
    return [name for name in stepper.frozen if name.startswith(f"{root}.")]


def _shapes(module: nn.Module) -> dict[str, Any]:
    from gankit.core.checkpoint import stored_state

    return {name: tensor.shape for name, tensor in stored_state(module).items()}


def _alike(a: nn.Module, b: nn.Module) -> bool:
    return type(a) is type(b) and _shapes(a) == _shapes(b)


def _tensors_alike(a: Mapping[str, nn.Module], b: Mapping[str, nn.Module]) -> bool:
    return a.keys() == b.keys() and all(_alike(a[name], b[name]) for name in a)


def _load(target: nn.Module, source: nn.Module) -> None:
    from gankit.core.checkpoint import load_stored, stored_state

    load_stored(target, stored_state(source), "the stage before")


def _carry_state(old: Stepper, new: Stepper, before: Recipe, after: Recipe) -> None:
    """Weights and running means of regularizers; the strength of an augmentation that is set up as before."""
    theirs = old.parts.stateful()
    for name, module in new.parts.stateful().items():
        if name == "augmentation" and before.augmentation != after.augmentation:
            continue
        if name in theirs and _alike(theirs[name], module):
            _load(module, theirs[name])


def _carry_moments(old: Stepper, new: Stepper, same: Mapping[str, bool]) -> None:
    found: dict[str, dict[str, Tensor]] = {}
    for root, module in old.parts.trainable().items():
        for name, parameter in module.named_parameters():
            for optimizer in (old.opt_g, old.opt_d):
                if parameter in optimizer.state:
                    found[f"{root}.{name}"] = optimizer.state[parameter]
    for root, module in new.parts.trainable().items():
        for name, parameter in module.named_parameters():
            if not (same[root] and parameter.requires_grad and f"{root}.{name}" in found):
                continue
            optimizer = new.opt_d if root in ("discriminator", *_regularizers(new)) else new.opt_g
            optimizer.state[parameter] = {k: v.clone() for k, v in found[f"{root}.{name}"].items()}


def _regularizers(stepper: Stepper) -> list[str]:
    return [f"regularizers.{name}" for name in stepper.parts.regularizers]
