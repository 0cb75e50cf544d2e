"""Importer of StyleGAN3 generators from snapshots or state dicts; its discriminators are StyleGAN2's."""

from __future__ import annotations

import re
from typing import Any

from gankit.interop.importer import Imported, Importer
from gankit.interop.torch_files import ForeignNetwork
from gankit.plugins.generators.stylegan3 import FILTER_SIZE, LRELU_UPSAMPLING, MARGIN, OUTPUT_SCALE
from gankit.plugins.importers.stylegan2 import (
    MAX_CLASSES,
    count_layers,
    image_channels,
    mapping_options,
    numbered_classes,
    refuse_other_activations,
)


class StyleGAN3Importer(Importer):
    """StyleGAN3 generators of either configuration, with or without classes."""

    classes = ("Generator", "state dict with the official names of StyleGAN3")

    def recognises(self, network: ForeignNetwork) -> bool:
        known = network.class_name == "Generator" or not network.modules
        return known and is_alias_free(network) and not has_class_vectors(network)

    def convert(self, network: ForeignNetwork) -> Imported:
        if not network.modules:
            return _from_names(network)
        c_dim = network.integer("", "c_dim", low=0, high=MAX_CLASSES)
        size = network.integer("", "img_resolution", low=4, high=8192)
        refuse_other_activations(network, "mapping.fc0")
        spec = {
            "name": "stylegan3",
            "z_dim": network.integer("", "z_dim"),
            "w_dim": network.integer("", "w_dim"),
            **mapping_options(network, c_dim),
            "w_avg_beta": network.setting("mapping", "w_avg_beta", default=0.998) or 1.0,
            **synthesis_options(network),
        }
        return Imported(
            "generator",
            spec,
            (image_channels(network), size, size),
            dict(network.tensors),
            conditioner="class" if c_dim else "none",
            vocabulary=numbered_classes(c_dim),
        )


def _from_names(network: ForeignNetwork) -> Imported:
    """A generator from a bare state dict, whose names give sizes and channels of all layers; for cutoffs, clamp and
    learning rates, which it does not have, the usual values are assumed."""
    found = (re.fullmatch(r"synthesis\.L(\d+)_(\d+)_(\d+)\.weight", name) for name in network.tensors)
    layers = sorted(tuple(map(int, match.groups())) for match in found if match)
    if len(layers) < 4 or [index for index, _, _ in layers] != list(range(len(layers))):
        raise network.odd("number of layers", len(layers))
    size, channels = layers[-1][1:]
    first = "synthesis.L{}_{}_{}".format(*layers[0])
    widest = max(count for _, _, count in layers[:-1])
    c_dim = network.shape("mapping.embed.weight", 2)[1] if "mapping.embed.weight" in network.tensors else 0
    embedded = network.shape("mapping.embed.weight", 2)[0] if c_dim else 0
    hidden, inputs = network.shape("mapping.fc0.weight", 2)
    depth = count_layers(network)
    if channels not in (1, 3, 4) or inputs <= embedded or c_dim > MAX_CLASSES:
        raise network.odd("number of image channels, latents or classes", channels)
    spec = {
        "name": "stylegan3",
        "z_dim": inputs - embedded,
        "w_dim": network.shape("mapping.w_avg", 1)[0],
        "mapping_layers": depth,
        "embed_features": embedded or None,
        "layer_features": hidden if depth > 1 else None,
        "channel_base": layers[-2][2] * size,
        "channel_max": widest,
        "conv_kernel": network.shape(f"{first}.weight", 4)[2],
        "use_radial_filters": is_radial(network, first),
        "num_layers": len(layers) - 1,
    }
    conditioner = "class" if c_dim else "none"
    shape = (channels, size, size)
    return Imported("generator", spec, shape, dict(network.tensors), conditioner, numbered_classes(c_dim))


def is_alias_free(network: ForeignNetwork) -> bool:
    """True for a synthesis network with Fourier features as input (StyleGAN3, StyleGAN-XL)."""
    return "synthesis.input.freqs" in network.tensors


def has_class_vectors(network: ForeignNetwork) -> bool:
    """True for StyleGAN-XL, whose class embedding has no bias; in StyleGAN3 it is a fully connected layer with one."""
    return "mapping.embed.weight" in network.tensors and "mapping.embed.bias" not in network.tensors


def synthesis_options(network: ForeignNetwork) -> dict[str, Any]:
    """Options of an alias-free synthesis network. Raises GankitError for margins and filters other than the usual.

    Sizes and channels, which follow from the options, are in the names of the tensors, which gankit checks.
    """
    at = "synthesis"
    names = network.setting(at, "layer_names")
    if not (isinstance(names, list) and names and f"{at}.{names[0]}" in network.modules):
        raise network.odd("layer_names", None)
    first = f"{at}.{names[0]}"
    fixed = (
        (at, "margin_size", MARGIN),
        (at, "output_scale", OUTPUT_SCALE),
        (first, "filter_size", FILTER_SIZE),
        (first, "lrelu_upsampling", LRELU_UPSAMPLING),
    )
    for path, name, value in fixed:
        if (found := network.setting(path, name, default=value)) != value:
            raise network.odd(name, found)
    kernel = network.shape(f"{first}.weight", 4)[2]
    return {
        "channel_base": network.integer(at, "channel_base", high=2**24, default=32768),
        "channel_max": network.integer(at, "channel_max", default=512),
        "conv_kernel": kernel,
        "use_radial_filters": is_radial(network, first),
        "num_layers": network.integer(at, "num_layers", high=1000),
        "num_critical": network.integer(at, "num_critical", high=1000, default=2),
        "first_cutoff": network.setting(at, "first_cutoff", default=2),
        "first_stopband": network.setting(at, "first_stopband", default=2**2.1),
        "last_stopband_rel": network.setting(at, "last_stopband_rel", default=2**0.3),
        "conv_clamp": network.setting(first, "conv_clamp", default=256),
        "magnitude_ema_beta": network.setting(first, "magnitude_ema_beta", default=0.999),
    }


def is_radial(network: ForeignNetwork, layer: str) -> bool:
    """True if a layer downsamples with a radial (2D) filter."""
    taps = network.tensors.get(f"{layer}.down_filter")
    return taps is not None and len(taps.shape) == 2
