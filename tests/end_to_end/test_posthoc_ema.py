"""Post-hoc EMA of a run: the snapshots that training leaves, and `gankit ema`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conditioning_utils import make_bert
from runs import TINY, Result, assert_same, tensors_of

import gankit
from gankit.core.models.posthoc_ema import fit
from gankit.errors import GankitError
from gankit.interop import blend

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
