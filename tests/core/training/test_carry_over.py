"""What a new stage starts from: weights, moments and averages that are carried over or begin anew."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runs import assert_same, tensors_of
from stages import GROW, at, train

from gankit.core.training.step import Stepper


def test_what_a_new_stage_starts_from(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    still = {"lr_g": 1e-12, "lr_d": 1e-12, "ema_kimg": 1e6}
    stages = [GROW[0], {**GROW[1], "train": {**GROW[1]["train"], **still}, "schedules": {}}, {**GROW[2]}]
    stages[2] = {**stages[1], "train": {"batch": 4, **still}}  # all trained again
    del stages[2]["until"]
    kept: list[Stepper] = []
    original = Stepper.run
    monkeypatch.setattr(Stepper, "run", lambda self, *a, **k: (kept.append(self), original(self, *a, **k))[1])
    train(tmp_path, images, 32, stages=stages)
    old, new, newest = (tensors_of(at(tmp_path, n)) for n in (16, 20, 32))
    fresh = 0
    for name, tensor in new.items():
        if name.endswith(("w_avg", "resample_filter", "noise_const")) or "optimizer" in name:
            continue
        if name.startswith(("generator", "training/generator")):
            average = "generator.safetensors:" + name.partition(":")[2]
            if average in old:  # both go on from the average
                assert torch.allclose(tensor, old[average], atol=1e-6), name
            else:
                assert "b32" in name
                fresh += 1
        elif name.startswith("training/discriminator") and name in old:
            assert torch.allclose(tensor, old[name], atol=1e-6), name
    assert fresh > 3
    for name, tensor in newest.items():
        if name.startswith("training/discriminator") and name.endswith("weight"):
            assert torch.allclose(tensor, new[name], atol=1e-6), name

    steppers = list(dict.fromkeys(kept))
    assert len(steppers) == 3
    grown, all_of_it = steppers[1:]
    first = all_of_it.parts.D.b16.conv0.weight  # type: ignore[union-attr, attr-defined]
    # main steps and the lazy regularizer's: moments went on from stage 2, which began anew
    assert grown.optimizers["D"].state[grown.parts.D.b16.conv0.weight]["step"] == 3 + 2  # type: ignore[union-attr, attr-defined, index]
    assert all_of_it.optimizers["D"].state[first]["step"] == 5 + 1
    assert grown.averages["posthoc-0.1"].start == 16
    assert all_of_it.averages["posthoc-0.1"].start == 16


def test_networks_that_begin_anew(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights and moments of D are those of a fresh one; all else goes on."""
    kept: list[Stepper] = []
    original = Stepper.run
    monkeypatch.setattr(Stepper, "run", lambda self, *a, **k: (kept.append(self), original(self, *a, **k))[1])
    still = {
        "train": {"batch": 4, "lr_g": 1e-12, "lr_d": 1e-12},
        "schedules": {},
        "restart": ["discriminator"],
    }
    train(tmp_path, images, 20, stages=[{"until": 16, "train": {"batch": 4}}, still])
    old, new = tensors_of(at(tmp_path, 16)), tensors_of(at(tmp_path, 20))
    changed = {n: not torch.allclose(t, new[n], atol=1e-6) for n, t in old.items() if n.endswith(".weight")}
    assert all(value for name, value in changed.items() if name.startswith("training/discriminator"))
    assert not any(value for name, value in changed.items() if name.startswith("training/generator"))
    last = list(dict.fromkeys(kept))[-1]
    assert last.optimizers["D"].state[last.parts.D.b16.conv0.weight]["step"] <= 2  # type: ignore[union-attr, attr-defined, index]
    assert last.optimizers["G"].state[last.parts.G.synthesis.b16.conv1.weight]["step"] > 2  # type: ignore[union-attr, attr-defined, index]


def test_a_stage_that_changes_nothing_changes_nothing(images: Path, tmp_path: Path) -> None:
    """Weights, average, moments, augmentation, regularizers and post-hoc averages go on as if there were no stages."""
    plain = train(tmp_path / "plain", images, 40, stages=[])
    staged = train(tmp_path / "staged", images, 40, stages=[{"until": 16}, {}])
    assert_same(plain, staged)
    slower = train(tmp_path / "slower", images, 40, stages=[{"until": 16}, {"train": {"lr_d": 0.0001}}])
    assert_same(at(tmp_path / "plain", 16), at(tmp_path / "slower", 16))
    with pytest.raises(AssertionError):
        assert_same(plain, slower, 1e-3)
