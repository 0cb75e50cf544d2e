"""Importer of StyleGAN-XL's generators, stem and super-resolution stages, from snapshots of its code base."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

from gankit.interop.importer import Imported, Importer
from gankit.interop.torch_files import ForeignNetwork
from gankit.plugins.importers.stylegan2 import (
    MAX_CLASSES,
    count_layers,
    image_channels,
    numbered_classes,
    refuse_other_activations,
)
from gankit.plugins.importers.stylegan3 import has_class_vectors, is_alias_free, is_radial, synthesis_options


class StyleGANXLImporter(Importer):
    """StyleGAN-XL generators of any stage. Their discriminators are read by the importer 'projected'."""

    classes = ("Generator", "SuperresGenerator")

    def recognises(self, network: ForeignNetwork) -> bool:
        return network.class_name in self.classes and is_alias_free(network) and has_class_vectors(network)

    def convert(self, network: ForeignNetwork) -> Imported:
        c_dim = network.integer("", "c_dim", low=0, high=MAX_CLASSES)
        size = network.integer("", "img_resolution", low=4, high=8192)
        refuse_other_activations(network, "mapping.fc0")
        tensors = dict(network.tensors)
        rows, embed_dim = network.shape("mapping.embed.weight", 2)
        if not c_dim:
            del tensors["mapping.embed.weight"]  # present, but without effect
        elif rows >= c_dim:  # ImageNet's classes; smaller data sets use the first rows
            tensors["mapping.embed.weight"] = replace(
                tensors["mapping.embed.weight"], shape=(c_dim, embed_dim)
            )
        spec = {
            "name": "stylegan-xl",
            "z_dim": network.integer("", "z_dim"),
            "w_dim": network.integer("", "w_dim"),
            "mapping_layers": count_layers(network),
            "mapping_lr_multiplier": network.setting("mapping.fc0", "bias_gain"),
            "embed_dim": embed_dim,
            "w_avg_beta": network.setting("mapping", "w_avg_beta", default=0.998) or 1.0,
            **_stages(network, size),
        }
        return Imported(
            "generator",
            spec,
            (image_channels(network), size, size),
            tensors,
            conditioner="class" if c_dim else "none",
            vocabulary=numbered_classes(c_dim),
            sections={"loss": "hinge"},
        )


def _stages(network: ForeignNetwork, size: int) -> dict[str, Any]:
    """Options of the synthesis network, with all its stages.

    A file names the layers of all stages in one list and keeps the resolution of the last stage only. A later stage
    begins at a layer that leaves the cutoff as it is and is not critically sampled.
    """
    options = synthesis_options(network)
    del options["magnitude_ema_beta"]  # running magnitudes do not move in this family
    names, critical = network.setting("synthesis", "layer_names"), options["num_critical"]
    cutoffs, starts = [], [0]
    for i, name in enumerate(names):
        before, after = (_cutoff(network, f"synthesis.{name}", key) for key in ("in_cutoff", "out_cutoff"))
        cutoffs.append(after)
        if i and before == after and not network.setting(f"synthesis.{name}", "is_critically_sampled"):
            starts.append(i)
    counts, ends = [], []
    for start, stop in zip(starts, [*starts[1:], len(names)]):
        kept = stop - start
        last = stop == len(names)
        count = kept - 1 if last else kept + critical
        if kept < 2 or count <= critical:
            raise network.odd("number of layers", kept)
        counts.append(count)
        octaves = math.log2(cutoffs[start + 1] / cutoffs[start]) * (count - critical)
        if octaves > 20:
            raise network.odd("out_cutoff", cutoffs[start + 1])
        ends.append(size if last else round(2 * cutoffs[start] * 2**octaves))
    if min(ends) < 1 or any(b % a for a, b in pairwise(ends)):
        raise network.odd("img_resolution", size)
    options["num_layers"], options["head_layers"] = counts[0], counts[1:]
    options["up_factors"] = [b // a for a, b in pairwise(ends)]
    if len(starts) > 1:
        first = f"synthesis.{names[starts[1]]}"
        options["head_kernel"] = network.shape(f"{first}.weight", 4)[2]
        options["head_radial_filters"] = is_radial(network, first)
    return options


def _cutoff(network: ForeignNetwork, path: str, key: str) -> float:
    value = network.setting(path, key)
    if not isinstance(value, (int, float)) or not math.isfinite(value) or not 0 < value < 1e5:
        raise network.odd(key, value)
    return float(value)
