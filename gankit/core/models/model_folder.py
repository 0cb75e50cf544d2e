"""Saving and loading of model folders: recipe, generator and conditioner.

A model folder holds `recipe.yaml`, `generator.safetensors` (EMA weights), `conditioner.json` and, if the conditioner
was trained, `conditioner.safetensors`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gankit._version import __version__
from gankit.core.config import recipe as recipes
from gankit.core.config.recipe import Recipe
from gankit.core.config.registry import registry
from gankit.core.interfaces.conditions import Conditioner
from gankit.core.interfaces.labels import Vocabulary
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
    """A model as sampling needs it: recipe, conditioner, generator, and the number of images trained."""

    recipe: Recipe
    conditioner: Conditioner
    generator: Generator
    nimg: int = 0


def save_model(
    folder: Path,
    recipe: Recipe,
    conditioner: Conditioner,
    generator_state: dict[str, Tensor],
    *,
    nimg: int,
    encoders: dict[str, str],
    dtype: torch.dtype | None = None,
) -> dict[str, str]:
    """Write a model into an existing folder.

    Args:
        folder: existing folder to write to.
        recipe: recipe of the run.
        conditioner: conditioner; its vocabulary and trained weights are saved.
        generator_state: the generator's `stored_state`.
        nimg: number of images that the model was trained on.
        encoders: `conditioner.identity()`, passed in because it is slow to compute.
        dtype: dtype in which floating-point weights are stored; None keeps theirs.

    Returns the checksums of the tensor files by file name."""

    def narrow(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if dtype is None:
            return tensors
        return {k: t.to(dtype) if t.is_floating_point() else t for k, t in tensors.items()}

    plugin = registry().get("generator", recipe.generator["name"])
    metadata = {
        "gankit": {
            "version": __version__,
            "generator": recipe.generator,
            "image_shape": recipe.image_shape,
            "cond": {"c_dim": conditioner.spec.c_dim, "token_dim": conditioner.spec.token_dim},
            "package": plugin.package,
            "package_version": plugin.version,
            "images": nimg,
        }
    }
    tensor_files.write_text(folder / "recipe.yaml", recipe.to_yaml())
    name = "generator.safetensors"
    checksums = {name: tensor_files.save_tensors(folder / name, narrow(generator_state), metadata)}
    trained = stored_state.stored_state(conditioner)
    page = {
        "format": FORMAT,
        "vocabulary": conditioner.vocabulary().to_json(),
        "trained": bool(trained),
        "encoders": encoders,
    }
    tensor_files.write_json(folder / "conditioner.json", page)
    if trained:
        name = "conditioner.safetensors"
        checksums[name] = tensor_files.save_tensors(folder / name, narrow(trained))
    return checksums


def load_model(folder: Path) -> Model:
    """Read a model folder or checkpoint.

    Raises GankitError if it is damaged, of another version, or was trained with other text encoders."""
    page, origin = recipes.read_page(str(folder / "recipe.yaml"))
    recipe = recipes.parse(page, origin)
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
    # not on Windows, where a mapped file cannot be replaced, as training does
    stored_state.load_stored(generator, tensors, path, adopt=os.name == "posix")
    return Model(recipe, conditioner, generator, int(metadata.get("gankit", {}).get("images", 0)))


def read_vocabulary(folder: Path) -> Vocabulary:
    """The vocabulary of a model folder or checkpoint."""
    return Vocabulary.from_json(tensor_files.read_json(folder / "conditioner.json", FORMAT)["vocabulary"])
