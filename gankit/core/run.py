"""A run on disk: everything that training needs to continue, saved and restored exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gankit.core import checkpoint, distributed, models
from gankit.core.labels import Vocabulary
from gankit.core.recipe import Recipe
from gankit.core.step import Stepper
from gankit.errors import GankitError


def save_checkpoint(run: Path, recipe: Recipe, stepper: Stepper, fingerprint: str, keep: int) -> Path:
    """Write checkpoints/NNN, then delete the oldest. Collective: every process must call it."""
    parts = stepper.parts
    distributed.average_buffers([parts.G, parts.D, stepper.G_ema])
    final = run / "checkpoints" / f"{stepper.nimg:09d}"
    if stepper.world.main:
        with checkpoint.FolderWriter(final) as folder:
            models.save_model(
                folder,
                recipe,
                stepper.conditioner_ema,
                checkpoint.stored_state(stepper.G_ema),
                nimg=stepper.nimg,
            )
            training = folder / "training"
            training.mkdir()
            for name, module in _modules(stepper).items():
                checkpoint.save_tensors(training / f"{name}.safetensors", checkpoint.stored_state(module))
            for name, optimizer in (("optimizer_g", stepper.opt_g), ("optimizer_d", stepper.opt_d)):
                checkpoint.save_tensors(
                    training / f"{name}.safetensors", checkpoint.optimizer_state(optimizer)
                )
            state = {
                "format": 1,
                "nimg": stepper.nimg,
                "step": stepper.step,
                "signs": stepper.signs.tolist(),
                "bad_total": stepper.bad_total,
                "data": fingerprint,
                "frozen": _frozen(stepper),
                "files": {f.name: checkpoint.digest(f) for f in sorted(training.iterdir())},
            }
            checkpoint.write_text(training / "state.json", json.dumps(state, indent=1))
        checkpoint.prune(run, keep)
    distributed.barrier()
    return final


def restore(folder: Path, stepper: Stepper, fingerprint: str) -> None:
    """Continue from a checkpoint. Raises GankitError if it is damaged or belongs to other data or networks."""
    training = folder / "training"
    state = checkpoint.read_json(training / "state.json")
    if state.get("format") != 1:
        raise GankitError(
            f"{training} is of format {state.get('format')!r}; continue with the gankit that wrote it"
        )
    for name, digest in state["files"].items():
        if not (training / name).is_file() or checkpoint.digest(training / name) != digest:
            raise GankitError(
                f"{training / name} is damaged or incomplete; delete {folder} to continue from an earlier checkpoint"
            )
    if state["data"] != fingerprint:
        raise GankitError(
            "the data set has changed since this run began, so it cannot continue exactly; "
            f"restore the data, or start a new run with --init {folder.parent.parent}"
        )
    for path, identity in state["frozen"].items():
        now = _frozen(stepper).get(path)
        if now != identity:
            raise GankitError(
                f"the frozen network {identity['name']!r} ({path}) has other weights than in this run; "
                "install the package or file that it was started with"
            )
    for name, module in _modules(stepper).items():
        path = training / f"{name}.safetensors"
        checkpoint.load_stored(module, checkpoint.load_tensors(path)[0], path)
    for name, optimizer in (("optimizer_g", stepper.opt_g), ("optimizer_d", stepper.opt_d)):
        path = training / f"{name}.safetensors"
        checkpoint.load_optimizer(optimizer, checkpoint.load_tensors(path)[0], path)
    path = folder / "generator.safetensors"
    checkpoint.load_stored(stepper.G_ema, checkpoint.load_tensors(path)[0], path)
    if stepper.conditioner_params:
        path = folder / "conditioner.safetensors"
        checkpoint.load_stored(stepper.conditioner_ema, checkpoint.load_tensors(path)[0], path)
    stepper.nimg, stepper.step, stepper.bad_total = state["nimg"], state["step"], state["bad_total"]
    stepper.signs = torch.tensor(state["signs"], dtype=torch.float64)


def saved_vocabulary(folder: Path) -> Vocabulary:
    return Vocabulary.from_json(checkpoint.read_json(folder / "conditioner.json")["vocabulary"])


def _modules(stepper: Stepper) -> dict[str, nn.Module]:
    modules: dict[str, nn.Module] = {"generator": stepper.parts.G, "discriminator": stepper.parts.D}
    if stepper.conditioner_params:
        modules["conditioner"] = stepper.parts.conditioner
    for name, module in stepper.parts.stateful().items():
        if module.state_dict():
            modules[name] = module
    return modules


def _frozen(stepper: Stepper) -> dict[str, Any]:
    found = {}
    for name, module in (("generator", stepper.parts.G), ("discriminator", stepper.parts.D)):
        for path, network in checkpoint.frozen_networks(module).items():
            found[f"{name}.{path}"] = network.identity()
    return found
