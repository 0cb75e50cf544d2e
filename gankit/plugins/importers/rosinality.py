"""Importer of StyleGAN2 networks from state dicts of rosinality's stylegan2-pytorch.

That implementation computes what the official networks compute; names differ, and tensors have more dimensions of size
1. Files hold the dictionaries g_ema, g and d, and sometimes latent_avg, the mean of w.
"""

from __future__ import annotations

import torch

from gankit.core.cuda import setup_filter
from gankit.core.nn.stylegan_layers import MappingNetwork
from gankit.errors import GankitError
from gankit.interop.importer import Imported, Importer
from gankit.interop.torch_files import ForeignNetwork, TensorRecord
from gankit.plugins.importers.stylegan2 import channel_options

MEAN_OF = 10_000  # latents to average over if the file has no mean of w


class RosinalityImporter(Importer):
    """StyleGAN2 generators (skip) and discriminators (resnet) of rosinality's stylegan2-pytorch."""

    classes = ("state dict of rosinality's stylegan2-pytorch",)

    def recognises(self, network: ForeignNetwork) -> bool:
        names = network.tensors
        return not network.modules and any(
            mark in names for mark in ("to_rgb1.conv.weight", "final_linear.0.weight", "S.net.0.weight")
        )

    def convert(self, network: ForeignNetwork) -> Imported:
        if "S.net.0.weight" in network.tensors:
            raise GankitError(
                f"{network.origin} is of lucidrains' stylegan2-pytorch, which has other layers than StyleGAN2 "
                "(bilinear upsampling, other activations): no network of gankit can hold its weights"
            )
        if "final_linear.0.weight" in network.tensors:
            return _discriminator(network)
        return _generator(network)


def _generator(network: ForeignNetwork) -> Imported:
    depth = levels = 0
    while f"style.{depth + 1}.weight" in network.tensors:
        depth += 1
    while f"to_rgbs.{levels}.bias" in network.tensors:
        levels += 1
    size = 4 << levels
    w_dim = network.shape("style.1.weight", 2)[0]
    layers = ["conv1", *(f"convs.{i}" for i in range(1, 2 * levels, 2))]  # the last of each level
    widths = [network.shape(f"{layer}.conv.modulation.weight", 2)[0] for layer in layers]
    out = _Names(network)
    for i in range(depth):
        for part in ("weight", "bias"):
            out.take(f"mapping.fc{i}.{part}", f"style.{i + 1}.{part}")
    out.take("synthesis.b4.const", "input.input", drop=1)
    for level in range(levels + 1):
        block = f"synthesis.b{4 << level}"
        if level:
            out.layer(f"{block}.conv0", f"convs.{2 * level - 2}", f"noises.noise_{2 * level - 1}")
        out.layer(f"{block}.conv1", layers[level], f"noises.noise_{2 * level}")
        rgb = f"to_rgbs.{level - 1}" if level else "to_rgb1"
        out.modulated(f"{block}.torgb", f"{rgb}.conv")
        out.take(f"{block}.torgb.bias", f"{rgb}.bias", keep=1)
        out.filter(block)
    out.tensors["mapping.w_avg"] = _mean(network, out.tensors, w_dim, depth)
    spec = {
        "name": "stylegan2",
        "z_dim": network.shape("style.1.weight", 2)[1],
        "w_dim": w_dim,
        "mapping_layers": depth,
        "w_avg_beta": 0.995,
        **channel_options(widths, size),
    }
    return Imported("generator", spec, (3, size, size), out.tensors)


def _mean(network: ForeignNetwork, tensors: dict[str, TensorRecord], w_dim: int, depth: int) -> TensorRecord:
    """The mean of w [w_dim], the centre of truncation: latent_avg of the file, or the mean over MEAN_OF random
    latents."""
    if "latent_avg" in network.extras:
        return network.extras["latent_avg"].reshaped(w_dim)
    z_dim = network.shape("style.1.weight", 2)[1]
    if any(network.shape(f"style.{i + 1}.weight", 2) != (w_dim, w_dim if i else z_dim) for i in range(depth)):
        raise GankitError(f"{network.origin}: the mapping network of {network.role} has layers of odd shapes")
    mapping = MappingNetwork(z_dim, 0, w_dim, None, num_layers=depth, w_avg_beta=None)
    layers = {
        n.removeprefix("mapping."): t.to_tensor() for n, t in tensors.items() if n.startswith("mapping.")
    }
    mapping.load_state_dict(layers)
    with torch.no_grad():
        z = torch.randn(MEAN_OF, z_dim, generator=torch.Generator().manual_seed(0))
        return TensorRecord.of(mapping(z).mean(0))


def _discriminator(network: ForeignNetwork) -> Imported:
    levels = 0
    while f"convs.{levels + 1}.conv1.0.weight" in network.tensors:
        levels += 1
    size = 4 << levels
    out = _Names(network)
    top = f"b{size}" if levels else "b4"
    out.take(f"{top}.fromrgb.weight", "convs.0.0.weight")
    out.take(f"{top}.fromrgb.bias", "convs.0.1.bias", keep=1)
    out.filter(f"{top}.fromrgb")
    widths = [network.shape("convs.0.0.weight", 4)[0]]
    for i in range(1, levels + 1):
        block, source = f"b{size >> (i - 1)}", f"convs.{i}"
        out.take(f"{block}.conv0.weight", f"{source}.conv1.0.weight")
        out.take(f"{block}.conv0.bias", f"{source}.conv1.1.bias", keep=1)
        out.take(f"{block}.conv1.weight", f"{source}.conv2.1.weight")
        out.take(f"{block}.conv1.bias", f"{source}.conv2.2.bias", keep=1)
        out.take(f"{block}.skip.weight", f"{source}.skip.1.weight")
        for part in (block, f"{block}.conv0", f"{block}.conv1", f"{block}.skip"):
            out.filter(part)
        widths.append(network.shape(f"{source}.conv2.1.weight", 4)[0])
    out.take("b4.conv.weight", "final_conv.0.weight")
    out.take("b4.conv.bias", "final_conv.1.bias", keep=1)
    out.filter("b4.conv")
    for name, source in (("b4.fc", "final_linear.0"), ("b4.out", "final_linear.1")):
        out.take(f"{name}.weight", f"{source}.weight")
        out.take(f"{name}.bias", f"{source}.bias")
    spec = {"name": "stylegan2", **channel_options(widths[::-1], size)}
    return Imported("discriminator", spec, (3, size, size), out.tensors)


class _Names:
    """Collects the tensors of a file under the official names."""

    def __init__(self, network: ForeignNetwork) -> None:
        self.network = network
        self.tensors: dict[str, TensorRecord] = {}

    def take(self, name: str, source: str, *, drop: int = 0, keep: int | None = None) -> None:
        """Store the tensor `source` as `name`. Raises GankitError if it is missing.

        `drop` leading dimensions of size 1 are removed, or, with `keep`, all of size 1 but as many as `keep` dimensions
        need.
        """
        record = self.network.tensors.get(source)
        if record is None:
            raise GankitError(f"{self.network.origin}: {self.network.role} has no tensor {source!r}")
        shape = record.shape[drop:]
        if keep is not None:
            shape = tuple(n for n in shape if n != 1)
            shape += (1,) * (keep - len(shape))
        self.tensors[name] = record.reshaped(*shape)

    def filter(self, name: str) -> None:
        """Store the resampling filter [1, 3, 3, 1], which files hold with other factors, or not at all."""
        self.tensors[f"{name}.resample_filter"] = TensorRecord.of(setup_filter([1, 3, 3, 1]))

    def modulated(self, name: str, source: str) -> None:
        self.take(f"{name}.weight", f"{source}.weight", drop=1)
        for part in ("weight", "bias"):
            self.take(f"{name}.affine.{part}", f"{source}.modulation.{part}")

    def layer(self, name: str, source: str, noise: str) -> None:
        self.modulated(name, f"{source}.conv")
        self.take(f"{name}.bias", f"{source}.activate.bias", keep=1)
        self.take(f"{name}.noise_strength", f"{source}.noise.weight", keep=0)
        self.take(f"{name}.noise_const", noise, drop=2)
        self.filter(name)
