"""On an NVIDIA GPU, skipped without one: kernels, whole networks against float64 on the CPU, and the commands."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from repository import ROOT
from runs import Result, tensors_of, tiny_set
from torch import Tensor, nn

from gankit.core.checkpoints import folders
from gankit.core.config.registry import registry
from gankit.core.cuda import dispatch
from gankit.core.interfaces.conditions import CondSpec
from gankit.plugins.op_backends.triton import Triton
from gankit.testing.common import condition, perturb

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
GPU = torch.device("cuda")
SMALL = {"channel_base": 512, "channel_max": 32}
GENERATORS: dict[str, tuple[str, dict[str, Any]]] = {
    "stylegan2": ("stylegan2", SMALL),
    "stylegan3-t": ("stylegan3", SMALL),
    "stylegan3-r": ("stylegan3", {**SMALL, "conv_kernel": 1, "use_radial_filters": True}),
    "stylegan-t": ("stylegan-t", {**SMALL, "num_res_blocks": 1}),
}
TOLERANCE = 2e-4  # of the largest value; float32 with other orders of summation reaches some 1e-5


@pytest.fixture(autouse=True)
def _exact_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(Triton, "smallest", {})  # else plain torch would take the small maps of these tests
    monkeypatch.setattr(dispatch, "_choices", {})


def assert_close(actual: Tensor, expected: Tensor) -> None:
    error = (actual.detach().cpu().double() - expected.detach()).abs().max() / expected.detach().abs().max()
    assert error <= TOLERANCE


def values(network: nn.Module, call: Callable[..., Tensor], *variables: Tensor) -> list[Tensor]:
    """Value, gradients of all inputs, and of all parameters for a penalty on those."""
    inputs = [v.detach().requires_grad_() for v in variables]
    y = call(*inputs)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=y.device).view_as(y)
    first = torch.autograd.grad((y * weights).sum(), inputs, create_graph=True)
    penalty = torch.stack([g.square().sum() for g in first]).sum()
    parameters = [p for p in network.parameters() if p.requires_grad]
    second = torch.autograd.grad(penalty, parameters, allow_unused=True, materialize_grads=True)
    return [y, *first, torch.cat([g.flatten() for g in second])]


def test_kernels() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    file = ROOT / "tests" / "support" / "triton_kernels.py"
    result = subprocess.run(
        [sys.executable, "-m", "pytest", str(file), "-p", "no:cacheprovider", "-m", "slow or not slow"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"{result.stdout[-6000:]}\n{result.stderr[-2000:]}"


@pytest.mark.parametrize("name", GENERATORS)
def test_generators(name: str) -> None:
    plugin, options = GENERATORS[name]
    spec = CondSpec(5, 7) if plugin == "stylegan-t" else CondSpec(5)
    build = registry().load("generator", plugin)
    generator = perturb(build((3, 64, 64), spec, **options), 0.05).eval()
    cond = condition(spec, 2)
    with torch.no_grad():
        ws = generator.mapping(torch.randn(2, generator.z_dim), cond)

    def call(dtype: torch.dtype, device: torch.device) -> Callable[[Tensor], Tensor]:
        moved = cond.to(device)
        return lambda ws: generator.synthesis(ws, moved, noise_mode="const")

    generator.double()
    exact = values(generator, call(torch.float64, torch.device("cpu")), ws.double())
    generator.float().to(GPU)
    for actual, expected in zip(values(generator, call(torch.float32, GPU), ws.to(GPU)), exact):
        assert_close(actual, expected)
    with torch.no_grad():  # another path where no gradients are wanted
        assert_close(call(torch.float32, GPU)(ws.to(GPU)), exact[0])


def test_discriminator_with_r1() -> None:
    build = registry().load("discriminator", "stylegan2")
    network = perturb(build((3, 64, 64), CondSpec(5), **SMALL), 0.05)
    cond, images = condition(CondSpec(5), 4), torch.randn(4, 3, 64, 64)

    exact = values(network.double(), lambda x: network(x, cond)[0], images.double())
    network.float().to(GPU)
    on_gpu = cond.to(GPU)
    for actual, expected in zip(values(network, lambda x: network(x, on_gpu)[0], images.to(GPU)), exact):
        assert_close(actual, expected)


def test_doctor_chooses_the_kernels(gankit_cli: Callable[..., Result]) -> None:
    result = gankit_cli("doctor")
    assert result.code == 0, result.out
    chosen = [line.split() for line in result.out.splitlines() if "its self-test passed" in line]
    assert [words[1:3] for words in chosen] == [["cuda", "triton"]] * 5


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_train_resume_and_sample(
    precision: str, images: Path, tmp_path: Path, gankit_cli: Callable[..., Result]
) -> None:
    run = tmp_path / "run"
    options = tiny_set(
        conditioner="class",
        augmentation={"name": "ada", "pipeline": "bgc", "p": 0.5},
        train__precision=precision,
        regularizers__r1={"interval": 2},
    )
    command = ("train", "stylegan2", "--data", images, "--out", run, "--device", "cuda", *options)
    for length in (32, 64):  # the second continues
        result = gankit_cli(*command, "--images", length)
        assert result.code == 0, result.err
        assert "Please report" not in result.err
    (last,) = folders.checkpoints(run)[-1:]
    assert all(tensor.isfinite().all() for tensor in tensors_of(last).values() if tensor.is_floating_point())

    pictures = {}
    for device in ("cuda", "cpu"):
        out = tmp_path / device
        result = gankit_cli(
            "sample", run, "--class", "round", "--seeds", "0-3", "--out", out, "--device", device
        )
        assert result.code == 0, result.err
        pictures[device] = np.stack(
            [np.asarray(Image.open(file), np.int16) for file in sorted(out.glob("*seed*.png"))]
        )
    assert np.abs(pictures["cuda"] - pictures["cpu"]).max() <= 1
