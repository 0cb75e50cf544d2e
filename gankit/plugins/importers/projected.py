"""Importer of Projected GAN's and StyleGAN-XL's discriminators from snapshots of their code bases.

A snapshot holds frozen pretrained networks, which gankit has from timm and which are left out here; the random
projections of these networks' features, without which heads are of no use; and the heads.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, NamedTuple

from gankit.core.interfaces.networks import ImageShape
from gankit.errors import GankitError
from gankit.interop.importer import Imported, Importer
from gankit.interop.pickles import printable
from gankit.interop.torch_files import ForeignNetwork, TensorRecord
from gankit.plugins.discriminators.stylegan_xl import NETWORKS
from gankit.plugins.importers.stylegan2 import MAX_CLASSES, image_channels

SIDE = 224  # image side if no generator in the snapshot gives it; heads do not depend on it


class Backbone(NamedTuple):
    """Names and shapes, below the path 'pretrained', by which a pretrained network is recognised.

    Attributes:
        first: name of its first convolution.
        shape: shape of that convolution's weight.
        block: pattern of the paths of its blocks.
        blocks: number of its blocks.
        widths: channels of the four maps that enter the random projections.
    """

    first: str
    shape: tuple[int, ...]
    block: str
    blocks: int
    widths: tuple[int, ...]


LITE0 = "tf_efficientnet_lite0"
DEIT = "deit_base_distilled_patch16_224"
BACKBONES = {
    DEIT: Backbone(
        "model.patch_embed.proj.weight", (768, 3, 16, 16), r"model\.blocks\.\d+\.", 12, (96, 192, 384, 768)
    ),
    LITE0: Backbone("layer0.0.weight", (32, 3, 3, 3), r"layer\d\.\d\.\d+\.", 16, (24, 40, 112, 320)),
}
# random layers that make a pyramid of a transformer's maps; snapshots have them below 'pretrained'
REASSEMBLY = re.compile(r"pretrained\.layer([1-4])\.([34])\.(weight|bias)")


class ProjectedImporter(Importer):
    """Random projections and heads of the discriminators of Projected GAN and StyleGAN-XL, conditional or not."""

    classes = ("ProjectedDiscriminator",)

    def recognises(self, network: ForeignNetwork) -> bool:
        return network.class_name == "ProjectedDiscriminator" and (
            "discriminators" in network.modules or "discriminator.mini_discs" in network.modules
        )

    def convert(self, network: ForeignNetwork) -> Imported:
        if "discriminators" not in network.modules:
            spec, tensors = _single(network)
        else:
            spec, tensors = _several(network)
        return Imported("discriminator", spec, image_shape(network), tensors, sections=diffaugment(network))


def _several(network: ForeignNetwork) -> tuple[dict[str, Any], dict[str, TensorRecord]]:
    """Options and tensors of StyleGAN-XL's discriminator, on one or more frozen networks."""
    below = "discriminators."
    names = [path.removeprefix(below) for path in network.modules if path.startswith(below)]
    names = [name for name in names if "." not in name]
    for name in names:
        if name not in BACKBONES:
            raise GankitError(
                f"{network.origin}: {network.role} reads the network {printable(name)!r}, without which its heads are "
                f"of no use, and gankit has {DEIT} and {LITE0} only"
            )
    spec: dict[str, Any] = {"name": "stylegan-xl"}
    tensors: dict[str, TensorRecord] = {}
    if names != list(NETWORKS):
        spec["features"] = {name: NETWORKS[name] for name in names}
    for name in names:
        frozen, heads = f"feature_networks.{name}", f"discriminators.{name}.mini_discs"
        _refuse_other_networks(network, frozen, name)
        if network.integer(frozen, "proj_type", low=0, default=2) != 2:
            raise network.odd("proj_type", network.setting(frozen, "proj_type"))
        spec["cout"] = network.shape(f"{frozen}.scratch.layer0_ccm.weight", 4)[0]
        spec |= _code(network, heads, embedding=True)
        tensors |= _kept(network, frozen, heads)
    return spec, tensors


def _single(network: ForeignNetwork) -> tuple[dict[str, Any], dict[str, TensorRecord]]:
    """Options and tensors of Projected GAN's discriminator, on one frozen network."""
    frozen, heads = "feature_network", "discriminator.mini_discs"
    _refuse_other_networks(network, frozen, LITE0)
    names = network.tensors
    mixed = f"{frozen}.scratch.layer0_ccm.weight" in names
    spec: dict[str, Any] = {
        "name": "projected",
        "proj_type": 0 if not mixed else 2 if f"{frozen}.scratch.layer0_csm.out_conv.weight" in names else 1,
        "separable": any(name.startswith(f"{heads}.") and ".depthwise." in name for name in names),
        "patch": any(name.startswith(f"{heads}.0.main.0.main.0.main.") for name in names),
        **_code(network, heads),
    }
    if mixed:
        fine, next_to_it = (
            network.shape(f"{frozen}.scratch.layer{level}_ccm.weight", 4)[0] for level in (0, 1)
        )
        spec |= {"cout": fine, "expand": next_to_it != fine}
    return spec, _kept(network, frozen, heads)


def _refuse_other_networks(network: ForeignNetwork, path: str, name: str) -> None:
    """Raise GankitError unless the frozen network at `path` is the published `name`: heads only work with its
    features."""
    known, inside = BACKBONES[name], f"{path}.pretrained."
    first = network.tensors.get(inside + known.first)
    pattern = re.compile(re.escape(inside) + known.block)
    blocks = {found.group() for found in map(pattern.match, network.tensors) if found}
    maps = [network.tensors.get(f"{path}.scratch.layer{level}_ccm.weight") for level in range(4)]
    widths = tuple(record.shape[1] for record in maps if record is not None and len(record.shape) == 4)
    if (
        first is None
        or first.shape != known.shape
        or len(blocks) != known.blocks
        or widths not in (known.widths, ())
    ):
        raise GankitError(
            f"{network.origin}: {network.role} reads a network with other layers than the published {name}, which is "
            "the one that gankit has; its heads are of no use without the network that they were trained on"
        )


def _code(network: ForeignNetwork, heads: str, *, embedding: bool = False) -> dict[str, int]:
    """Options of the condition's embedding in the heads; none if unconditional."""
    if f"{heads}.0.embed.weight" not in network.tensors:
        return {}
    code = {"cmap_dim": network.shape(f"{heads}.0.cls.weight_orig", 4)[0]}
    return code | ({"embed_dim": network.shape(f"{heads}.0.embed.weight", 2)[1]} if embedding else {})


def _kept(network: ForeignNetwork, frozen: str, heads: str) -> dict[str, TensorRecord]:
    """Tensors of projections and heads under gankit's names."""
    tensors = {}
    for name, record in network.tensors.items():
        if name.startswith(f"{heads}."):
            tensors[name] = _classes(network, record) if name.endswith(".embed.weight") else record
        elif name.startswith(f"{frozen}.scratch."):
            tensors[name] = record
        elif frozen.endswith(DEIT) and (layer := REASSEMBLY.fullmatch(name.removeprefix(f"{frozen}."))):
            level, part, kind = int(layer[1]) - 1, int(layer[2]) - 3, layer[3]
            tensors[f"{frozen}.scratch.layer{level}_reassemble.{part}.{kind}"] = record
    return tensors


def _classes(network: ForeignNetwork, table: TensorRecord) -> TensorRecord:
    """Class table [rows, N] with at least as many rows as classes -> weight [N, classes] of a linear layer."""
    if len(table.shape) != 2:
        raise network.odd("number of dimensions of a class table", len(table.shape))
    rows, width = table.shape
    generator = _generator(network)
    count = rows
    if generator is not None:
        count = generator.integer("", "c_dim", low=0, high=MAX_CLASSES, default=rows)
    if not 1 <= count <= rows:
        raise network.odd("number of classes", count)
    return replace(table, shape=(width, count), stride=table.stride[::-1])


def diffaugment(network: ForeignNetwork) -> dict[str, Any]:
    """The recipe's section for DiffAugment, which these code bases build into the discriminator; empty if it is off."""
    given = network.setting("", "diffaug", default=False) is True
    return {"augmentation": {"name": "diffaugment"}} if given else {}


def image_shape(network: ForeignNetwork) -> ImageShape:
    """(C, H, W) of a discriminator's images, read from the generator in the same snapshot if there is one."""
    generator = _generator(network)
    if generator is None:
        return (3, SIDE, SIDE)
    size = generator.integer("", "img_resolution", low=4, high=8192)
    return (image_channels(generator), size, size)


def _generator(network: ForeignNetwork) -> ForeignNetwork | None:
    return network.beside.get("G_ema", network.beside.get("G"))
