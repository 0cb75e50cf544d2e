"""Builds the networks of a recipe, with initial weights that depend on its seed alone."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

from gankit.core.config import options
from gankit.core.config.model_recipe import ModelRecipe
from gankit.core.config.recipe import Recipe
from gankit.core.interfaces import contracts
from gankit.core.interfaces.conditions import Conditioner
from gankit.core.interfaces.labels import Vocabulary
from gankit.core.interfaces.networks import Discriminator, Generator
from gankit.core.interfaces.training import Regularizer
from gankit.errors import GankitError


def build_conditioner(recipe: ModelRecipe, vocabulary: Vocabulary) -> Conditioner:
    conditioner: Conditioner = options.build("conditioner", recipe.conditioner)
    conditioner.set_vocabulary(vocabulary)
    contracts.with_vocabulary(conditioner)
    return conditioner


def build_generator(recipe: ModelRecipe, conditioner: Conditioner) -> Generator:
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
    """A regularizer of the recipe after `set_up`; D and the conditioner must be on the device of training already."""

    def make() -> Regularizer:
        regularizer: Regularizer = options.build("regularizer", {**recipe.regularizers[name], "name": name})
        if regularizer.side == "both" and regularizer.interval != 1:
            raise GankitError(
                f"regularizer '{name}' acts on both networks and has interval {regularizer.interval}; a lazy step "
                "belongs to one network's optimizer, so that interval must be 1"
            )
        regularizer.set_up(D, conditioner, recipe.image_shape)
        return regularizer

    return _seeded(recipe, 3, make)


def _seeded(recipe: ModelRecipe, offset: int, make: Any) -> Any:
    """Call `make` with torch's global generator seeded by the recipe's seed and `offset`, and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed * 1000 + offset)
        return make()


Network = TypeVar("Network", bound=nn.Module)


def channels_last(module: Network, device: torch.device) -> Network:
    """Move a network to a device, convolution weights in channels-last format (not on MPS).

    Channels-last is twice as fast on CPUs and on tensor cores."""
    if device.type == "mps":
        return module.to(device)
    return module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def for_sampling(generator: Generator, device: torch.device) -> Generator:
    """Move a generator to a device like `channels_last`, but on a CPU leave the weights of modules with `any_layout` as
    they are: operators reorder those themselves (see `gankit.core.cuda.ConstantWeights`)."""
    if device.type != "cpu":
        return channels_last(generator, device)
    for module in generator.modules():
        if not getattr(module, "any_layout", False):
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                if tensor.dim() == 4:
                    tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return generator.to(device)
