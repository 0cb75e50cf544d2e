"""Path length against StyleGAN2's reference vectors and by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from step_contexts import Phases, context
from torch import Tensor, nn

from gankit.core.interfaces.conditions import Condition
from gankit.core.interfaces.networks import Generator
from gankit.core.runtime import random
from gankit.core.runtime.random import batch_random
from gankit.plugins.regularizers.path_length import PathLength


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# ------------------------------------------------------------------------------------------- reference vectors


@pytest.fixture(params=["loss_sg2", "loss_sg2_cond"])
def phases(request: pytest.FixtureRequest) -> Phases:
    return Phases(request.param)


def test_path_length_matches_the_original(phases: Phases, monkeypatch: pytest.MonkeyPatch) -> None:
    case = phases.cases["Greg"]
    noise = case.inputs["pl_randn"]
    monkeypatch.setattr(random, "randn", lambda *shape, device=None: noise)
    regularizer = PathLength(
        weight=phases.settings["pl_weight"],
        decay=phases.settings["pl_decay"],
        batch_shrink=phases.settings["pl_batch_shrink"],
    )
    regularizer.pl_mean.fill_(phases.settings["pl_mean"])
    z = case.inputs["z"]
    step = context(
        G=phases.G,
        real=torch.zeros(len(z), *phases.G.image_shape),
        cond=Condition(case.inputs["c_gen"]),
        sample_z=lambda count: z[:count],
    )
    penalty = regularizer.penalty(step)
    case.check("Loss.G.reg", penalty)
    case.check("Loss.pl_penalty", penalty / regularizer.weight)
    case.check("pl_mean_after", regularizer.pl_mean)
    phases.check_gradients(case, phases.G, penalty)


# -------------------------------------------------------------------------------------------------------- small cases


class LinearG(Generator):
    """w = scale * z for each of two levels; the image is their weighted sum, so that |J| is known for given noise."""

    z_dim = w_dim = 12
    num_ws = 2
    image_shape = (3, 2, 2)

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.seen: list[Tensor] = []

    def mapping(self, z: Tensor, cond: Any = None, **_: Any) -> Tensor:
        self.seen.append(z)
        return z[:, None].repeat(1, 2, 1)

    def synthesis(self, ws: Tensor, cond: Any = None, *, noise_mode: str = "random") -> Tensor:
        return (self.scale * (ws[:, 0] + 2 * ws[:, 1])).view(-1, 3, 2, 2)


def test_path_length_by_hand() -> None:
    """J is scale * (n, 2 n) / sqrt(HW) for noise n; the mean's own gradient is part of the penalty's."""
    G = LinearG(1.5)
    regularizer = PathLength(weight=3.0, decay=0.2, batch_shrink=2)
    regularizer.pl_mean.fill_(4.0)
    step = context(G=G, real=torch.zeros(6, 3, 2, 2), sample_z=lambda count: random.randn(count, 12))
    with batch_random("step", total=6):
        penalty = regularizer.penalty(step)
    with batch_random("step", total=6):
        random.randn(6, 12)
        noise = random.randn(6, 3, 2, 2)[:3] / math.sqrt(4)
    lengths = 1.5 * noise.square().sum((1, 2, 3)).mul((1 + 4) / 2).sqrt()
    mean = 4.0 + 0.2 * (lengths.mean() - 4.0)
    assert penalty.shape == (3,)
    torch.testing.assert_close(penalty.detach(), 3 * (lengths - mean).square())
    torch.testing.assert_close(regularizer.pl_mean, mean)
    assert list(regularizer.state_dict()) == ["pl_mean"]
    (gradient,) = torch.autograd.grad(penalty.mean(), G.scale)
    expected = (2 * 3 * (lengths - mean) * (lengths - 0.2 * lengths.mean()) / 1.5).mean()
    torch.testing.assert_close(gradient, expected)


def test_path_length_uses_other_latents_in_each_micro_batch() -> None:
    G = LinearG(1.0)
    step = context(G=G, sample_z=lambda count: random.randn(count, 12))
    for start in (0, 4):
        with batch_random("step", total=8, start=start, count=4):
            PathLength().penalty(step)
    first, second = G.seen
    assert len(first) == len(second) == 2
    assert not torch.equal(first, second)
