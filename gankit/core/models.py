"""From a recipe to networks, and from networks to model folders."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

import gankit
from gankit.core import checkpoint, options
from gankit.core import recipe as recipes
from gankit.core.interfaces import Conditioner, CondSpec, Discriminator, Generator, Regularizer
from gankit.core.labels import Vocabulary
from gankit.core.plugins import registry
from gankit.core.recipe import Recipe
from gankit.core.transfer import Transfer, condition_axes, match, transfer
from gankit.core.weights import filled_later
from gankit.errors import GankitError

FORMAT = 1  # of conditioner.json
OTHER_ENCODER = (
    "{} was trained with another text encoder than the one found here; install the package or file that it was "
    "trained with"
)


def build_conditioner(recipe: Recipe, vocabulary: Vocabulary) -> Conditioner:
    conditioner: Conditioner = options.build("conditioner", recipe.conditioner)
    conditioner.set_vocabulary(vocabulary)
    return conditioner


def build_generator(recipe: Recipe, conditioner: Conditioner) -> Generator:
    return _seeded(
        recipe, 1, lambda: options.build("generator", recipe.generator, recipe.image_shape, conditioner.spec)
    )


def build_discriminator(recipe: Recipe, conditioner: Conditioner) -> Discriminator:
    return _seeded(
        recipe,
        2,
        lambda: options.build("discriminator", recipe.discriminator, recipe.image_shape, conditioner.spec),
    )


def build_regularizer(recipe: Recipe, name: str, D: Discriminator, conditioner: Conditioner) -> Regularizer:
    """A regularizer of the recipe, set up for networks that are where they will be trained."""

    def make() -> Regularizer:
        regularizer: Regularizer = options.build("regularizer", {**recipe.regularizers[name], "name": name})
        if regularizer.side == "both" and regularizer.interval != 1:
            raise GankitError(
                f"regularizer '{name}' acts on both networks and has interval {regularizer.interval}; a lazy step "
                "belongs to one network's optimiser, so that interval must be 1"
            )
        regularizer.set_up(D, conditioner, recipe.image_shape)
        return regularizer

    return _seeded(recipe, 3, make)


def _seeded(recipe: Recipe, offset: int, make: Any) -> Any:
    """Initial weights depend on the recipe's seed only, not on what ran before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.train.seed * 1000 + offset)
        return make()


Network = TypeVar("Network", bound=nn.Module)


def channels_last(module: Network, device: torch.device) -> Network:
    """Move a network; convolution weights go channels-last, which is twice as fast on CPUs and on tensor cores."""
    if device.type == "mps":
        return module.to(device)
    return module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def for_sampling(generator: Generator, device: torch.device) -> Generator:
    """As `channels_last`, but on a CPU weights stay where they are if they are `any_layout`, as their module says: the
    operators bring them into their own order (see `gankit.core.cuda.ConstantWeights`)."""
    if device.type != "cpu":
        return channels_last(generator, device)
    for module in generator.modules():
        if not getattr(module, "any_layout", False):
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                if tensor.dim() == 4:
                    tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return generator.to(device)


# --------------------------------------------------------------------------------------------- model folders


@dataclass
class Model:
    """What sampling needs."""

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
        folder: where to.
        recipe: of the run.
        conditioner: whose vocabulary and trained weights are saved.
        generator_state: its tensors.
        nimg: images that it was trained on.
        encoders: `conditioner.identity()`, which is costly.
        dtype: stores floating-point weights narrower.

    Returns the checksums of its tensor files by name."""

    def narrow(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if dtype is None:
            return tensors
        return {k: t.to(dtype) if t.is_floating_point() else t for k, t in tensors.items()}

    plugin = registry().get("generator", recipe.generator["name"])
    metadata = {
        "gankit": {
            "version": gankit.__version__,
            "generator": recipe.generator,
            "image_shape": recipe.image_shape,
            "cond": {"c_dim": conditioner.spec.c_dim, "token_dim": conditioner.spec.token_dim},
            "package": plugin.package,
            "package_version": plugin.version,
            "images": nimg,
        }
    }
    checkpoint.write_text(folder / "recipe.yaml", recipe.to_yaml())
    name = "generator.safetensors"
    checksums = {name: checkpoint.save_tensors(folder / name, narrow(generator_state), metadata)}
    trained = checkpoint.stored_state(conditioner)
    page = {
        "format": FORMAT,
        "vocabulary": conditioner.vocabulary().to_json(),
        "trained": bool(trained),
        "encoders": encoders,
    }
    checkpoint.write_json(folder / "conditioner.json", page)
    if trained:
        name = "conditioner.safetensors"
        checksums[name] = checkpoint.save_tensors(folder / name, narrow(trained))
    return checksums


def load_model(folder: Path) -> Model:
    """Read a model folder (or checkpoint). Raises GankitError for a damaged one or one of another version."""
    page, origin = recipes.read_page(str(folder / "recipe.yaml"))
    recipe = recipes.parse(page, origin)
    conditioner_page = checkpoint.read_json(folder / "conditioner.json", FORMAT)
    conditioner = build_conditioner(recipe, Vocabulary.from_json(conditioner_page["vocabulary"]))
    if conditioner.identity() != conditioner_page.get("encoders", {}):
        raise GankitError(OTHER_ENCODER.format(folder))
    if conditioner_page["trained"]:
        path = folder / "conditioner.safetensors"
        checkpoint.load_stored(conditioner, checkpoint.load_tensors(path)[0], path)
    path = folder / "generator.safetensors"
    tensors, metadata = checkpoint.load_tensors(path)
    with filled_later():
        generator = build_generator(recipe, conditioner)
    # elsewhere than on POSIX, a file that is in use cannot be replaced, as a training would
    checkpoint.load_stored(generator, tensors, path, adopt=os.name == "posix")
    return Model(recipe, conditioner, generator, int(metadata.get("gankit", {}).get("images", 0)))


# ------------------------------------------------------------------------------------- starting from a model


def start_from(
    init: str | Path, folder: Path, recipe: Recipe, conditioner: Conditioner, G: Generator, D: Discriminator
) -> list[str]:
    """Take weights from a model for networks that are about to be trained; returns what was done, for the user.

    Args:
        init: the model as the user named it.
        folder: of that model.
        recipe: of the new networks.
        conditioner: new, with its vocabulary.
        G: the new generator, changed in place.
        D: the new discriminator, changed in place if the model has one.
    """
    lines = []
    try:
        old = build_conditioner(recipes.read(str(folder / "recipe.yaml")), read_vocabulary(folder))
        columns = match(old.columns(), conditioner.columns())
    except GankitError as error:  # such as a text encoder that is not here
        lines.append(f"conditions of {init} cannot be matched: {error}")
        columns = match([], conditioner.columns())
    if columns.source:
        lines.append(f"condition from {init}: {columns}")
    sources: list[tuple[str, nn.Module, Path]] = [
        ("conditioner", conditioner, folder / "conditioner.safetensors"),
        ("generator", G, folder / "generator.safetensors"),
        ("discriminator", D, folder / "training" / "discriminator.safetensors"),
    ]
    for kind, module, path in sources:
        if not path.is_file() or not checkpoint.stored_state(module):
            continue
        axes = {} if kind == "conditioner" else _axes(kind, recipe, conditioner.spec)
        done = transfer(module, checkpoint.load_tensors(path)[0], axes=axes, columns=columns)
        lines.append(f"{kind} from {init}: {done}")
    return lines


def copy_weights(
    kind: str,
    source: nn.Module,
    target: nn.Module,
    recipe: Recipe,
    old_columns: list[tuple[str, str]],
    conditioner: Conditioner,
) -> Transfer | None:
    """Take weights from a network in memory, as `start_from` does from a model; None if there are none to take.

    Args:
        kind: 'generator', 'discriminator' or 'conditioner'.
        source: the old network.
        target: the new one, changed in place.
        recipe: of the new one.
        old_columns: of the condition of the old one.
        conditioner: of the new one.
    """
    tensors = checkpoint.stored_state(source)
    if not tensors or not checkpoint.stored_state(target):
        return None
    columns = match(old_columns, conditioner.columns())
    axes = {} if kind == "conditioner" or columns.identical else _axes(kind, recipe, conditioner.spec)
    return transfer(target, tensors, axes=axes, columns=columns)


def _axes(kind: str, recipe: Recipe, spec: CondSpec) -> dict[str, int]:
    section = getattr(recipe, kind)
    return condition_axes(lambda other: options.build(kind, section, recipe.image_shape, other), spec)


def read_vocabulary(folder: Path) -> Vocabulary:
    """The vocabulary of a model folder or checkpoint."""
    return Vocabulary.from_json(checkpoint.read_json(folder / "conditioner.json", FORMAT)["vocabulary"])
