"""A run on disk: everything that training needs to continue, saved and restored exactly."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from gankit.core.checkpoints import folders
from gankit.core.config import recipe as recipes
from gankit.core.config.recipe import Recipe
from gankit.core.interfaces.conditions import Conditioner
from gankit.core.models import model_folder, stored_state
from gankit.core.runtime import distributed, tensor_files
from gankit.core.runtime.tensor_files import sha256_of
from gankit.core.training import run_folder
from gankit.core.training.step import Stepper
from gankit.errors import GankitError

STATE = "training/state.json"
FORMAT = 1  # of that file and of the next
SNAPSHOTS, SNAPSHOT = "posthoc", "posthoc.json"


def ties(fingerprint: str, stepper: Stepper) -> dict[str, Any]:
    """Fingerprint of the data, hashes of frozen networks and encoders: what a run depends on without storing it."""
    parts = stepper.parts
    frozen = {}
    for name, module in {"generator": parts.G, "discriminator": parts.D, **parts.guidance}.items():
        for path, network in stored_state.frozen_networks(module).items():
            frozen[f"{name}.{path}"] = network.identity()
    if parts.d_conditioner is not None:
        frozen["conditioner"] = {
            "name": "encoder",
            "sha256": sha256_of(stored_state.stored_state(parts.d_conditioner)),
        }
    return {"data": fingerprint, "frozen": frozen, "encoders": parts.conditioner.identity()}


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
        with folders.FolderWriter(final) as folder:
            files = model_folder.save_model(
                folder,
                recipe,
                stepper.conditioner_ema,
                stored_state.stored_state(stepper.G_ema),
                nimg=stepper.nimg,
                encoders=ties["encoders"],
            )
            (folder / "training").mkdir()
            for name, tensors in _training_state(stepper).items():
                files[name] = tensor_files.save_tensors(folder / name, tensors)
            state = {
                "format": FORMAT,
                "nimg": stepper.nimg,
                "step": stepper.step,
                "signs": stepper.signs.tolist(),
                "bad_total": stepper.bad_total,
                "stage": stage,
                "stage_over": stage_over,
                "stage_start": stepper.stage_start,
                "posthoc_start": stepper.posthoc.start,
                "op_backends": op_backends,
                "files": files,
                **ties,
            }
            tensor_files.write_json(folder / STATE, state)
        folders.prune(run, keep, spared)
    distributed.barrier()
    return final


def save_snapshots(run: Path, recipe: Recipe, stepper: Stepper, ties: dict[str, Any]) -> None:
    """Write posthoc/NNN-LENGTH, a model folder for each of the averages that `gankit ema` works on."""
    if not stepper.world.main:
        return
    for length, networks in stepper.posthoc.averages.items():
        with folders.FolderWriter(run / SNAPSHOTS / f"{stepper.nimg:09d}-{length:g}") as folder:
            model_folder.save_model(
                folder,
                recipe,
                cast(Conditioner, networks.get("conditioner", stepper.parts.conditioner)),
                stored_state.stored_state(networks["generator"]),
                nimg=stepper.nimg,
                encoders=ties["encoders"],
            )
            page = {"format": FORMAT, "nimg": stepper.nimg, "length": length, "start": stepper.posthoc.start}
            tensor_files.write_json(folder / SNAPSHOT, page)


def restore(folder: Path, recipe: Recipe, stepper: Stepper, ties: dict[str, Any]) -> dict[str, str] | None:
    """Load a checkpoint into the stepper. Returns the op backends that it was computed with, None in older checkpoints.

    Raises GankitError if it is damaged or belongs to another recipe, other data or other networks.
    """
    state = tensor_files.read_json(folder / STATE, FORMAT)
    differences = recipes.read(str(folder / "recipe.yaml")).differences(recipe)
    if differences:
        raise GankitError(f"the checkpoint {folder} is of another recipe: {'; '.join(differences[:12])}")
    # a run from before fields of labels were read has a fingerprint without them, which they follow after a dot
    if state["data"] not in (ties["data"], ties["data"].partition(".")[0]):
        raise GankitError(
            "the data set has changed since this run began, so it cannot continue exactly; "
            f"restore the data, or start a new run with --init {folder.parent.parent}"
        )
    for path, identity in state["frozen"].items():
        if ties["frozen"].get(path) != identity:
            raise GankitError(
                f"the frozen network {identity['name']!r} ({path}) has other weights than in this run; "
                "install the package or file that it was started with"
            )
    if state["encoders"] != ties["encoders"]:
        raise GankitError(model_folder.OTHER_ENCODER.format(folder))
    files = {
        name: tensor_files.load_tensors(folder / name, checksum)[0]
        for name, checksum in state["files"].items()
    }

    def take(name: str) -> dict[str, torch.Tensor]:
        if name not in files:
            raise GankitError(
                f"{folder} lacks {name}: it was written with other plugins; continue with those"
            )
        return files[name]

    for name, module in _modules(stepper).items():
        stored_state.load_stored(module, take(name), folder / name)
    for name, optimizer in _optimizers(stepper).items():
        run_folder.load_optimizer(optimizer, take(name), folder / name)
    stepper.nimg, stepper.step, stepper.bad_total = state["nimg"], state["step"], state["bad_total"]
    stepper.signs = torch.tensor(state["signs"], dtype=torch.float64)
    stepper.stage_start = state.get("stage_start", 0)
    stepper.posthoc.start = state.get("posthoc_start", 0)
    backends: dict[str, str] | None = state.get("op_backends")
    return backends


def _modules(stepper: Stepper) -> dict[str, nn.Module]:
    """Modules with parameters or state by file name, the averages in the model's own files included."""
    modules: dict[str, nn.Module] = {
        "generator.safetensors": stepper.G_ema,
        "training/generator.safetensors": stepper.parts.G,
        "training/discriminator.safetensors": stepper.parts.D,
    }
    if stored_state.stored_state(stepper.conditioner_ema):  # trained now, or in an earlier stage
        modules["conditioner.safetensors"] = stepper.conditioner_ema
    if stepper.conditioner_params:
        modules["training/conditioner.safetensors"] = stepper.parts.conditioner
    for name, module in {**stepper.parts.stateful(), **stepper.posthoc.modules()}.items():
        if module.state_dict():
            modules[f"training/{name}.safetensors"] = module
    return modules


def _optimizers(stepper: Stepper) -> dict[str, torch.optim.Optimizer]:
    return {
        "training/optimizer_g.safetensors": stepper.opt_g,
        "training/optimizer_d.safetensors": stepper.opt_d,
    }


def _training_state(stepper: Stepper) -> dict[str, dict[str, torch.Tensor]]:
    """Tensors by file name, without the model's own."""
    tensors = {
        name: stored_state.stored_state(module)
        for name, module in _modules(stepper).items()
        if name.startswith("training/")
    }
    return tensors | {name: run_folder.optimizer_state(o) for name, o in _optimizers(stepper).items()}


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State tensors of an optimizer as 'index.key'; hyper-parameters come from the recipe."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{k}": torch.as_tensor(v) for i, entry in state.items() for k, v in entry.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], origin: Path) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        if not index.isdigit() or int(index) >= len(parameters):
            raise GankitError(
                f"{origin} does not fit this run's optimiser (entry {name!r}); use --init instead"
            )
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape:
            slot = torch.empty_like(parameter, requires_grad=False)  # keeps the parameter's memory format
            optimizer.state[parameter][key] = slot.copy_(tensor)
        else:
            fused = optimizer.defaults.get("fused")  # keeps its step counters on the parameters' device
            optimizer.state[parameter][key] = tensor.to(parameter.device if fused else "cpu", copy=True)
