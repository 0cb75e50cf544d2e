"""Model folders without a training: networks of random weights, whose images depend on all of their inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from gankit.core.config import options
from gankit.core.config import recipe as recipes
from gankit.core.interfaces.labels import Vocabulary
from gankit.core.models import build, model_folder
from gankit.testing.common import perturb

GENERATORS: dict[str, dict[str, Any]] = {
    "stylegan2": {"z_dim": 8, "w_dim": 8, "mapping_layers": 2, "channel_base": 128, "channel_max": 8},
    "stylegan-t": {"z_dim": 8, "cond_dim": 8, "channel_base": 128, "channel_max": 8, "num_res_blocks": 1},
}


def write_model(folder: Path, generator: str = "stylegan2", *, size: str = "8x16", cls: bool = True) -> Path:
    """A model of 8 x 16 pixels with the classes round and square, or none."""
    overrides = {
        "data.path": "",
        "data.size": size,
        "generator": {"name": generator, **GENERATORS.get(generator, {})},
        "conditioner": "class" if cls else "none",
    }
    recipe = recipes.read("stylegan2", overrides)
    vocabulary = Vocabulary(classes={"round": 3, "square": 2}, total=5)
    conditioner = build.build_conditioner(recipe, vocabulary)
    network = perturb(build.build_generator(recipe, conditioner), 0.3)
    with torch.no_grad():  # a running mean that is neither zero nor that of the condition
        for name in ("w_avg", "x_avg"):
            if hasattr(network.mapping, name):
                getattr(network.mapping, name).normal_(0, 0.3, generator=torch.Generator().manual_seed(0))
    folder.mkdir(parents=True)
    model_folder.save_model(folder, recipe, conditioner, network, nimg=5, encoders=conditioner.identity())
    return folder


def write_models(root: Path) -> dict[tuple[str, bool], Path]:
    """Models by (generator, conditional)."""
    wanted = [("stylegan2", True), ("stylegan2", False), ("stylegan-t", True)]
    return {(name, cls): write_model(root / f"{name}-{cls}", name, cls=cls) for name, cls in wanted}


def opener(format_: str) -> Any:
    """The exporter of a format; skips the test where its packages are missing."""
    exporter = options.build("exporter", format_)
    if reason := exporter.obstacle():
        pytest.skip(reason)
    return exporter
