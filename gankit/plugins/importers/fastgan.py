"""Importer of FastGAN generators from snapshots of Projected GAN's code base or from state dicts."""

from __future__ import annotations

import dataclasses

from gankit.interop.importer import Imported, Importer
from gankit.interop.torch_files import ForeignNetwork
from gankit.plugins.generators.fastgan import EXCITED_BY, WIDTHS
from gankit.plugins.importers.stylegan2 import MAX_CLASSES, numbered_classes

START = "synthesis.init.init.0.weight_orig"
OUTPUT = "synthesis.to_big.weight_orig"
TABLE = "synthesis.embed.weight"
SIDES = (128, 256, 512, 1024)  # the original makes no others
DISCRIMINATOR = {"name": "projected"}


class FastGANImporter(Importer):
    """FastGAN and FastGAN-lite generators, conditional or not. Discriminators are read by the importer 'projected'."""

    classes = ("Generator", "state dict with the official names of Projected GAN's FastGAN")

    def recognises(self, network: ForeignNetwork) -> bool:
        return START in network.tensors and OUTPUT in network.tensors

    def convert(self, network: ForeignNetwork) -> Imported:
        z_dim, started = network.shape(START, 4)[:2]
        ngf = started // (2 * WIDTHS[4])
        channels, finest = network.shape(OUTPUT, 4)[:2]
        sides = [side for side in SIDES if max(1, int(ngf * WIDTHS[side])) == finest]
        size = network.integer("", "img_resolution", default=sides[0] if sides else None)
        if size not in sides or channels not in (1, 3, 4):
            raise network.odd("number of feature maps or image channels", finest)
        # blocks of 256 pixels are there for smaller images, too, and of no use to them
        left_out = {f"synthesis.{part}_{side}" for side in WIDTHS if side > size for part in ("feat", "se")}
        tensors = {k: v for k, v in network.tensors.items() if ".".join(k.split(".")[:2]) not in left_out}
        c_dim = 0
        if TABLE in tensors:
            rows = network.shape(TABLE, 2)[0]  # 1000, however many classes there are
            c_dim = network.integer("", "c_dim", high=MAX_CLASSES, default=rows)
            if not 1 <= c_dim <= min(rows, MAX_CLASSES):
                raise network.odd("number of classes", c_dim)
            tensors[TABLE] = dataclasses.replace(tensors[TABLE], shape=(c_dim, z_dim))
        first = f"synthesis.feat_{min(EXCITED_BY)}"
        big = {f"{first}.5.weight_orig", f"{first}.conv2.weight_orig"} & tensors.keys()
        return Imported(
            "generator",
            {"name": "fastgan" if big else "fastgan-lite", "z_dim": z_dim, "ngf": ngf},
            (channels, size, size),
            tensors,
            conditioner="class" if c_dim else "none",
            vocabulary=numbered_classes(c_dim),
            sections={"discriminator": DISCRIMINATOR, "loss": "hinge"},
        )
