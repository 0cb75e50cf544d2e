"""Importer of StyleGAN-T's generators, with their CLIP text tower, and discriminator heads from snapshots.

The frozen DINO of a discriminator is left out: gankit has it from timm.
"""

from __future__ import annotations

from typing import Any

from gankit.core.interfaces.labels import Vocabulary
from gankit.errors import GankitError
from gankit.interop.importer import Imported, Importer
from gankit.interop.torch_files import ForeignNetwork, TensorRecord
from gankit.plugins.importers.projected import diffaugment, image_shape
from gankit.plugins.importers.stylegan2 import (
    MAX_CLASSES,
    channel_options,
    image_channels,
    refuse_other_activations,
)

TOWER = "mapping.clip.model"
DINO = "dino.model.model"
VIT_S16 = (384, 12, 16)  # width, blocks and patch of the network that heads were trained on


class StyleGANTImporter(Importer):
    """StyleGAN-T generators, conditional on text or not, and heads of discriminators, whose DINO comes from timm."""

    classes = ("Generator", "ProjectedDiscriminator")

    def recognises(self, network: ForeignNetwork) -> bool:
        if network.class_name == "ProjectedDiscriminator":
            return "heads.0.cls.weight_orig" in network.tensors
        return network.class_name == "Generator" and "synthesis.b8.input.freqs" in network.tensors

    def convert(self, network: ForeignNetwork) -> Imported:
        if network.class_name == "ProjectedDiscriminator":
            return _discriminator(network)
        size = network.integer("", "img_resolution", low=8, high=8192)
        first = "synthesis.b8.convs1"
        refuse_other_activations(network, f"{first}.0")
        depth = residual_blocks = 0
        sides = [8 << i for i in range(size.bit_length() - 3)]
        widths = [network.shape(f"synthesis.b{side}.convs1.0.weight", 4)[0] for side in sides]
        while f"mapping.mlp.fc{depth}.weight" in network.tensors:
            depth += 1
        while f"{first}.{2 * residual_blocks + 1}.gamma" in network.tensors:
            residual_blocks += 1
        spec = {
            "name": "stylegan-t",
            "z_dim": network.integer("", "z_dim"),
            "mapping_layers": depth,
            **channel_options(widths, size),
            "num_res_blocks": residual_blocks,
            "architecture": "skip"
            if "synthesis.b8.torgb.weight" in network.tensors or size == 8
            else "single",
            "norm_groups": network.integer(f"{first}.1.norm", "num_groups") if residual_blocks else 32,
            "conv_clamp": network.setting(f"{first}.0", "conv_clamp", default=256),
            "use_noise": network.setting(f"{first}.0", "use_noise", default=True),
        }
        tower = {n: t for n, t in network.tensors.items() if n.startswith(f"{TOWER}.")}
        conditional = bool(network.setting("", "conditional", default=bool(tower)))
        return Imported(
            "generator",
            spec,
            (image_channels(network), size, size),
            {
                name: tensor
                for name, tensor in network.tensors.items()
                if not name.startswith("mapping.clip.")
            },
            conditioner=_tower_spec(network) if conditional else "none",
            vocabulary=Vocabulary(captioned=1, total=1) if conditional else Vocabulary(),
            conditioner_tensors=_tower_tensors(tower) if conditional else {},
            sections={"discriminator": "stylegan-t", "loss": "hinge"},
        )


def _discriminator(network: ForeignNetwork) -> Imported:
    _refuse_other_transformers(network)
    spec = {
        "name": "stylegan-t",
        "side": network.integer("dino", "img_resolution", high=4096, default=224),
        "crop_probability": network.setting("", "p_crop", default=0.5),
        "group": network.integer("heads.0.main.0.1", "virtual_bs", default=8),
    }
    if network.integer("", "c_dim", low=0, high=MAX_CLASSES):
        spec["cmap_dim"] = network.shape("heads.0.cls.weight_orig", 3)[0]
    tensors = {name: tensor for name, tensor in network.tensors.items() if not name.startswith("dino.")}
    return Imported("discriminator", spec, image_shape(network), tensors, sections=diffaugment(network))


def _refuse_other_transformers(network: ForeignNetwork) -> None:
    """Raise GankitError unless the frozen transformer is DINO ViT-S/16: heads only work with its features."""
    width, _, patch, _ = network.shape(f"{DINO}.patch_embed.proj.weight", 4)
    blocks = 0
    while f"{DINO}.blocks.{blocks}.norm1.weight" in network.tensors:
        blocks += 1
    if (width, blocks, patch) != VIT_S16:
        raise GankitError(
            f"{network.origin}: {network.role} reads a vision transformer of width {width} with {blocks} blocks and "
            f"patches of {patch} pixels, where gankit has DINO ViT-S/16 ({VIT_S16[0]}, {VIT_S16[1]} and {VIT_S16[2]}); "
            "its heads are of no use without the network that they were trained on"
        )


def _tower_spec(network: ForeignNetwork) -> dict[str, Any]:
    """The text tower as options of conditioner 'clip-tower'."""
    block = f"{TOWER}.transformer.resblocks"
    layers = 0
    while f"{block}.{layers}.ln_1.weight" in network.tensors:
        layers += 1
    vocab_size, width = network.shape(f"{TOWER}.token_embedding.weight", 2)
    gelu = network.modules.get(f"{block}.0.mlp.gelu")
    return {
        "name": "clip-tower",
        "embed_dim": network.shape(f"{TOWER}.text_projection", 2)[-1],
        "context_length": network.shape(f"{TOWER}.positional_embedding", 2)[0],
        "vocab_size": vocab_size,
        "width": width,
        "heads": network.integer(f"{block}.0.attn", "num_heads", high=width),
        "layers": layers,
        "quick_gelu": gelu is not None and gelu.class_name == "QuickGELU",
    }


def _tower_tensors(tower: dict[str, TensorRecord]) -> dict[str, TensorRecord]:
    """Tensors of the text tower under the names of conditioner 'clip-tower'."""
    left_out = f"{TOWER}.logit_scale"  # of the contrastive loss
    return {f"encoder.{name.removeprefix(TOWER + '.')}": t for name, t in tower.items() if name != left_out}
