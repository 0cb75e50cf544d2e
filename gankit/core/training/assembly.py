"""Builds the networks, losses, regularizers and augmentation of a recipe, or rehearses that on the meta device."""

from __future__ import annotations

import copy
import hashlib
import json

import torch

from gankit.core.config import compatibility, options
from gankit.core.config.recipe import Recipe
from gankit.core.interfaces.conditions import Conditioner
from gankit.core.interfaces.data import Source
from gankit.core.interfaces.labels import COMMON, Vocabulary, plain
from gankit.core.interfaces.training import Augmentation
from gankit.core.models import build, stored_state
from gankit.core.training.footprint import META
from gankit.core.training.phases import Parts
from gankit.core.training.scheduling import Schedules
from gankit.errors import GankitError


def build_augmentation(recipe: Recipe) -> Augmentation | None:
    """The augmentation of a recipe, or None. Raises GankitError if it does not accept the recipe's channel count."""
    if recipe.augmentation is None:
        return None
    augmentation: Augmentation = options.build("augmentation", recipe.augmentation, recipe.image_shape)
    if recipe.data.channels not in augmentation.channels:
        raise GankitError(
            f"augmentation {recipe.augmentation['name']!r} accepts images of {augmentation.channels} channels, "
            f"not {recipe.data.channels}; set data.channels or another augmentation"
        )
    return augmentation


def build_parts(recipe: Recipe, conditioner: Conditioner, device: torch.device) -> Parts:
    """Networks, losses, regularizers, guidance and augmentation of a recipe on a device.

    Raises GankitError if plugins cannot work together, before anything is built."""
    compatibility.check(recipe, conditioner)
    augmentation = build_augmentation(recipe)
    d_conditioner = None
    if recipe.train.judge_condition == "pretrained" and stored_state.stored_state(conditioner):
        d_conditioner = copy.deepcopy(conditioner).requires_grad_(False).to(device)
    G = build.build_generator(recipe, conditioner)
    D = build.channels_last(build.build_discriminator(recipe, conditioner), device).train()
    parts = Parts(
        G=build.channels_last(G, device).train(),
        D=D,
        conditioner=conditioner.to(device),
        loss=options.build("loss", recipe.loss),
        regularizers={
            name: build.build_regularizer(recipe, name, D, conditioner).to(device)
            for name in recipe.regularizers
        },
        guidance={
            name: options.build("guidance", {**spec, "name": name}).to(device)
            for name, spec in recipe.guidance.items()
        },
        augmentation=None if augmentation is None else augmentation.to(device),
        d_conditioner=d_conditioner,
    )
    for module in parts.modules().values():
        for network in stored_state.frozen_networks(module).values():
            network.eval().requires_grad_(False)  # whatever its constructor has left
    return parts


def rehearse(recipe: Recipe, vocabulary: Vocabulary, device: torch.device = META) -> Parts:
    """`build_parts` with a new conditioner, by default on the meta device, where weights take no memory.

    Raises GankitError for plugins that cannot work together, options that a constructor refuses, and schedules of
    options that cannot change; any exception, most often of `footprint.NEEDS_NUMBERS`, for a plugin that does not work
    on the meta device.
    """
    augmentation = build_augmentation(recipe)  # on the CPU: its constructor reads values; it is not run here
    with device:
        conditioner = build.build_conditioner(recipe, vocabulary)
        parts = build_parts(recipe.model_copy(update={"augmentation": None}), conditioner, device)
    parts.augmentation = augmentation
    Schedules(recipe, recipe.train.model_copy(), parts)
    return parts


def check_stages(recipe: Recipe, vocabulary: Vocabulary, first: int = 0) -> None:
    """Rehearse every stage of a run from index `first` on, so that a mistake in the last one shows before training.

    Raises GankitError naming the stage."""
    for index in range(first, len(recipe.stages) or 1):
        try:
            rehearse(recipe.at_stage(index), vocabulary)
        except GankitError as error:
            if not recipe.stages:
                raise
            raise GankitError(f"stages.{index}: {error}") from None
        except Exception:  # a plugin does not work on the meta device; its mistakes show when it is built
            continue


def check_labels(source: Source, conditioner: Conditioner) -> str:
    """Check the fields of all labels that are the conditioner's own, and return a hash of them; '' if it has none.

    Values in fields that nobody accepts may be anything. Raises GankitError naming an image whose value cannot be
    stored (see `plain`) or is refused by the conditioner."""
    own = sorted(conditioner.accepts - COMMON.keys())
    if not own:
        return ""
    digest = hashlib.blake2b(digest_size=16)
    for index in range(len(source)):
        label = source.label(index)
        given = {field: label.fields[field] for field in own if field in label.fields}
        try:
            for field, value in given.items():
                try:
                    given[field] = plain(value)
                except ValueError as error:
                    raise GankitError(f"{field!r} must be {error}") from None
            conditioner.check(label)
        except GankitError as error:
            raise GankitError(f"{source.name(index)}: {error}") from None
        digest.update(json.dumps(given, sort_keys=True).encode())
    return digest.hexdigest()
