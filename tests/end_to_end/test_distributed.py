"""Several processes compute what one does: gradients are summed, random numbers belong to images, not to processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from conditioning_utils import make_bert
from runs import Result, assert_same, tensors_of, tiny_set

from gankit.core.runtime import distributed

# No statistics over the batch; an eps that makes Adam's steps a smooth function of the gradients (see test_train.py).
OPTIONS = tiny_set(
    conditioner={"name": "combined", "parts": {"class": {}, "tags": {"dropout": 0.2}}},
    discriminator__mbstd_channels=0,
    augmentation={"name": "ada", "pipeline": "bgc", "p": 0.5, "target": 0.6, "kimg": 1},
    regularizers={"r1": {"gamma": 1.0, "interval": 2}},
    train__eps=0.1,
    train__lr_g=0.1,
    train__lr_d=0.1,
)


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*launcher, "-m", "gankit", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
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


def test_without_torchrun_nothing_is_distributed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert distributed.world_from_env() == distributed.World(0, 1, 0)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_RANK", "1")
    world = distributed.world_from_env()
    assert (world.rank, world.size, world.local_rank, world.main) == (3, 8, 1, False)


def _sum_in(rank: int, address: str, out: str) -> None:
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    params = [torch.nn.Parameter(torch.zeros(2, 3)) for _ in range(3)]
    if rank == 0:
        params[0].grad = torch.full((2, 3), 1.0)
    params[1].grad = torch.full((2, 3), 10.0 + rank)
    other = torch.full((4,), float(rank + 1))
    distributed.sum_gradients(params, [other])
    torch.save([p.grad for p in params] + [other], f"{out}.{rank}")
    dist.destroy_process_group()


@pytest.mark.slow
def test_gradients_are_summed_and_absent_ones_stay_absent(tmp_path: Path) -> None:
    mp.spawn(_sum_in, (f"file://{tmp_path}/store", f"{tmp_path}/result"), nprocs=2)
    for rank in range(2):
        first, second, third, other = torch.load(f"{tmp_path}/result.{rank}")
        assert torch.equal(first, torch.full((2, 3), 1.0))
        assert torch.equal(second, torch.full((2, 3), 21.0))
        assert third is None
        assert torch.equal(other, torch.full((4,), 3.0))
