"""Conformance checks of recipes, trained models and commands of a package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import yaml

from gankit.core.config import recipe as recipes
from gankit.core.models import model_folder
from gankit.interop.find_model import find_model
from gankit.sampling.pipeline import Pipeline
from gankit.testing.common import Subject


def check_recipe_page(subject: Subject) -> None:
    """All keys and plugins of the recipe are known; what a run writes reads back as the same recipe."""
    page, origin = recipes.read_page(subject.name)
    assert page.get("gankit") == recipes.VERSION, f"{origin} does not say `gankit: {recipes.VERSION}`"
    assert page.get("name") == subject.name, f"{origin} calls itself {page.get('name')!r}"
    assert str(page.get("description", "")).strip(), f"{origin} has no description"
    recipe = recipes.parse(page, origin)
    written = yaml.safe_load(recipe.to_yaml())
    assert recipes.parse(written, "the written page") == recipe, (
        f"{origin} changes when it is written and read"
    )
    if page.get("tiny"):
        recipes.read(subject.name, tiny=True)


def check_model_draws(subject: Subject) -> None:
    """The model's folder is complete, and an image can be drawn from it."""
    folder = find_model(subject.name)
    missing = [
        name
        for name in ("recipe.yaml", "generator.safetensors", "conditioner.json")
        if not (Path(folder) / name).is_file()
    ]
    assert not missing, f"{subject}: {folder} lacks {', '.join(missing)}"
    model = model_folder.load_model(folder)
    (image,) = Pipeline(model, torch.device("cpu"))(seeds=[0])
    _, height, width = model.recipe.image_shape
    assert image.size == (width, height), f"{subject}: a picture of {image.size}, not {(width, height)}"


def check_command_target(subject: Subject) -> None:
    """The target is a Typer application or a function."""
    import typer

    target = subject.target
    assert isinstance(target, typer.Typer) or callable(target), (
        f"{subject}: the target is {type(target).__name__}, neither a typer.Typer nor a function"
    )


CHECKS: dict[str, list[Callable[[Subject], None]]] = {
    "recipe": [check_recipe_page],
    "model": [check_model_draws],
    "command": [check_command_target],
}
