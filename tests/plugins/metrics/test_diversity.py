"""Diversity: the mean distance over pairs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from metric_cases import distance

from gankit.core.config import options
from gankit.testing.metrics import toy_context


def test_diversity_is_the_mean_over_pairs() -> None:
    context = toy_context(12, seed=3)
    found = options.build("metric", {"name": "diversity", "images": 4}).probe(context)
    rows = []
    with torch.no_grad():
        for prompt in range(3):
            drawn = context.pipe.generator(context.latents(range(prompt * 4, prompt * 4 + 4)))
            rows.append(np.mean([distance(context, a, b) for a, b in itertools.combinations(drawn, 2)]))
    assert found["diversity"] == pytest.approx(np.mean(rows), rel=1e-4)
    assert found["diversity_se"] == pytest.approx(np.std(rows, ddof=1) / math.sqrt(3), rel=1e-4)


def test_diversity_of_a_collapsed_model_is_zero() -> None:
    context = toy_context(16)
    context.psi = 0.0
    assert options.build("metric", "diversity").probe(context)["diversity"] < 1e-6
