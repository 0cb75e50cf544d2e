"""Attributes that D and two readers learn to tell, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from step_contexts import LinearD, context
from torch import Tensor, nn
from torch.nn import functional as F

from gankit.core.interfaces.conditions import Condition, CondSpec
from gankit.errors import GankitError
from gankit.plugins.conditioning.none import NoCondition
from gankit.plugins.regularizers.attributes import Attributes


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Columns(NoCondition):
    """A conditioner of a class, two tags, and a number that is neither."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = CondSpec(c_dim=4)

    def columns(self) -> list[tuple[str, str]]:
        return [("cls", "cat"), ("text", "0"), ("tags", "red"), ("tags", "big")]


def attributes(**given: Any) -> tuple[Attributes, LinearD, Tensor]:
    """The regularizer with a reader of images that gives each attribute the feature as its logit, D, and images."""
    D = LinearD((1, 1, 1))
    nn.init.ones_(D.w)
    regularizer = Attributes(**given)
    regularizer.set_up(D, Columns(), (1, 1, 1))
    nn.init.ones_(regularizer.of_images.weight)
    return regularizer, D, torch.tensor([-1.0, 0.5, 2.0]).view(-1, 1, 1, 1)


class Reads(nn.Module):
    """A reader of conditions that gives each attribute the same logits, whatever the condition."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)


FULL = torch.tensor([[1.0, 7, 0, 0.5], [0, -7, 1, 0], [1, 0, 0, 1]])  # column 1 is no attribute


def test_attributes_teach_d_and_both_readers() -> None:
    regularizer, D, real = attributes(weight_d=0.5)
    regularizer.of_conditions = Reads(3.0, -3.0, 0.0)  # type: ignore[assignment]
    given = Condition(torch.zeros(3, 4))
    step = context(D=D, real=real, cond=given, full_cond=Condition(FULL), augment=lambda x: 2 * x)
    penalty = regularizer.penalty(step)

    def nats(logit: float, truth: float) -> float:
        return math.log1p(math.exp(-logit if truth else logit))

    wanted = [(1, 0, 1), (0, 1, 0), (1, 0, 1)]  # a weight of 0.5 is there, too
    by_hand = [
        sum(0.5 * nats(2 * x, t) + nats(r, t) for t, r in zip(truth, (3, -3, 0)))
        for x, truth in zip(real.flatten().tolist(), wanted)
    ]
    torch.testing.assert_close(penalty, torch.tensor(by_hand))
    trained = [D.w, regularizer.of_images.weight, *regularizer.of_conditions.parameters()]
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(penalty.sum(), trained))

    D.calls = 0
    step.features["real"] = D.w.flatten() * 2 * real.flatten()
    torch.testing.assert_close(regularizer.penalty(step), penalty)
    assert D.calls == 0


def test_attributes_ask_g_only_for_what_it_was_told() -> None:
    regularizer, D, real = attributes(weight_g=0.5, certainty=0.9)
    regularizer.of_conditions = Reads(3.0, -3.0, 1.0)  # type: ignore[assignment]
    fakes = real.clone().requires_grad_()
    step = context(side="G", D=D, real=real, cond=Condition(FULL), full_cond=Condition(FULL))
    step.features["fake features"] = D.features(fakes)
    penalty = regularizer.penalty(step)
    x = fakes.detach().flatten()
    # sure and right: the first attribute of images 0 and 2, the absence of the second there; never the third
    told = F.softplus(-x) + F.softplus(x)
    torch.testing.assert_close(penalty, 0.5 * torch.stack([told[0], torch.tensor(0.0), told[2]]))
    (gradient,) = torch.autograd.grad(penalty.sum(), fakes)
    assert (gradient.flatten() != 0).tolist() == [True, False, True]


def test_attributes_need_classes_or_tags() -> None:
    with pytest.raises(GankitError, match="classes or tags"):
        Attributes().set_up(LinearD((1, 1, 1)), NoCondition(), (1, 1, 1))
    with pytest.raises(GankitError, match="certainty"):
        Attributes(certainty=0.5)
