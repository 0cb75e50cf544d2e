"""The mismatch regularizer: images with another image's condition, by hand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from step_contexts import LinearD, context
from torch import Tensor, nn

from gankit.core.interfaces.conditions import Condition
from gankit.errors import GankitError
from gankit.plugins.regularizers.mismatch import Mismatch


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def mismatch(
    rows: Iterable[Iterable[float]], regularizer: Mismatch, **given: Any
) -> tuple[Tensor, Tensor, LinearD]:
    """Penalty of images 0.01, 0.02, ... under conditions `rows`, the D used, and the features of the images."""
    cond = torch.tensor([list(row) for row in rows], dtype=torch.float32)
    D = LinearD((1, 1, 1))
    nn.init.ones_(D.w)
    real = 0.01 * torch.arange(1, len(cond) + 1).view(-1, 1, 1, 1)
    penalty = regularizer.penalty(context(D=D, real=real, cond=Condition(cond), **given))
    return penalty, real.flatten(), D


@pytest.mark.parametrize("form", ["hinge", "softplus"])
def test_mismatch_scores_the_previous_rows_condition(form: Any) -> None:
    penalty, x, D = mismatch([[1, 0, 0], [0, 1, 0], [0, 0, 1]], Mismatch(form=form, weight=0.5))
    first, second = x + torch.tensor([100.0, 1, 10]), -2 * x
    penalise = torch.nn.functional.softplus if form == "softplus" else lambda t: (1 + t).relu()
    torch.testing.assert_close(penalty, 0.5 * (penalise(first) + penalise(second)))
    (gradient,) = torch.autograd.grad(penalty.sum(), D.w)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize(
    ("rows", "counted"),
    [
        ([[1, 0, 0], [1, 0, 0], [0, 1, 0]], [True, False, True]),  # the same class
        ([[0, 0, 0], [0, 0, 0], [0, 0, 0]], [False, False, False]),  # all hidden
        ([[1, 0, 0], [0, 0, 0], [0, 1, 0]], [True, False, False]),  # own hidden, foreign hidden
        ([[1, 0, 0], [1, 1, 0], [0, 0, 1]], [True, False, True]),  # foreign is a part of the own
        ([[1, 0, 0]], [False]),
    ],
)
def test_mismatch_leaves_out_pairs_that_fit(rows: list[list[float]], counted: list[bool]) -> None:
    penalty, _, D = mismatch(rows, Mismatch())
    assert (penalty > 0).tolist() == counted
    (gradient,) = torch.autograd.grad(penalty.sum(), D.w)
    assert gradient.isfinite().all()


def test_mismatch_compares_tokens_under_their_mask() -> None:
    tokens = torch.ones(3, 2, 4)
    tokens[:, 1] = torch.tensor([5.0, 6, 7])[:, None]  # differ, but only in the second token
    D = LinearD((1, 1, 1))
    for second, counted in ((False, [False] * 3), (True, [True] * 3)):
        mask = torch.tensor([[True, second]]).expand(3, -1)
        step = context(D=D, real=torch.zeros(3, 1, 1, 1), cond=Condition(None, tokens, mask))
        assert (Mismatch().penalty(step) > 0).tolist() == counted


def test_mismatch_reuses_the_features_of_the_main_step() -> None:
    rows = [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]
    computed, x, D = mismatch(rows, Mismatch(), augment=lambda images: 2 * images)
    assert D.calls == 1
    reused, _, D = mismatch(rows, Mismatch(), features={"real": 2 * x})
    assert D.calls == 0
    torch.testing.assert_close(reused, computed)


def test_mismatch_needs_a_condition() -> None:
    with pytest.raises(GankitError, match="conditional"):
        Mismatch().penalty(context(D=LinearD((3, 8, 8))))
