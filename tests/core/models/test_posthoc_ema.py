"""Post-hoc EMA: profiles, their least-squares fit, tracking in a run, `gankit ema`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conditioning_utils import make_bert
from runs import TINY, Result, assert_same, tensors_of
from torch import nn

import gankit
from gankit.core.models.posthoc_ema import PowerAverages, beta_of, fit, gamma_of, inner_products, length_of
from gankit.errors import GankitError
from gankit.interop import blend

GRID = (np.arange(200_000) + 0.5) / 200_000  # midpoints of (0, 1]


def profile(time: float, length: float) -> np.ndarray:
    """(gamma + 1) / t^(gamma + 1) * tau^gamma up to t, on the grid."""
    gamma = gamma_of(length)
    return np.where(time >= GRID, (gamma + 1) / time * (np.minimum(GRID, time) / time) ** gamma, 0)


@pytest.mark.parametrize(("length", "gamma"), [(0.05, 16.97), (0.1, 6.94)])
def test_lengths_of_the_paper(length: float, gamma: float) -> None:
    assert gamma_of(length) == pytest.approx(gamma, abs=0.005)
    assert length_of(gamma_of(length)) == pytest.approx(length, rel=1e-12)
    weights = profile(1, length) / len(GRID)
    mean = (weights * GRID).sum()
    assert weights.sum() == pytest.approx(1, rel=1e-4)
    assert ((weights * (GRID - mean) ** 2).sum()) ** 0.5 == pytest.approx(length, rel=1e-4)


@pytest.mark.parametrize("length", [0, -0.1, 0.29, float("nan")])
def test_lengths_out_of_range(length: float) -> None:
    with pytest.raises(ValueError, match="length"):
        gamma_of(length)


def test_inner_products_are_integrals() -> None:
    cases = [(1.0, 0.05), (0.4, 0.1), (0.75, 0.2), (0.4, 0.05)]
    t = torch.tensor([time for time, _ in cases]).double()
    g = torch.tensor([gamma_of(length) for _, length in cases]).double()
    found = inner_products(t, g, t, g)
    for i, a in enumerate(cases):
        for j, b in enumerate(cases):
            assert found[i, j].item() == pytest.approx((profile(*a) * profile(*b)).mean(), rel=1e-3)


@pytest.mark.parametrize("length", [0.03, 0.07, 0.15, 0.25])
def test_the_fit_is_the_least_squares_solution(length: float) -> None:
    """Against numpy's solver on sampled profiles, in which nothing of the closed form is used."""
    times = [0.2, 0.4, 0.6, 0.8, 1.0] * 2
    lengths = [0.05] * 5 + [0.1] * 5
    basis = np.stack([profile(t, w) for t, w in zip(times, lengths)], axis=1)
    last = basis[:, -1:]  # its coefficient is what the others leave of 1
    others, *_ = np.linalg.lstsq(basis[:, :-1] - last, profile(1, length) - last[:, 0], rcond=None)
    expected = np.append(others, 1 - others.sum())
    found, error = fit([1000 * t for t in times], lengths, 1000, length)
    assert found == pytest.approx(expected, abs=2e-3)
    assert sum(found) == pytest.approx(1, abs=1e-9)
    rest = np.linalg.norm(basis @ expected - profile(1, length)) / np.linalg.norm(profile(1, length))
    assert error == pytest.approx(rest, rel=0.01)


def test_the_fit_of_a_snapshot_is_that_snapshot() -> None:
    times = [float(t) for t in range(100, 5001, 100)]
    found, error = fit(times * 2, [0.05] * 50 + [0.1] * 50, 5000, 0.1)
    assert found == pytest.approx([0.0] * 99 + [1.0], abs=1e-4)
    assert error < 1e-5


@pytest.mark.parametrize("length", [0.04, 0.075, 0.15, 0.2])
def test_reconstruction_is_near_to_direct_tracking(length: float) -> None:
    """Of weights that drift and jitter, as in training."""
    generator = torch.Generator().manual_seed(0)
    network = nn.Linear(16, 16)
    tracked, direct = PowerAverages([0.05, 0.1], {"g": network}), PowerAverages([length], {"g": network})
    walk, snapshots, batch, steps = torch.zeros(16, 16), [], 4, 4000
    for step in range(1, steps + 1):
        walk = walk + 0.02 * torch.randn(16, 16, generator=generator)
        with torch.no_grad():
            network.weight.copy_(walk + 0.2 * torch.randn(16, 16, generator=generator))
        for averages in (tracked, direct):
            averages.update({"g": network}, step * batch, batch)
        if step % 80 == 0:
            snapshots += [
                (step * batch, key, averages["g"].weight.clone().double())
                for key, averages in tracked.averages.items()
            ]
    wanted = direct.averages[length]["g"].weight
    times, lengths, tensors = zip(*snapshots)
    weights, _ = fit(times, lengths, steps * batch, length)
    found = sum(w * tensor for w, tensor in zip(weights, tensors))
    error = (found - wanted).norm() / wanted.norm()
    nearest = min((tracked.averages[key]["g"].weight - wanted).norm() / wanted.norm() for key in (0.05, 0.1))
    assert error < 1e-3
    assert error < nearest / 100


def test_the_first_update_takes_the_weights_as_they_are() -> None:
    assert beta_of(6.94, 32, 32) == 0
    averages, network = PowerAverages([0.1], {"g": nn.Linear(2, 2)}), nn.Linear(2, 2)
    averages.start = 100
    averages.update({"g": network}, 108, 8)
    assert torch.equal(averages.averages[0.1]["g"].weight, network.weight)


# ---------------------------------------------------------------------------------------------------- in a run

OPTIONS = {
    **TINY,
    "train.posthoc_ema": [0.05, 0.1],
    "train.posthoc_every": 16,
    "train.lr_g": 0.02,
    "regularizers": {},
}


def train(out: Path, images: Path, length: int, **overrides: Any) -> Path:
    changes = {**OPTIONS, "train.images": length, **overrides}
    return gankit.train("stylegan2", out, data=str(images), overrides=changes, quiet=True)


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("posthoc") / "run"
    train(out, images, 80)
    return out


def test_snapshots_are_models_and_resuming_changes_nothing(run: Path, images: Path, tmp_path: Path) -> None:
    for length in (24, 80):
        last = train(tmp_path / "parts", images, length)
    assert_same(run / "checkpoints" / last.name, last)
    names = {f"{n:09d}-{w}" for n in range(16, 81, 16) for w in (0.05, 0.1)}
    assert {p.name for p in (run / "posthoc").iterdir()} == names
    for name in names:
        assert_same(run / "posthoc" / name, tmp_path / "parts" / "posthoc" / name)
    assert gankit.load(run / "posthoc" / "000000048-0.1")(seeds=0)[0].size == (16, 16)


def test_ema_of_a_tracked_length_is_the_snapshot(
    run: Path, tmp_path: Path, gankit_cli: Callable[..., Result]
) -> None:
    result = gankit_cli("ema", run, tmp_path / "model", "--length", "0.1", "--at", 64)
    assert (result.code, result.err) == (0, "")
    assert "at 64 images, length 0.1, from 8 snapshots; its profile is off by" in result.out
    assert_same(tmp_path / "model", run / "posthoc" / "000000064-0.1", 1e-4)
    with pytest.raises(AssertionError):
        assert_same(tmp_path / "model", run / "posthoc" / "000000080-0.1", 1e-2)


def test_the_usual_name_tells_the_length(
    run: Path, tmp_path: Path, gankit_cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert gankit_cli("ema", run, "--length", "0.1").out.endswith("wrote ema-0.1\n")
    assert gankit.load(tmp_path / "ema-0.1")(seeds=0)[0].size == (16, 16)


def test_ema_of_another_length_is_the_sum_of_snapshots(run: Path, tmp_path: Path) -> None:
    text = blend.ema(run, tmp_path / "model", length=0.07)
    assert "at 80 images, length 0.07, from 10 snapshots" in text
    folders = sorted((run / "posthoc").iterdir())
    times, lengths = zip(*(map(float, p.name.split("-")) for p in folders))
    weights, _ = fit(times, lengths, 80, 0.07)
    snapshots = [tensors_of(p) for p in folders]
    for name, tensor in tensors_of(tmp_path / "model").items():
        if not name.endswith(("noise_const", "resample_filter", "w_avg")):  # the buffers
            expected = sum(w * s[name].double() for w, s in zip(weights, snapshots))
            assert torch.allclose(tensor.double(), expected, atol=1e-5), name
        else:
            assert torch.equal(tensor, snapshots[-1][name]), name
    model = gankit.load(tmp_path / "model")
    assert model(seeds=0)[0].size == (16, 16)


def test_a_trained_text_encoder_is_averaged_too(images: Path, tmp_path: Path) -> None:
    text = {"name": "text", "model": str(make_bert(tmp_path)), "trainable": True}
    train(tmp_path / "run", images, 32, conditioner=text, **{"train.lr_conditioner": 0.01})
    for length, at in ((0.1, 32), (0.05, 16)):
        blend.ema(tmp_path / "run", tmp_path / f"model{at}", length=length, at=at)
        snapshot = tmp_path / "run" / "posthoc" / f"{at:09d}-{length:g}"
        assert_same(tmp_path / f"model{at}", snapshot, 1e-4)
    with pytest.raises(AssertionError):
        assert_same(tmp_path / "model16", tmp_path / "model32", 1e-3, within="conditioner")
    assert gankit.load(tmp_path / "model32")("a square", seeds=0)[0].size == (16, 16)


def test_mistakes_are_told(
    run: Path, images: Path, tmp_path: Path, gankit_cli: Callable[..., Result]
) -> None:
    out = tmp_path / "model"
    for arguments, message in (
        ((run, out, "--length", "0.5"), "--length 0.5 must be above 0 and at most 0.28"),
        ((run, out, "--length", "0"), "--length 0 must be above 0"),
        ((run, out, "--length", "0.1", "--at", "1M"), "--at 1000000 must be from 16 to 80"),
        ((run, out, "--length", "0.1", "--at", "8"), "--at 8 must be from 16 to 80"),
        ((run, out, "--length", "0.1", "--at", "much"), "--at: 'much' is not a number of images"),
        ((run, tmp_path, "--length", "0.1"), "exists already"),
        ((tmp_path, out, "--length", "0.1"), "is not a run"),
    ):
        result = gankit_cli("ema", *arguments)
        assert result.code == 2
        assert message in result.message
        assert not out.exists()
    shutil.copytree(run, tmp_path / "bare", ignore=shutil.ignore_patterns("posthoc"))
    assert "train.posthoc_ema" in gankit_cli("ema", tmp_path / "bare", out, "--length", "0.1").message
    with pytest.raises(GankitError, match=r"train\.posthoc_ema"):
        train(tmp_path / "x", images, 8, **{"train.posthoc_ema": [0.5]})
