"""`gankit blend`, `average` and `ema`: new models from the weights of two models, or from snapshots of a run."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from gankit.core.checkpoints import folders
from gankit.core.models import model_folder, posthoc_ema, stored_state
from gankit.core.models.model_folder import Model
from gankit.core.runtime import tensor_files
from gankit.core.training import run_folder
from gankit.errors import GankitError, unknown
from gankit.interop.find_model import find_model

SG3_MARGIN = (
    20  # pixels by which StyleGAN3's feature maps exceed the sampling rate: L0_36_512 has 36 for a rate of 16
)


def blend(a: str, b: str, out: Path, *, at: int, width: float = 0, mapping: str = "a") -> None:
    """Combine coarse layers of A with fine layers of B (Pinkney and Adler 2020, "Resolution dependent GAN
    interpolation").

    Args:
        a: model, run, or file of another code base; gives pose and composition.
        b: another one; gives colours and textures. Usually one of the two was fine-tuned from the other.
        out: new model folder.
        at: resolution of the first block of B.
        width: octaves over which the weight of B grows from 0 to 1; 0 is a hard boundary.
        mapping: 'a' or 'b': the model whose mapping network and conditioner are taken.

    Raises GankitError if the two are not of one architecture."""
    if mapping not in ("a", "b"):
        raise GankitError(unknown("--mapping", mapping, ["a", "b"]))
    if not (math.isfinite(width) and width >= 0):
        raise GankitError(f"--width {width} must be 0 or a number of octaves")
    first, second = _pair(a, b, out)
    sides = {name: resolution(name) for name in stored_state.stored_state(first.generator)}
    known = sorted({side for side in sides.values() if side is not None})
    if at not in known:
        raise GankitError(
            f"--at {at} is not a resolution of {a}; "
            + (f"it has {', '.join(map(str, known))}" if known else "its layers are not named by resolution")
        )

    def share(name: str) -> float:
        side = sides[name]
        if side is None:
            return float(mapping == "b")
        octaves = math.log2(side / at) + 0.5  # distance from the boundary, which lies between two blocks
        return float(octaves > 0) if width == 0 else min(max(0.5 + octaves / width, 0.0), 1.0)

    base = first if mapping == "a" else second
    _write(out, base, first, second, share, f"layers below {at} px of {a}, then {b} (width {width:g})")


def average(a: str, b: str, out: Path, *, weight: float = 0.5) -> None:
    """Average all weights of A and B: (1 - weight) * A + weight * B, weight in [0, 1].

    Raises GankitError if the two are not of one architecture."""
    if not 0 <= weight <= 1:
        raise GankitError(f"--weight {weight} must be in [0, 1]")
    first, second = _pair(a, b, out)
    text = f"{1 - weight:g} x {a} + {weight:g} x {b}"
    mine, theirs = (stored_state.stored_state(model.conditioner) for model in (first, second))
    if mine and _shapes(mine) == _shapes(theirs):
        stored_state.load_stored(first.conditioner, _mix(mine, theirs, lambda _: weight), out)
    _write(out, first, first, second, lambda _: weight, text)


# Long because it first checks that the run's snapshots suffice, then mixes their weights and writes the model.
def ema(folder: Path, out: Path, *, length: float, at: int | None = None) -> str:
    """Write a model with the post-hoc EMA of a run's generator, from the snapshots of `train.posthoc_ema`.

    Args:
        folder: the run's folder.
        out: new model folder.
        length: standard deviation of the average's profile, relative to the training time up to `at`.
        at: number of images trained at which the average ends; None is that of the newest snapshot.

    Returns a line that says what was done, for the user. Raises GankitError if the run has no suitable snapshots, or
    `out` exists.
    """
    if not 0 < length <= posthoc_ema.MAX_LENGTH:
        raise GankitError(f"--length {length:g} must be above 0 and at most {posthoc_ema.MAX_LENGTH}")
    if out.exists():
        raise GankitError(f"{out} exists already; choose another folder, or remove it first")
    if not (folder / "recipe.yaml").is_file():
        raise GankitError(f"{folder} is not a run (recipe.yaml is missing)")
    found = [
        (tensor_files.read_json(path, run_folder.FORMAT), path.parent)
        for path in sorted((folder / run_folder.SNAPSHOTS).glob(f"[0-9]*/{run_folder.SNAPSHOT}"))
    ]
    if not found:
        raise GankitError(
            f"{folder} has no snapshots of averages; train with --set train.posthoc_ema='[0.05, 0.1]'"
        )
    newest = max(page["nimg"] for page, _ in found)
    at = newest if at is None else at
    usable = [(page, path) for page, path in found if page["nimg"] <= at]
    if at > newest or not usable:
        first = min(page["nimg"] for page, _ in found)
        raise GankitError(f"--at {at} must be from {first} to {newest}, where the snapshots of {folder} are")
    base = max(usable, key=lambda entry: entry[0]["nimg"])
    start = base[0]["start"]  # averaging starts anew in a stage that changes the network
    usable = [entry for entry in usable if entry[0]["start"] == start]
    weights, error = posthoc_ema.fit(
        [page["nimg"] - start for page, _ in usable],
        [page["length"] for page, _ in usable],
        at - start,
        length,
    )
    model = model_folder.load_model(base[1])
    for name, module in (("generator", model.generator), ("conditioner", model.conditioner)):
        totals = {key: torch.zeros_like(p, dtype=torch.float64) for key, p in module.named_parameters()}
        if not totals:
            continue
        with torch.no_grad():
            for weight, (_, path) in zip(weights, usable):
                tensors, _ = tensor_files.load_tensors(path / f"{name}.safetensors")
                for key, total in totals.items():
                    total.add_(tensors[key].double(), alpha=weight)
            for key, parameter in module.named_parameters():  # buffers are those of the newest snapshot
                parameter.copy_(totals[key])
    text = f"average of {folder} at {at} images, length {length:g}, from {len(usable)} snapshots"
    recipe = model.recipe.model_copy(update={"name": out.name, "description": text})
    with folders.FolderWriter(out) as target:
        model_folder.save_model(
            target,
            recipe,
            model.conditioner,
            model.generator,
            nimg=at,
            encoders=model.conditioner.identity(),
        )
    return f"{text}; its profile is off by {100 * error:.2g} %"


def resolution(name: str) -> int | None:
    """Resolution of a generator's tensor by its name, or None for other names, such as the mapping network's."""
    if match := re.match(r"synthesis\.b(\d+)\.", name):
        return int(match.group(1))
    if match := re.match(r"synthesis\.L\d+_(\d+)_\d+\.", name):
        side = int(match.group(1))
        return side if side & (side - 1) == 0 else side - SG3_MARGIN
    if re.match(r"synthesis\.input\.", name):  # Fourier features, the coarsest of all
        return 4
    return None


def _pair(a: str, b: str, out: Path) -> tuple[Model, Model]:
    if out.exists():
        raise GankitError(f"{out} exists already; choose another folder, or remove it first")
    first, second = (model_folder.load_model(find_model(name)) for name in (a, b))
    for key in ("generator", "image_shape"):
        mine, theirs = getattr(first.recipe, key), getattr(second.recipe, key)
        if key == "generator":
            mine, theirs = ({k: v for k, v in spec.items() if k != "w_avg_beta"} for spec in (mine, theirs))
        if mine != theirs:
            raise GankitError(f"{a} and {b} are of different architectures: {key} {mine} and {theirs}")
    states = [_shapes(stored_state.stored_state(model.generator)) for model in (first, second)]
    if states[0] != states[1]:
        name = next(k for k in sorted(states[0] | states[1]) if states[0].get(k) != states[1].get(k))
        raise GankitError(
            f"{a} and {b} differ in {name!r} ({states[0].get(name)} and {states[1].get(name)}): "
            "they must have conditions of the same size"
        )
    return first, second


def _shapes(state: dict[str, Tensor]) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in state.items()}


def _mix(
    first: dict[str, Tensor], second: dict[str, Tensor], share: Callable[[str], float]
) -> dict[str, Tensor]:
    mixed = {}
    for name, tensor in first.items():
        weight = share(name)
        if tensor.is_floating_point() and 0 < weight < 1:
            mixed[name] = tensor.lerp(second[name].to(tensor.dtype), weight)
        else:
            mixed[name] = second[name] if weight >= 0.5 else tensor
    return mixed


def _write(
    out: Path, base: Model, first: Model, second: Model, share: Callable[[str], float], description: str
) -> None:
    mine, theirs = (stored_state.stored_state(model.generator) for model in (first, second))
    recipe = base.recipe.model_copy(update={"name": out.name, "description": description})
    with folders.FolderWriter(out) as folder:
        model_folder.save_model(
            folder,
            recipe,
            base.conditioner,
            base.generator,
            weights=_mix(mine, theirs, share),
            nimg=max(first.nimg, second.nimg),
            encoders=base.conditioner.identity(),
        )
