"""Perceptual path length against its definition."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from metric_cases import distance
from torch import Tensor, nn

from gankit.core.runtime.random import rand, randn
from gankit.evaluation.metric_context import MetricContext
from gankit.plugins.metrics.path_length import (
    PathLengthW,
    PathLengthWFull,
    PathLengthZ,
    PathLengthZFull,
    slerp,
)
from gankit.testing.metrics import toy_context


@pytest.mark.parametrize("kind", [PathLengthW, PathLengthWFull, PathLengthZ, PathLengthZFull])
def test_path_length_by_its_definition(kind: type[PathLengthW]) -> None:
    context = toy_context(6)
    generator, epsilon = context.pipe.generator, 0.05
    found = kind(epsilon=epsilon).probe(context)
    lengths = []
    with torch.no_grad():
        for part in context.parts(6):
            with part.random("path"):
                latents = randn(part.count, 2, generator.z_dim).numpy()
                starts = rand(part.count, 1)[:, 0].tolist()
            for (z0, z1), t in zip(latents, starts):
                pictures = []
                for place in (t * kind.full, t * kind.full + epsilon):
                    if kind.space == "z":
                        a, b = z0 / np.linalg.norm(z0), z1 / np.linalg.norm(z1)
                        angle = math.acos(a @ b)
                        z = (math.sin((1 - place) * angle) * a + math.sin(place * angle) * b) / math.sin(
                            angle
                        )
                        ws = generator.mapping(torch.from_numpy(z * math.sqrt(8)).float()[None])
                    else:
                        w0, w1 = (generator.mapping(torch.from_numpy(z)[None]) for z in (z0, z1))
                        ws = w0 + (w1 - w0) * place
                    pictures.append(generator.synthesis(ws)[0])
                lengths.append(distance(context, *pictures) / epsilon**2)
    kept = sorted(lengths)  # the smallest and the largest of few are the percentiles themselves
    assert found["ppl"] == pytest.approx(np.mean(kept), rel=1e-4)
    assert found["ppl_std"] == pytest.approx(np.std(kept), rel=1e-4)


def test_path_length_leaves_out_extremes(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(1000.0)
    monkeypatch.setattr(MetricContext, "rows", lambda *_, **__: values[::-1, None])
    # method 'lower' of 1% of 0..999 is 9, 'higher' of 99% is 990; both stay
    assert PathLengthW().probe(toy_context())["ppl"] == np.mean(values[9:991])


def test_both_ends_of_a_step_have_the_same_noise() -> None:
    """Otherwise noise over epsilon^2 is all that there is."""
    context = toy_context(8)
    plain = PathLengthW(epsilon=1e-2).probe(context)["ppl"]
    synthesis = context.pipe.generator.synthesis

    class Noisy(nn.Module):
        def forward(self, ws: Tensor, cond: Any = None) -> Tensor:
            return synthesis(ws) + 0.02 * randn(len(ws), 3, 32, 32)

    context.pipe.generator.synthesis = Noisy()
    assert 0.2 * plain < PathLengthW(epsilon=1e-2).probe(context)["ppl"] < 5 * plain


def test_crop_is_the_middle_of_a_face() -> None:
    image = torch.arange(64.0).view(1, 1, 8, 8)
    assert PathLengthW(crop=True)._cropped(image)[0, 0, :, 0].tolist() == [26, 34, 42, 50]
    assert PathLengthW(crop=True)._cropped(image)[0, 0, 0].tolist() == [26, 27, 28, 29]


def test_slerp_keeps_to_the_sphere() -> None:
    a, b = torch.randn(5, 16), torch.randn(5, 16)
    for t in (0.0, 0.3, 1.0):
        assert torch.allclose(slerp(a, b, torch.full((5, 1), t)).norm(dim=1), torch.full((5,), 4.0))
    assert torch.allclose(slerp(a, b, torch.ones(5, 1)), b / b.norm(dim=1, keepdim=True) * 4, atol=1e-4)
