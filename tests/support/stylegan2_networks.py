"""StyleGAN2's networks from the arguments and weights of the official ones."""

from __future__ import annotations

import torch
from golden_utils import load_golden

from gankit.core.interfaces.conditions import CondSpec
from gankit.plugins.discriminators.stylegan2 import StyleGAN2Discriminator
from gankit.plugins.generators.stylegan2 import StyleGAN2

SMALL = {"channel_base": 128, "channel_max": 8}
TINY = {"z_dim": 8, "w_dim": 8, "mapping_layers": 2, **SMALL}


def official(name: str, target: type, renamed: dict[str, str]):
    """A network built from the arguments of the official one, with its weights, and the reference data."""
    golden = load_golden(name)
    kwargs = dict(golden.meta["init"]["kwargs"])
    size, c_dim = kwargs.pop("img_resolution"), kwargs.pop("c_dim")
    shape = (kwargs.pop("img_channels"), size, size)
    for group in ("mapping_kwargs", "synthesis_kwargs", "epilogue_kwargs"):
        kwargs.update({renamed.get(key, key): value for key, value in kwargs.pop(group, {}).items()})
    network = target(shape, CondSpec(c_dim=c_dim), **kwargs)
    state = golden.state()
    assert {k: v.shape for k, v in network.state_dict().items()} == {k: v.shape for k, v in state.items()}
    network.load_state_dict(state, strict=True)
    return network, golden


def conditional_pair():
    """A generator and a discriminator of five classes, no weight of which is zero."""
    torch.manual_seed(0)
    generator = StyleGAN2((3, 16, 16), CondSpec(c_dim=5), **TINY)
    discriminator = StyleGAN2Discriminator((3, 16, 16), CondSpec(c_dim=5), mapping_layers=2, **SMALL)
    generator.mapping.w_avg.normal_()
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            if name.endswith(("noise_strength", ".bias")):
                torch.nn.init.normal_(parameter)
    return generator, discriminator
