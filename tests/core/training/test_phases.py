"""The list of phases of a step: which run when, what they train, and in which precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from runs import TINY, log_of, train

from gankit.core.config import recipe as recipes
from gankit.core.interfaces.training import StepContext
from gankit.core.training.assembly import rehearse
from gankit.core.training.dry_run import assumed_vocabulary, describe_training
from gankit.core.training.phases import Losses, Phase, build_phases
from gankit.plugins.regularizers.mismatch import Mismatch
from gankit.plugins.regularizers.r1 import R1


def phases_of(**changes: Any) -> list[Phase]:
    options = {**TINY, **{key.replace("__", "."): value for key, value in changes.items()}}
    recipe = recipes.read("stylegan2-class", options)
    parts = rehearse(recipe, assumed_vocabulary(recipe))
    return build_phases(Losses(parts, recipe.train, bf16=False))


LAZY = {"r1": {"interval": 2}, "path-length": {"interval": 2}, "mismatch": {}}


def test_a_step_is_a_list_of_phases() -> None:
    phases = phases_of(regularizers=LAZY, train__order="dg")
    assert [(p.name, p.side, p.interval, p.offset) for p in phases] == [
        ("D", "D", 1, 0),
        ("r1", "D", 2, 0),
        ("G", "G", 1, 0),
        ("path-length", "G", 2, 0),
    ]
    assert [p.terms for p in phases] == [
        ("adversarial", "mismatch"),
        ("r1",),
        ("adversarial",),
        ("path-length",),
    ]
    roots = [{name.split(".")[0] for name in p.parameters} for p in phases]
    assert roots == [{"discriminator"}, {"discriminator"}, {"generator"}, {"generator"}]


@pytest.mark.parametrize(
    ("order", "runs"),
    [
        ("dg", ["D r1", "D G path-length", "D r1", "D G", "D r1", "D G path-length"]),
        ("gd", ["G path-length D r1", "D", "G D r1", "D", "G path-length D r1", "D"]),
    ],
)
def test_two_steps_of_d_for_one_of_g(order: str, runs: list[str]) -> None:
    phases = phases_of(regularizers=LAZY, train__order=order, train__d_steps=2)
    assert [" ".join(p.name for p in phases if p.due(step)) for step in range(6)] == runs


def test_the_dry_run_prints_them() -> None:
    text = describe_training(recipes.read("stylegan2-class", {**TINY, "regularizers": LAZY}))
    rows = [line.split()[:3] for line in text.splitlines()]
    assert ["D", "D", "step"] in rows
    assert ["r1", "D", "2"] in rows
    assert "non-saturating + mismatch" in text


@pytest.mark.parametrize("interval", [1, 2])
def test_a_regularizer_runs_in_its_own_precision_at_every_interval(
    interval: int, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[bool]] = {"R1": set(), "Mismatch": set()}
    for kind in (R1, Mismatch):

        def spy(self: Any, step: StepContext, original: Any = kind.penalty) -> torch.Tensor:
            seen[type(self).__name__].add(torch.is_autocast_enabled("cpu"))
            return original(self, step)

        monkeypatch.setattr(kind, "penalty", spy)
    monkeypatch.setattr("gankit.core.runtime.devices.multiplies", lambda *_: True)
    regularizers = {"r1": {"interval": interval}, "mismatch": {"interval": interval}}
    options = {"train.precision": "bf16", "train.images": 16, "conditioner": "class"}
    train(tmp_path, images, regularizers=regularizers, **options)
    assert seen == {"R1": {False}, "Mismatch": {True}}


def test_what_a_regularizer_puts_into_terms_is_logged(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = R1.penalty

    def noted(self: R1, step: StepContext) -> torch.Tensor:
        value = original(self, step)
        step.terms["r1/labels"] = torch.tensor(float(len(step.labels)))
        return value

    monkeypatch.setattr(R1, "penalty", noted)
    train(tmp_path, images, regularizers={"r1": {"interval": 1}}, train__images=8)
    assert log_of(tmp_path)[0]["r1/labels"] == 8


def test_a_class_that_states_no_precision_has_that_of_its_derivatives() -> None:
    class First(R1):
        second_order = False

    class Own(First):
        precision = "fp32"

    assert (R1.precision, First.precision, Own.precision) == ("fp32", "mixed", "fp32")
