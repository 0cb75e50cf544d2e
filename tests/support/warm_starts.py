"""Networks started from a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gankit.core.config import recipe as recipes
from gankit.core.interfaces.labels import Vocabulary
from gankit.core.interfaces.networks import Discriminator, Generator
from gankit.core.models import build, model_folder, warm_start
from gankit.core.models.model_folder import Model


def start(
    folder: Path, vocabulary: Vocabulary | None = None, **changes: Any
) -> tuple[Model, Generator, Discriminator, Any, str]:
    """Networks of the model's recipe with changes, started from the model."""
    page, origin = recipes.read_page(str(folder / "recipe.yaml"))
    for key, value in changes.items():
        recipes.override(page, key.replace("__", "."), value)
    recipe = recipes.parse(page, origin)
    conditioner = build.build_conditioner(recipe, vocabulary or Vocabulary())
    G, D = build.build_generator(recipe, conditioner), build.build_discriminator(recipe, conditioner)
    lines = warm_start.start_from("the model", folder, recipe, conditioner, G, D)
    return model_folder.load_model(folder), G, D, conditioner, "\n".join(lines)
