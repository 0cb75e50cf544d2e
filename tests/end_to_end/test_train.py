"""Training by command and API: what a run leaves behind, dry runs, weights to start from."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import pytest
import torch
from PIL import Image
from runs import TINY, Result, log_of, start_gankit, tensors_of, tiny_set, train, write_images
from torch import nn

import gankit
from gankit.core.checkpoints import folders
from gankit.core.config import recipe as recipes
from gankit.core.interfaces.labels import Vocabulary
from gankit.core.models import build
from gankit.core.models.warm_start import transfer
from gankit.errors import GankitError

COMBINED = {"name": "combined", "parts": {"class": {}, "tags": {"dropout": 0.2, "noise": 0.05}}}


@pytest.mark.parametrize(
    "conditioner", ["none", "class", "tags", COMBINED], ids=["none", "class", "tags", "combined"]
)
def test_a_run_learns_and_leaves_everything_behind(
    conditioner: Any, images: Path, tmp_path: Path, gankit_cli: Callable[..., Result]
) -> None:
    arguments = tiny_set(
        train__images=32,
        train__checkpoint_every=16,
        conditioner=conditioner,
        augmentation__kimg=0.1,
        regularizers__r1={"interval": 2, "gamma": 0.5},
    )
    result = gankit_cli("train", "stylegan2", "--data", images, "--out", tmp_path / "run", *arguments)
    assert (result.code, result.err) == (0, "")
    assert "sample it with" in result.out
    run = tmp_path / "run"

    log = log_of(run)
    assert [line["nimg"] for line in log] == [8, 16, 24, 32]
    for name in ("loss/G", "loss/D", "loss/r1", "loss/path-length", "grad_norm/G", "score/real", "time/data"):
        assert math.isfinite(log[0][name]), name
    assert "loss/r1" not in log[1]  # every second step
    assert "loss/r1" in log[2]
    assert [line["bad_steps"] for line in log] == [0] * 4
    assert log[3]["augment/p"] in (0, pytest.approx(32 / 100))  # one adjustment, after four steps

    assert [p.name for p in folders.checkpoints(run)] == ["000000016", "000000032"]
    first, last = (tensors_of(p) for p in folders.checkpoints(run))
    for name, tensor in last.items():
        if name.startswith("training/") and name.endswith(".weight"):
            assert not torch.equal(tensor, first[name]), f"{name} has not moved"
    assert sorted(p.name for p in (run / "samples").iterdir()) == [
        "000000000.png",
        "000000032.png",
        "real.png",
    ]
    assert Image.open(run / "samples" / "real.png").size == (8 * 18 + 2, 3 * 18 + 2)  # 24 images, 8 a row
    assert list((run / "tensorboard").glob("events*"))
    assert recipes.read(str(run / "recipe.yaml")).differences(recipes.read(str(run))) == []

    (picture,) = gankit.load(run)(seeds=3)
    assert picture.size == (16, 16)


def test_what_the_condition_says_reaches_the_images(images: Path, tmp_path: Path) -> None:
    train(tmp_path, images, "stylegan2-class", train__lr_g=0.02, train__images=48)
    pipe = gankit.load(tmp_path)
    assert pipe(cls="round", seeds=0)[0].tobytes() != pipe(cls="square", seeds=0)[0].tobytes()


def test_dry_run_shows_networks_and_batch_statistics(
    images: Path, tmp_path: Path, gankit_cli: Callable[..., Result]
) -> None:
    out = tmp_path / "run"
    command = ("train", "stylegan2", "--data", images, "--out", out, "--dry-run", *tiny_set())
    text = gankit_cli(*command, "--set", "conditioner=class").out
    page, table = text.split("\n\n", 1)
    assert "channel_base: 128" in page
    row = next(line for line in table.splitlines() if line.startswith("G.synthesis.b16 "))
    recipe = recipes.read("stylegan2", {**TINY, "conditioner": "class"})
    conditioner = build.build_conditioner(recipe, Vocabulary({"round": 12, "square": 12}))
    block = build.build_generator(recipe, conditioner).get_submodule("synthesis.b16")
    assert f" {sum(p.numel() for p in block.parameters()):,} " in row
    assert "[4, 3, 16, 16]" in row
    assert "condition: 2 numbers" in table
    assert "minibatch stddev, mean path length" in table
    assert not out.exists()

    options = ("--set", "discriminator.mbstd_channels=0", "--set", "regularizers.path-length=false")
    assert "micro-batches" not in gankit_cli(*command, *options).out


def test_minutes_stop_with_a_checkpoint(images: Path, tmp_path: Path) -> None:
    changes = {**TINY, "train.images": "1M"}
    last = gankit.train("stylegan2", tmp_path, data=str(images), overrides=changes, minutes=1e-6, quiet=True)
    assert last.name == "000000008"


def test_quiet_says_nothing(images: Path, tmp_path: Path, gankit_cli: Callable[..., Result]) -> None:
    result = gankit_cli(
        "train", "stylegan2", "--data", images, "--out", tmp_path / "r", "-q", *tiny_set(train__images=8)
    )
    assert (result.code, result.out, result.err) == (0, "", "")


# ----------------------------------------------------------------------------------------------------- --init


def test_init_tells_what_it_copied(images: Path, tmp_path: Path, gankit_cli: Callable[..., Result]) -> None:
    """From two classes at 16 x 16 to four classes at 32 x 32."""
    old = train(tmp_path / "old", images, "stylegan2-class", train__images=16)
    more = write_images(tmp_path / "more")
    for i in range(4):
        (more / f"class{i}").mkdir()
        Image.new("RGB", (32, 32), (i * 60, 0, 0)).save(more / f"class{i}" / "x.png")
    command = (
        "train",
        "stylegan2-class",
        "--data",
        more,
        "--out",
        tmp_path / "new",
        "--init",
        tmp_path / "old",
    )
    result = gankit_cli(*command, *tiny_set(train__images=8, data__size=32))
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert any(line.startswith("generator from") and "copied" in line for line in lines)
    assert any(line.startswith("discriminator from") and "copied" in line for line in lines)
    assert any(line.startswith("  resized mapping.embed.weight [8, 2] -> [8, 6]") for line in lines)
    assert any(line.startswith("  fresh   synthesis.b32.conv0.weight") for line in lines)

    tensors = tensors_of(old)
    module = nn.ParameterDict({"weight": torch.full((8, 6), 7.0), "other": torch.ones(3)})
    done = transfer(module, {"weight": tensors["generator.safetensors:mapping.embed.weight"]})
    assert (done.copied, len(done.resized), len(done.fresh)) == ([], 1, 1)
    assert torch.equal(module["weight"][:, :2], tensors["generator.safetensors:mapping.embed.weight"])
    assert bool((module["weight"][:, 2:] == 7).all())


def test_init_with_the_same_recipe_copies_everything(images: Path, tmp_path: Path) -> None:
    train(tmp_path / "old", images, train__images=16)
    changes = {**TINY, "train.images": 8, "train.lr_g": 1e-12, "train.lr_d": 1e-12, "train.seed": 5}
    options = {"data": str(images), "overrides": changes, "init": tmp_path / "old", "quiet": True}
    new = gankit.train("stylegan2", tmp_path / "new", **options)
    old = tensors_of(folders.checkpoints(tmp_path / "old")[-1])
    for name, tensor in tensors_of(new).items():
        if name.startswith("training/discriminator"):
            assert torch.allclose(tensor, old[name], atol=1e-6), name
        if name.startswith("training/generator") and "w_avg" not in name:  # training starts from the average
            average = old[name.removeprefix("training/")]
            assert torch.allclose(tensor, average, atol=1e-6), name


@pytest.mark.slow
def test_the_module_runs_as_a_program(images: Path, tmp_path: Path) -> None:
    command = (
        "train",
        "stylegan2",
        "--data",
        images,
        "--out",
        tmp_path / "run",
        "--images",
        "8",
        *tiny_set(),
    )
    process = start_gankit(*command)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, ""), out
    assert (tmp_path / "run" / "checkpoints" / "000000008").is_dir()


def test_r1_through_a_vision_transformer(images: Path, tmp_path: Path) -> None:
    """Fused attention has no second derivative."""
    vit = {"img_size": 32, "patch_size": 16, "embed_dim": 32, "depth": 12, "num_heads": 2, "mlp_ratio": 2}
    feature = {"name": "timm-vit", "pretrained": False, "model_args": vit}
    run = train(
        tmp_path / "run",
        images,
        discriminator={"name": "stylegan-t", "feature": feature, "side": 32, "crop_probability": 0},
        regularizers={"r1": {"interval": 1}},
    )
    log = log_of(run.parent.parent)
    assert log[-1]["loss/r1"] > 0
    assert log[-1]["bad_steps"] == 0


def test_two_processes_do_not_train_in_one_folder(images: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", images)
    with filelock.FileLock(tmp_path / "run" / ".lock"), pytest.raises(GankitError, match="another process"):
        train(tmp_path / "run", images, train__images=16)
    train(tmp_path / "run", images, train__images=16)


def test_a_run_that_ended_before_its_first_checkpoint_can_begin_anew(images: Path, tmp_path: Path) -> None:
    """As after a mistake in a plugin: there is nothing to continue that another recipe could spoil."""

    def interrupt(event: Any) -> None:
        raise KeyboardInterrupt

    arguments: dict[str, Any] = {"data": str(images), "quiet": True}
    with pytest.raises(KeyboardInterrupt):
        gankit.train(
            "stylegan2", tmp_path, overrides={**TINY, "train.seed": 1}, on_event=interrupt, **arguments
        )
    last = gankit.train("stylegan2", tmp_path, overrides={**TINY, "train.images": 8}, **arguments)
    assert gankit.load(last)
    with pytest.raises(gankit.GankitError, match=r"run of another recipe.*train\.seed: 0 -> 1"):
        gankit.train("stylegan2", tmp_path, overrides={**TINY, "train.seed": 1}, **arguments)
