"""`gankit blend` and `gankit average`."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pickle_utils import PICKLES, snapshot_pair
from runs import Result, train
from safetensors.torch import load_file

import gankit
from gankit.interop.blend import resolution
from gankit.interop.import_foreign import convert

Cli = Callable[..., Result]


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    train(out, images, "stylegan2-class", trackers={})
    return out


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return snapshot_pair(tmp_path_factory.mktemp("pair"))


@pytest.mark.parametrize(
    ("width", "shares"),
    [
        (0, {4: 0, 8: 0, 16: 1, 32: 1}),
        (1, {4: 0, 8: 0, 16: 1, 32: 1}),
        (2, {4: 0, 8: 0.25, 16: 0.75, 32: 1}),
        (4, {4: 0.125, 8: 0.375, 16: 0.625, 32: 0.875}),
    ],
)
def test_blend(
    pair: tuple[Path, Path], width: float, shares: dict[int, float], tmp_path: Path, gankit_cli: Cli
) -> None:
    out = tmp_path / "blended"
    done = gankit_cli("blend", *pair, "--at", 16, "--width", width, "--out", out)
    assert done.code == 0, done.err
    a, b, mixed = (load_file(folder / "generator.safetensors") for folder in (*pair, out))
    for name, tensor in mixed.items():
        share = shares.get(resolution(name) or 0, 0)  # the mapping network is A's
        assert torch.allclose(tensor, a[name] + share * (b[name] - a[name]), atol=1e-6), name
    pipe = gankit.load(out, device="cpu")
    assert pipe(seeds=[1])[0].size == (32, 32)
    assert pipe.recipe.name == "blended"
    whole = tmp_path / "b-mapping"
    gankit_cli("blend", *pair, "--at", 4, "--mapping", "b", "--out", whole)
    assert all(torch.equal(t, b[name]) for name, t in load_file(whole / "generator.safetensors").items())


def test_average(pair: tuple[Path, Path], tmp_path: Path, gankit_cli: Cli) -> None:
    a, b = (load_file(folder / "generator.safetensors") for folder in pair)
    for weight in (0, 0.25, 0.5, 1):
        out = tmp_path / f"average-{weight}"
        assert gankit_cli("average", *pair, "--weight", weight, "--out", out).code == 0
        for name, tensor in load_file(out / "generator.safetensors").items():
            assert torch.allclose(tensor, (1 - weight) * a[name] + weight * b[name], atol=1e-5), name


def test_new_models_have_usual_names(
    pair: tuple[Path, Path], tmp_path: Path, gankit_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (("blend", *pair, "--at", 8, "--width", 2), ("average", *pair, "--weight", 0.5)):
        done = gankit_cli(*command)
        assert (done.code, done.out) == (0, f"wrote {command[0]}\n")
        assert (tmp_path / command[0] / "generator.safetensors").is_file()
        assert "exists already; choose another folder" in gankit_cli(*command).message


def test_average_of_text_towers(tmp_path: Path, gankit_cli: Cli) -> None:
    for role in ("G", "G_ema"):
        convert(PICKLES / "sgt.pkl", tmp_path / role, network=role)
    assert gankit_cli("average", tmp_path / "G", tmp_path / "G_ema", "--out", tmp_path / "out").code == 0
    a, b, mixed = (load_file(tmp_path / name / "conditioner.safetensors") for name in ("G", "G_ema", "out"))
    assert mixed
    assert all(torch.allclose(tensor, (a[name] + b[name]) / 2, atol=1e-6) for name, tensor in mixed.items())


def test_resolutions_by_name() -> None:
    assert resolution("synthesis.b64.conv0.weight") == 64
    assert resolution("synthesis.L3_52_1024.bias") == 32
    assert resolution("synthesis.L13_256_128.bias") == 256
    assert resolution("synthesis.input.freqs") == 4
    assert resolution("mapping.fc0.weight") is None
    assert math.log2(resolution("synthesis.L9_1044_81.weight") or 0) == 10


def test_mistakes(pair: tuple[Path, Path], run: Path, tmp_path: Path, gankit_cli: Cli) -> None:
    out = tmp_path / "out"
    for arguments, fragments in (
        (("blend", *pair, "--at", 30, "--out", out), ["--at 30", "it has 4, 8, 16, 32"]),
        (("blend", *pair, "--at", 8, "--width", -1, "--out", out), ["--width -1"]),
        (("blend", *pair, "--at", 8, "--mapping", "c", "--out", out), ["--mapping", "valid: a, b"]),
        (("average", *pair, "--weight", 1.5, "--out", out), ["--weight 1.5 must be in [0, 1]"]),
        (("average", pair[0], run, "--out", out), ["different architectures", "z_dim"]),
        (("average", *pair, "--out", tmp_path), ["exists already"]),
        (("average", pair[0], "nowhere", "--out", out), ["unknown model 'nowhere'"]),
    ):
        done = gankit_cli(*arguments)
        assert done.code == 2
        assert all(fragment in done.message for fragment in fragments), done.message
    assert not out.exists()
