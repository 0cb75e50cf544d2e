"""StyleGAN3 generators in snapshots of its code base; its discriminators are StyleGAN2's."""

from __future__ import annotations

from typing import Any

from gankit.core.foreign import ForeignNetwork
from gankit.core.interfaces import Imported, Importer
from gankit.plugins.generators.stylegan3 import FILTER_SIZE, LRELU_UPSAMPLING, MARGIN, OUTPUT_SCALE
from gankit.plugins.importers.stylegan2 import (
    MAX_CLASSES,
    image_channels,
    mapping_options,
    numbered_classes,
    refuse_other_activations,
)


class StyleGAN3Importer(Importer):
    """StyleGAN3 generators of either configuration, with or without classes."""

    classes = ("Generator",)

    def recognises(self, network: ForeignNetwork) -> bool:
        return network.class_name == "Generator" and is_alias_free(network) and not has_class_vectors(network)

    def convert(self, network: ForeignNetwork) -> Imported:
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


def is_alias_free(network: ForeignNetwork) -> bool:
    return bool(network.modules) and "synthesis.input.freqs" in network.tensors


def has_class_vectors(network: ForeignNetwork) -> bool:
    """What tells StyleGAN-XL from StyleGAN3, whose classes enter by a fully connected layer."""
    embed = network.modules.get("mapping.embed")
    return embed is not None and embed.class_name == "Embedding"


def synthesis_options(network: ForeignNetwork) -> dict[str, Any]:
    """Options of an alias-free synthesis network.

    The numbers that follow from them, sizes and channels, are in the names of its tensors, which gankit checks."""
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
    radial = network.tensors.get(f"{first}.down_filter")
    return {
        "channel_base": network.integer(at, "channel_base", high=2**24, default=32768),
        "channel_max": network.integer(at, "channel_max", default=512),
        "conv_kernel": kernel,
        "use_radial_filters": radial is not None and len(radial.shape) == 2,
        "num_layers": network.integer(at, "num_layers", high=1000),
        "num_critical": network.integer(at, "num_critical", high=1000, default=2),
        "first_cutoff": network.setting(at, "first_cutoff", default=2),
        "first_stopband": network.setting(at, "first_stopband", default=2**2.1),
        "last_stopband_rel": network.setting(at, "last_stopband_rel", default=2**0.3),
        "conv_clamp": network.setting(first, "conv_clamp", default=256),
        "magnitude_ema_beta": network.setting(first, "magnitude_ema_beta", default=0.999),
    }
