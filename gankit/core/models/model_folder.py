"""Saving and loading of model folders: recipe, generator and conditioner.

A model folder holds `recipe.yaml`, `generator.safetensors` (EMA weights), `conditioner.json` and, if the conditioner
was trained, `conditioner.safetensors`. What a model takes stands in the metadata of the generator and in
`conditioner.json`, so that it can be told without building anything (`gankit inspect --json`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gankit._version import __version__
from gankit.core.config import model_recipe, packages
from gankit.core.config.model_recipe import ModelRecipe
from gankit.core.config.recipe import read_page
from gankit.core.interfaces.conditions import Conditioner
from gankit.core.interfaces.labels import Vocabulary, plain
from gankit.core.interfaces.networks import Generator
from gankit.core.models import stored_state
from gankit.core.models.build import build_conditioner, build_generator
from gankit.core.models.pretrained import filled_later
from gankit.core.runtime import tensor_files
from gankit.errors import GankitError

FORMAT = 1  # of conditioner.json
OTHER_ENCODER = (
    "{} was trained with another text encoder than the one found here; install the package or file that it was "
    "trained with"
)


@dataclass
class Model:
    """A model as sampling needs it: recipe, conditioner, generator, and the number of images trained.

    The recipe of a loaded model is read only as far as drawing needs it; see `ModelRecipe`."""

    recipe: ModelRecipe
    conditioner: Conditioner
    generator: Generator
    nimg: int = 0


def save_model(
    folder: Path,
    recipe: ModelRecipe,
    conditioner: Conditioner,
    generator: Generator,
    *,
    nimg: int,
    encoders: dict[str, str],
    weights: dict[str, Tensor] | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, str]:
    """Write a model into an existing folder.

    Args:
        folder: existing folder to write to.
        recipe: recipe of the run.
        conditioner: conditioner; its vocabulary and trained weights are saved.
        generator: the generator with EMA weights.
        nimg: number of images that the model was trained on.
        encoders: `conditioner.identity()`, passed in because it is slow to compute.
        weights: tensors to save in place of the generator's `stored_state`.
        dtype: dtype in which floating-point weights are stored; None keeps theirs.

    Returns the checksums of the tensor files by file name."""

    def narrow(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if dtype is None:
            return tensors
        return {k: t.to(dtype) if t.is_floating_point() else t for k, t in tensors.items()}

    metadata = {
        "gankit": {
            "version": __version__,
            "generator": recipe.generator,
            "image_shape": recipe.image_shape,
            "cond": {"c_dim": conditioner.spec.c_dim, "token_dim": conditioner.spec.token_dim},
            "latents": latents_of(generator),
            "packages": packages.used([("generator", recipe.generator), ("conditioner", recipe.conditioner)]),
            "frozen": frozen_in(generator),
            "images": nimg,
        }
    }
    weights = stored_state.stored_state(generator) if weights is None else weights
    tensor_files.write_text(folder / "recipe.yaml", recipe.to_yaml())
    name = "generator.safetensors"
    checksums = {name: tensor_files.save_tensors(folder / name, narrow(weights), metadata)}
    trained = stored_state.stored_state(conditioner)
    page = {
        "format": FORMAT,
        "vocabulary": conditioner.vocabulary().to_json(),
        "accepts": sorted(conditioner.accepts),
        "examples": examples_of(conditioner),
        "trained": bool(trained),
        "encoders": encoders,
    }
    tensor_files.write_json(folder / "conditioner.json", page)
    if trained:
        name = "conditioner.safetensors"
        checksums[name] = tensor_files.save_tensors(folder / name, narrow(trained))
    return checksums


def frozen_in(generator: Generator) -> dict[str, dict[str, str]]:
    """Name and hash of the pretrained networks inside a generator, by path.

    Those on the meta device have no weights to hash and are left out: a model that is imported there takes whatever
    weights are found when it is loaded."""
    found = {path: network.identity() for path, network in stored_state.frozen_networks(generator).items()}
    return {path: identity for path, identity in found.items() if identity["sha256"]}


def examples_of(conditioner: Conditioner) -> dict[str, list[Any]]:
    """Examples of values of the conditioner's own fields, by name."""
    return {name: plain(list(values)) for name, values in conditioner.examples().items()}


def latents_of(generator: Generator) -> dict[str, int]:
    """Sizes of a generator's latents: z [B, z_dim], ws [B, num_ws, w_dim]."""
    return {"z_dim": generator.z_dim, "w_dim": generator.w_dim, "num_ws": generator.num_ws}


def load_model(folder: Path) -> Model:
    """Read a model folder or checkpoint.

    Of the recipe's plugins only conditioner and generator need to be installed. Raises GankitError if the folder is
    damaged, of another version, or was trained with other text encoders."""
    recipe = read_recipe(folder)
    conditioner_page = tensor_files.read_json(folder / "conditioner.json", FORMAT)
    conditioner = build_conditioner(recipe, Vocabulary.from_json(conditioner_page["vocabulary"]))
    if conditioner.identity() != conditioner_page.get("encoders", {}):
        raise GankitError(OTHER_ENCODER.format(folder))
    if conditioner_page["trained"]:
        path = folder / "conditioner.safetensors"
        stored_state.load_stored(conditioner, tensor_files.load_tensors(path)[0], path)
    path = folder / "generator.safetensors"
    tensors, metadata = tensor_files.load_tensors(path)
    with filled_later():
        generator = build_generator(recipe, conditioner)
    recorded = metadata.get("gankit", {}).get("frozen", {})
    found = frozen_in(generator) if recorded else {}
    for place, identity in recorded.items():
        if found.get(place) != identity:
            raise GankitError(
                f"{path} was trained with other weights of the pretrained network {identity.get('name')!r} than those "
                "found here; install the package or file that it was trained with"
            )
    # not on Windows, where a mapped file cannot be replaced, as training does
    stored_state.load_stored(generator, tensors, path, adopt=os.name == "posix")
    return Model(recipe, conditioner, generator, int(metadata.get("gankit", {}).get("images", 0)))


def read_recipe(folder: Path) -> ModelRecipe:
    """The recipe of a model folder or checkpoint, as far as a model needs it."""
    return model_recipe.parse(*read_page(str(folder / "recipe.yaml")))


def read_vocabulary(folder: Path) -> Vocabulary:
    """The vocabulary of a model folder or checkpoint."""
    return Vocabulary.from_json(tensor_files.read_json(folder / "conditioner.json", FORMAT)["vocabulary"])
