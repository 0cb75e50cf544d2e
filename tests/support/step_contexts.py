"""Contexts of a training step, StyleGAN2's reference phases, and a linear discriminator."""

from __future__ import annotations

import functools
from typing import Any

import torch
from golden_utils import Case, load_golden
from torch import Tensor, nn

from gankit.core.interfaces.conditions import Condition, CondSpec
from gankit.core.interfaces.networks import Discriminator
from gankit.core.interfaces.training import StepContext
from gankit.plugins.discriminators.stylegan2 import StyleGAN2Discriminator
from gankit.plugins.generators.stylegan2 import StyleGAN2


def context(**given: Any) -> StepContext:
    defaults = {
        "side": "D",
        "G": None,
        "D": None,
        "real": torch.zeros(4, 3, 8, 8),
        "cond": Condition(),
        "full_cond": Condition(),
        "augment": lambda images: images,
        "sample_z": None,
        "nimg": 0,
    }
    return StepContext(**{**defaults, **given})


class Phases:
    """G and D of a reference file, with constant noise, and the phases' cases."""

    def __init__(self, file: str) -> None:
        golden = load_golden(file)
        self.settings = golden.meta["loss"]
        self.cases = {case.name: case for case in golden.cases}
        init_g, init_d = (golden.meta["init"][name]["kwargs"] for name in ("G", "D"))
        shape = (3, init_g["img_resolution"], init_g["img_resolution"])
        cond = CondSpec(c_dim=init_g["c_dim"])
        self.G = StyleGAN2(
            shape,
            cond,
            z_dim=init_g["z_dim"],
            w_dim=init_g["w_dim"],
            mapping_layers=init_g["mapping_kwargs"]["num_layers"],
            **init_g["synthesis_kwargs"],
        )
        self.D = StyleGAN2Discriminator(
            shape,
            cond,
            channel_base=init_d["channel_base"],
            channel_max=init_d["channel_max"],
            mapping_layers=init_d.get("mapping_kwargs", {}).get("num_layers", 8),
        )
        self.G.load_state_dict(golden.state("G/"))
        self.D.load_state_dict(golden.state("D/"))
        self.G.synthesis.forward = functools.partial(self.G.synthesis.forward, noise_mode="const")

    def fake(self, case: Case) -> Tensor:
        return self.G(case.inputs["z"], Condition(case.inputs["c_gen"]), noise_mode="const")

    def check_gradients(self, case: Case, network: nn.Module, loss: Tensor) -> None:
        """`loss` is [B]; the original back-propagates its mean times the gain."""
        (loss.mean() * self.settings["gain"]).backward()
        names = [name.removeprefix("grad.") for name in case.outputs if name.startswith("grad.")]
        parameters = dict(network.named_parameters())
        assert len(names) > 10
        for name in names:
            gradient = parameters[name].grad
            case.check(f"grad.{name}", torch.zeros_like(parameters[name]) if gradient is None else gradient)


class LinearD(Discriminator):
    """Two networks: sums over the image of w * x and of -2 w * x; the condition is a bias."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(shape))
        self.calls = 0

    def features(self, images: Tensor) -> Tensor:
        self.calls += 1
        return (images * self.w).sum((1, 2, 3))

    def score(self, features: Tensor, cond: Any = None) -> list[Tensor]:
        bias = 0 if cond is None or cond.embedding is None else cond.embedding @ torch.tensor([1.0, 10, 100])
        return [(features + bias)[:, None], (-2 * features)[:, None]]
