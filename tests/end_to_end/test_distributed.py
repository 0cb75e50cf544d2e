"""Runs of several processes compute what one does, and tell mistakes once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conditioning_utils import make_bert
from runs import Result, assert_same, tensors_of, tiny_set, torchrun

# No statistics over the batch; an eps that makes Adam's steps a smooth function of the gradients, for reasons that
# tests/core/training/test_step.py tells.
OPTIONS = tiny_set(
    conditioner={"name": "combined", "parts": {"class": {}, "tags": {"dropout": 0.2}}},
    discriminator__mbstd_channels=0,
    augmentation={"name": "ada", "pipeline": "bgc", "p": 0.5, "target": 0.6, "kimg": 1},
    regularizers={"r1": {"gamma": 1.0, "interval": 2}},
    train__eps=0.1,
    train__lr_g=0.1,
    train__lr_d=0.1,
)


def test_two_processes_equal_one_and_continue_each_other(
    images: Path, tmp_path: Path, gankit_cli: Callable[..., Result]
) -> None:
    """Four steps, so that ADA has adapted once; then one process goes on with what two began."""
    one, two = tmp_path / "one", tmp_path / "two"
    common = ("train", "stylegan2", "--data", images, *OPTIONS)
    assert gankit_cli(*common, "--out", one, "--images", 32).code == 0
    result = torchrun(*common, "--out", two, "--images", 32, "--device", "cpu")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("sample it with") == 1  # only one of the processes talks
    a, b = (run / "checkpoints" / "000000032" for run in (one, two))
    assert_same(a, b, 1e-5)
    assert tensors_of(b)["training/augmentation.safetensors:p"] != 0.5
    assert gankit_cli(*common, "--out", two, "--images", 40).code == 0
    assert gankit_cli(*common, "--out", one, "--images", 40).code == 0
    assert_same(one / "checkpoints" / "000000040", two / "checkpoints" / "000000040", 2e-5)


@pytest.mark.slow
def test_two_processes_go_through_stages_as_one(
    images: Path, tmp_path: Path, gankit_cli: Callable[..., Result]
) -> None:
    """With a text encoder that is trained in the second stage while D judges by the pretrained one."""
    text = {"name": "text", "model": str(make_bert(tmp_path)), "noise": 0.3, "dropout": 0.3}
    tuning = {"judge_condition": "pretrained", "lr_conditioner": 0.1, "freeze": ["generator.mapping"]}
    stages = [
        {"until": 16},
        {"data": {"size": 32}, "conditioner": {"trainable": True}, "train": {**tuning, "batch": 4}},
    ]
    schedules = {
        "train": {"lr_g": {"warmup": 16}},
        "regularizers": {"r1": {"gamma": {"end": 0.1, "over": 24}}},
    }
    more = {"conditioner": text, "stages": stages, "schedules": schedules, "train.posthoc_ema": [0.1]}
    more |= {"train.blur_sigma": 2, "train.blur_kimg": 0.02, "train.d_steps": 2}
    common = ["train", "stylegan2", "--data", images, *OPTIONS, "--images", 32]
    common += [part for key, value in more.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    one, two = tmp_path / "one", tmp_path / "two"
    assert gankit_cli(*common, "--out", one).code == 0
    result = torchrun(*common, "--out", two, "--device", "cpu")
    assert result.returncode == 0, result.stderr
    assert_same(one / "checkpoints" / "000000016", two / "checkpoints" / "000000016", 1e-5)
    assert_same(one / "checkpoints" / "000000032", two / "checkpoints" / "000000032", 1e-4)


@pytest.mark.slow
def test_mistakes_of_a_distributed_run_are_told_in_one_line(images: Path, tmp_path: Path) -> None:
    result = torchrun(
        "train", "stylegan2", "--data", images, "--out", tmp_path / "r", *tiny_set(train__batch=7)
    )
    assert result.returncode != 0
    told = {line for line in result.stderr.splitlines() if line.startswith("gankit: ")}
    assert told == {"gankit: train.batch = 7 cannot be shared by 2 processes; use a multiple of 2"}
    assert not (tmp_path / "r").exists()
