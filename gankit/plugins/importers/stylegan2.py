"""Importer of StyleGAN2 networks and ADA from snapshots of StyleGAN2-ADA (PyTorch) and StyleGAN3.

Options are read from the modules' attributes and the tensors' shapes, since the defaults of the two code bases differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gankit.core.interfaces.labels import Vocabulary
from gankit.interop.importer import Imported, Importer
from gankit.interop.torch_files import ForeignNetwork
from gankit.plugins.augment.ada import GROUPS, PIPELINES, RANGES

MAX_CLASSES = 100_000
# range of ADA -> its option in the official pipeline; multipliers have the same names
RANGE_NAMES = {
    "xint": "xint_max",
    "scale": "scale_std",
    "rotate": "rotate_max",
    "aniso": "aniso_std",
    "xfrac": "xfrac_std",
    "brightness": "brightness_std",
    "contrast": "contrast_std",
    "hue": "hue_max",
    "saturation": "saturation_std",
    "imgfilter": "imgfilter_std",
    "noise": "noise_std",
    "cutout": "cutout_size",
}


class StyleGAN2Importer(Importer):
    """StyleGAN2 generators and discriminators, conditional or not, and the augmentation pipeline of the whole family;
    of bare state dicts generators only."""

    classes = ("Generator", "Discriminator", "AugmentPipe", "state dict with the official names of StyleGAN2")

    def recognises(self, network: ForeignNetwork) -> bool:
        if network.class_name == "Generator" or not network.modules:
            return "synthesis.b4.const" in network.tensors
        if network.class_name == "AugmentPipe":
            return "p" in network.tensors
        return network.class_name == "Discriminator" and "b4.out.weight" in network.tensors

    def convert(self, network: ForeignNetwork) -> Imported:
        if not network.modules:
            return _from_names(network)
        if network.class_name == "AugmentPipe":
            return Imported("augmentation", augmentation_spec(network), (0, 0, 0), {})
        c_dim = network.integer("", "c_dim", low=0, high=MAX_CLASSES)
        size = network.integer("", "img_resolution", low=4, high=8192)
        make = generator_spec if network.class_name == "Generator" else discriminator_spec
        return Imported(
            "generator" if network.class_name == "Generator" else "discriminator",
            make(network, c_dim, size),
            (image_channels(network), size, size),
            dict(network.tensors),
            conditioner="class" if c_dim else "none",
            vocabulary=numbered_classes(c_dim),
        )


def _from_names(network: ForeignNetwork) -> Imported:
    """A generator from a bare state dict, which has no activations, clamp and learning rates: the usual ones are
    assumed."""
    names = network.tensors
    sides = [4 << i for i in range(12) if f"synthesis.b{4 << i}.conv1.weight" in names]
    size = max(sides, default=4)
    widths = [network.shape(f"synthesis.b{side}.conv1.weight", 4)[0] for side in sides]
    depth = count_layers(network)
    c_dim = network.shape("mapping.embed.weight", 2)[1] if "mapping.embed.weight" in names else 0
    embedded = network.shape("mapping.embed.weight", 2)[0] if c_dim else 0
    hidden, inputs = network.shape("mapping.fc0.weight", 2)
    if size > 4 and "synthesis.b4.torgb.weight" in names:
        architecture = "skip"
    else:
        architecture = "resnet" if "synthesis.b8.skip.weight" in names else "orig" if size > 4 else "skip"
    spec = {
        "name": "stylegan2",
        "z_dim": inputs - embedded,
        "w_dim": network.shape("mapping.w_avg", 1)[0],
        "mapping_layers": depth,
        "embed_features": embedded or None,
        "layer_features": hidden if depth > 1 else None,
        "architecture": architecture,
        "use_noise": "synthesis.b4.conv1.noise_strength" in names,
        **channel_options(widths, size),
    }
    channels = network.shape(f"synthesis.b{size}.torgb.weight", 4)[0]
    if channels not in (1, 3, 4) or inputs <= embedded or c_dim > MAX_CLASSES:
        raise network.odd("number of image channels, latents or classes", channels)
    shape = (channels, size, size)
    conditioner = "class" if c_dim else "none"
    return Imported("generator", spec, shape, dict(names), conditioner, numbered_classes(c_dim))


def generator_spec(network: ForeignNetwork, c_dim: int, size: int) -> dict[str, Any]:
    """Options of a generator with modules. Raises GankitError for activations other than leaky ReLU."""
    layer = "synthesis.b4.conv1"
    refuse_other_activations(network, layer)
    return {
        "name": "stylegan2",
        "z_dim": network.integer("", "z_dim"),
        "w_dim": network.integer("", "w_dim"),
        **mapping_options(network, c_dim),
        "w_avg_beta": network.setting("mapping", "w_avg_beta", default=0.998) or 1.0,
        "channel_base": network.integer("synthesis", "channel_base", high=2**24, default=32768),
        "channel_max": network.integer("synthesis", "channel_max", default=512),
        "architecture": network.setting(f"synthesis.b{size}", "architecture"),
        "resample_filter": network.setting("synthesis.b8.conv0", "resample_filter", default=[1, 3, 3, 1]),
        "conv_clamp": network.setting(layer, "conv_clamp"),
        "use_noise": network.setting(layer, "use_noise"),
    }


def mapping_options(network: ForeignNetwork, c_dim: int) -> dict[str, Any]:
    """Options of a mapping network, read from its layers instead of its constructor's arguments."""
    depth = count_layers(network)
    refuse_other_activations(network, "mapping.fc0")
    return {
        "mapping_layers": depth,
        "mapping_lr_multiplier": network.setting("mapping.fc0", "bias_gain"),
        "embed_features": network.shape("mapping.embed.weight", 2)[0] if c_dim else None,
        "layer_features": network.shape("mapping.fc0.weight", 2)[0] if depth > 1 else None,
    }


def discriminator_spec(network: ForeignNetwork, c_dim: int, size: int) -> dict[str, Any]:
    """Options of a discriminator with modules. Raises GankitError for activations other than leaky ReLU."""
    refuse_other_activations(network, "b4.conv")
    spec = {
        "name": "stylegan2",
        "channel_base": network.integer("", "channel_base", high=2**24, default=32768),
        "channel_max": network.integer("", "channel_max", default=512),
        "architecture": network.setting(f"b{size}", "architecture", default="resnet"),
        "resample_filter": network.setting("b8.conv1", "resample_filter", default=[1, 3, 3, 1]),
        "conv_clamp": network.setting("b4.conv", "conv_clamp"),
    }
    if "b4.mbstd" in network.modules:
        spec["mbstd_group_size"] = network.setting("b4.mbstd", "group_size")
        spec["mbstd_channels"] = network.setting("b4.mbstd", "num_channels", default=1)
    else:
        spec["mbstd_channels"] = 0
    if c_dim:
        spec["cmap_dim"] = network.shape("b4.out.weight", 2)[0]
        spec["mapping_layers"] = count_layers(network)
        spec["mapping_lr_multiplier"] = network.setting("mapping.fc0", "bias_gain")
    return spec


def augmentation_spec(network: ForeignNetwork) -> dict[str, Any]:
    """Options of ADA: multipliers, ranges and p of the pipeline. The file does not have the target of p."""
    multipliers = {name: _positive(network, name, 0) for name in RANGES}
    used = {name for name, value in multipliers.items() if value}
    members = {name: {a for group in groups for a in GROUPS[group]} for name, groups in PIPELINES.items()}
    pipeline = next((name for name, enabled in members.items() if enabled == used), "bgc")
    enabled = members[pipeline]
    ranges = {name: _positive(network, official, RANGES[name]) for name, official in RANGE_NAMES.items()}
    bands = network.setting("", "imgfilter_bands", default=None) or [1, 1, 1, 1]
    if not (isinstance(bands, list) and len(bands) == 4 and all(_is_positive(band) for band in bands)):
        raise network.odd("imgfilter_bands", None)
    record = network.tensors.get("p")
    p = float(record.to_tensor()) if record is not None and record.numel == 1 else None
    if not _is_positive(p):
        raise network.odd("p", p)
    return {
        "name": "ada",
        "pipeline": pipeline,
        "p": p,
        "multipliers": {n: m for n, m in multipliers.items() if m != (n in enabled)},
        "ranges": {n: value for n, value in ranges.items() if value != RANGES[n]},
        "filter_bands": bands,
    }


def _positive(network: ForeignNetwork, name: str, default: float) -> float:
    """A setting that must be a finite number of at least 0. Raises GankitError otherwise."""
    value = network.setting("", name, default=default)
    if not _is_positive(value):
        raise network.odd(name, value)
    return value


def _is_positive(value: Any) -> bool:
    """True for a finite number of at least 0."""
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value >= 0
    )


def channel_options(widths: Sequence[int], size: int) -> dict[str, int]:
    """channel_base and channel_max for these numbers of feature maps, coarse to fine, the last at `size` pixels."""
    return {"channel_base": widths[-1] * size, "channel_max": max(widths)}


def count_layers(network: ForeignNetwork) -> int:
    depth = 0
    while f"mapping.fc{depth}.weight" in network.tensors:
        depth += 1
    return depth


def image_channels(network: ForeignNetwork) -> int:
    channels = network.integer("", "img_channels")
    if channels not in (1, 3, 4):
        raise network.odd("img_channels", channels)
    return channels


def refuse_other_activations(network: ForeignNetwork, path: str) -> None:
    activation = network.setting(path, "activation", default="lrelu")
    if activation != "lrelu":
        raise network.odd("activation", activation)


def numbered_classes(count: int) -> Vocabulary:
    """A vocabulary of the classes '0' to `count` - 1: snapshots do not have names of classes."""
    return Vocabulary(classes={str(i): 1 for i in range(count)})
