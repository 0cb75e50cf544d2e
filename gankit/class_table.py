"""`gankit class-table`: where the class vectors of StyleGAN-XL start (Sauer et al. 2022, section 3.1)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gankit.core import checkpoint, options
from gankit.core.data import open_source
from gankit.core.devices import pick_device
from gankit.core.images import BadImage, fit, from_uint8
from gankit.core.interfaces import FeatureNetwork, Source
from gankit.errors import GankitError

DEFAULT_SIDE = 224


def write_class_table(
    data: str,
    out: Path,
    *,
    feature: str = "timm-cnn",
    settings: Mapping[str, Any] | None = None,
    per_class: int = 200,
    side: int | None = None,
    batch_size: int = 32,
    device: str = "auto",
) -> tuple[int, int]:
    """Write the mean of a network's coarsest features over the images of each class, as one tensor [classes, width].

    Rows are in the order of conditioner 'class' for this data set; the names are in the file's metadata.

    Args:
        data: a data set with classes.
        out: the .safetensors file.
        feature: plugin of the network.
        settings: its options.
        per_class: most images of a class that are looked at, spread evenly over the data set.
        side: pixels at which images enter, cut to a square; None is what the network was trained on.
        batch_size: images at a time.
        device: auto, cpu, cuda or mps.

    Returns (classes, width). Raises GankitError for data without classes, or without one readable image of a class."""
    if per_class < 1 or batch_size < 1:
        raise GankitError(f"--per-class {per_class} and --batch-size {batch_size} must be at least 1")
    if out.suffix != ".safetensors":
        raise GankitError(f"{out} must end with .safetensors")
    source = open_source(data)
    names = list(source.vocabulary().classes)
    if not names:
        raise GankitError(f"{data} has no classes; use data with classes (e.g. one sub-folder for each)")
    where = pick_device(device)
    network: FeatureNetwork = options.build("feature", {**(settings or {}), "name": feature}).to(where)
    multiple = network.input_multiple
    if side is None:
        side = math.ceil((network.input_side or DEFAULT_SIDE) / multiple) * multiple
    elif side < 1 or side % multiple:
        raise GankitError(f"--side {side}: {network.name!r} takes multiples of {multiple}")

    members: dict[str, list[int]] = {name: [] for name in names}
    for index in range(len(source)):
        name = source.label(index).cls
        if name is not None:
            members[name].append(index)
    rows = []
    for name, indices in members.items():
        chosen = [indices[i * len(indices) // per_class] for i in range(per_class)]
        chosen = indices if len(indices) <= per_class else chosen
        features = [
            _features(network, source, chosen[i : i + batch_size], side, where)
            for i in range(0, len(chosen), batch_size)
        ]
        found = torch.cat(features)
        if not len(found):
            raise GankitError(f"no image of class {name!r} in {data} can be read")
        rows.append(found.mean(0))
    table = torch.stack(rows).float()
    if not table.isfinite().all():
        raise GankitError(
            f"the feature network {network.name!r} gives NaN or infinity; use another --feature"
        )
    facts = {"classes": names, "feature": network.identity(), "side": side, "per_class": per_class}
    with checkpoint.write_advice(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}")
    checkpoint.save_tensors(aside, {"class_table": table}, facts)
    aside.replace(out)
    return table.shape[0], table.shape[1]


@torch.no_grad()
def _features(
    network: FeatureNetwork, source: Source, indices: list[int], side: int, device: torch.device
) -> Tensor:
    """[readable images, width], in float64 for sums over many."""
    pixels = []
    for index in indices:
        try:
            pixels.append(fit(source.image(index), (side, side)))
        except BadImage as error:
            warnings.warn(f"{source.name(index)} is left out ({error})", stacklevel=3)
    if not pixels:
        return torch.empty(0, network.taps[-1].channels, dtype=torch.float64)
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).to(device)
    return network(from_uint8(images))[-1].double().mean((2, 3)).cpu()
