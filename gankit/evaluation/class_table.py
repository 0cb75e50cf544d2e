"""`gankit class-table`: initial class embeddings for StyleGAN-XL (Sauer et al. 2022, section 3.1).

A class's row is the mean, over its images and all positions, of the coarsest feature map of a pretrained network.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gankit.core.config import options
from gankit.core.config.recipe import Recipe
from gankit.core.data.images import from_uint8
from gankit.core.data.loader import Batches, open_source
from gankit.core.interfaces.networks import FeatureNetwork
from gankit.core.models import build
from gankit.core.nn.rgb import entry_size
from gankit.core.runtime import devices, tensor_files
from gankit.errors import GankitError

NAMED = ("cls", "tags")  # kinds of columns of a condition that may have rows in the table


# Long because checks of the inputs, one pass over the data and the means of classes share all of their variables.
@devices.isolated
def write_class_table(
    recipe: Recipe,
    out: Path,
    *,
    feature: Any = "timm-cnn",
    side: int = 224,
    num: int | None = None,
    batch: int = 32,
    device: str = "auto",
    say: Callable[[str], None] = print,
) -> list[int]:
    """Write a table [columns of the recipe's condition, channels of the feature map], float32, as safetensors.

    Args:
        recipe: recipe whose data set, image size and conditioner are used.
        out: the file, for the option class_table of generator and discriminator.
        feature: spec of the feature network.
        side: shorter side, in pixels, of the images given to the feature network.
        num: number of images to read, in random order; None is all.
        batch: images at a time.
        device: 'auto', 'cpu', 'cuda' or 'mps'.
        say: called with a line for each skipped image.

    Returns the table's shape. Raises GankitError if the recipe names no data set, or its condition has other columns
    than classes and tags.
    """
    if side < 1 or batch < 1 or (num is not None and num < 1):
        raise GankitError(f"side = {side}, batch = {batch} and num = {num} must be at least 1")
    if out.suffix != ".safetensors":
        raise GankitError(f"{out} must end in .safetensors, as the option class_table expects it")
    if recipe.data.path is None:
        raise GankitError("no data: give --data PATH (a folder, zip or shards of images) or --data 'source:'")
    source = open_source(recipe.data.path, recipe.data.options, recipe.packages)
    conditioner = build.build_conditioner(recipe, source.vocabulary())
    columns = conditioner.columns()
    if not columns or any(kind not in NAMED for kind, _ in columns):
        raise GankitError(
            f"conditioner {recipe.conditioner['name']!r} does not give classes or tags alone, which the rows of the "
            "table stand for; use one such as class or tags"
        )
    where = devices.pick_device(device)
    network: FeatureNetwork = options.build("feature", feature, where="feature").to(where)
    total = min(len(source), num or len(source))
    batches = Batches(
        source,
        entry_size(*recipe.data.size, side, network.input_multiple),
        fit=recipe.data.fit,
        batch=min(batch, total),
        fields=(),
        seed=recipe.train.seed,
        workers=recipe.train.workers,
    )
    sums = torch.zeros(len(columns), network.taps[-1].channels, dtype=torch.float64)
    counts = torch.zeros(len(columns), 1, dtype=torch.float64)
    everything, seen = torch.zeros(sums.shape[1], dtype=torch.float64), 0
    with contextlib.closing(batches), torch.no_grad():
        while seen < total:
            read = next(batches)
            for name, reason in read.skipped:
                say(f"skipped {name}: {reason}")
            rows = slice(0, total - seen)
            given = conditioner.encode(read.labels[rows]).embedding
            assert given is not None
            weights = given.clamp_min(0).double().cpu()
            found = network(from_uint8(read.images[rows].to(where)))[-1].mean((2, 3)).double().cpu()
            sums += weights.T @ found
            counts += weights.sum(0)[:, None]
            everything += found.sum(0)
            seen += len(found)
    if absent := [name for (_, name), count in zip(columns, counts[:, 0]) if count == 0]:
        warnings.warn(
            f"no image of {', '.join(absent[:8])} was read; their rows are the mean of all", stacklevel=2
        )
    table = torch.where(counts > 0, sums / counts.clamp_min(1e-12), everything / seen).float()
    _write(out, table, {"columns": columns, "feature": network.identity(), "images": seen})
    return list(table.shape)


def _write(out: Path, table: Tensor, facts: dict[str, Any]) -> None:
    aside = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    with tensor_files.write_advice(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            tensor_files.save_tensors(aside, {"table": table}, {"gankit": facts})
            os.replace(aside, out)
        finally:
            aside.unlink(missing_ok=True)
