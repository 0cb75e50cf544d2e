"""Importer of R3GAN's networks from snapshots or state dicts; options follow from the tensors' shapes."""

from __future__ import annotations

from typing import Any

from gankit.interop.importer import Imported, Importer
from gankit.interop.torch_files import ForeignNetwork
from gankit.plugins.importers.stylegan2 import MAX_CLASSES, numbered_classes

BASIS = "Model.MainLayers.0.Layers.0.Basis"  # only G begins with one
EXTRACT = "Model.ExtractionLayer.Layer.weight"
MAX_STAGES = 12


class R3GANImporter(Importer):
    """R3GAN generators and discriminators, conditional or not."""

    classes = ("Generator", "Discriminator", "state dict with the official names of R3GAN")

    def recognises(self, network: ForeignNetwork) -> bool:
        return BASIS in network.tensors or EXTRACT in network.tensors

    def convert(self, network: ForeignNetwork) -> Imported:
        generator = BASIS in network.tensors
        c_dim = embed_dim = 0
        if "Model.EmbeddingLayer.weight" in network.tensors:
            embed_dim, c_dim = network.shape("Model.EmbeddingLayer.weight", 2)
            if not 1 <= c_dim <= MAX_CLASSES:
                raise network.odd("number of classes", c_dim)
        options = _stages(network, first=1 if generator else 0)
        stages = len(options["widths"])
        if c_dim:
            options["embed_dim"] = embed_dim
        sections: dict[str, Any] = {}
        if generator:
            channels = network.shape("Model.AggregationLayer.Layer.weight", 4)[0]
            height, width = network.shape(BASIS, 3)[1:]
            inputs = network.shape("Model.MainLayers.0.Layers.0.LinearLayer.weight", 2)[1]
            mirrored = {key: value for key, value in options.items() if key != "embed_dim"}
            sections = {"discriminator": {"name": "r3gan", **mirrored}, "loss": "relativistic"}
            options["z_dim"] = inputs - embed_dim
        else:
            for name in ("widths", "blocks"):
                options[name].reverse()
            channels = network.shape(EXTRACT, 4)[1]
            last = f"Model.MainLayers.{stages - 1}.Layers.{options['blocks'][0]}.Basis.weight"
            height, width = network.shape(last, 4)[2:]
        if channels not in (1, 3, 4):
            raise network.odd("number of image channels", channels)
        return Imported(
            "generator" if generator else "discriminator",
            {"name": "r3gan", **options},
            (channels, height << (stages - 1), width << (stages - 1)),
            dict(network.tensors),
            conditioner="class" if c_dim else "none",
            vocabulary=numbered_classes(c_dim),
            sections=sections,
        )


def _stages(network: ForeignNetwork, first: int) -> dict[str, Any]:
    """Options widths, blocks, expansion and group_width, stages in the network's order.

    Residual blocks are numbered from `first` within their stage.
    """
    widths: list[int] = []
    blocks: list[int] = []
    expansion = group_width = 0
    while len(widths) < MAX_STAGES:
        stage = f"Model.MainLayers.{len(widths)}.Layers"
        if f"{stage}.{first}.LinearLayer1.Layer.weight" not in network.tensors:
            break
        inner, width = network.shape(f"{stage}.{first}.LinearLayer1.Layer.weight", 4)[:2]
        group_width = network.shape(f"{stage}.{first}.LinearLayer2.Layer.weight", 4)[1]
        if not width or not group_width or inner % width:
            raise network.odd("width of a residual block", inner)
        expansion = inner // width
        count = 0
        while f"{stage}.{first + count}.LinearLayer1.Layer.weight" in network.tensors:
            count += 1
        widths.append(width)
        blocks.append(count)
    if not widths:
        raise network.odd("number of stages", 0)
    return {"widths": widths, "blocks": blocks, "expansion": expansion, "group_width": group_width}
