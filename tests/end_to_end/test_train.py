"""Training by command and API: what a run leaves behind, micro-batches, weights to start from, bad numbers."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import pytest
import torch
from PIL import Image
from runs import TINY, Result, assert_same, start_gankit, tensors_of, tiny_set, write_images
from torch import nn

import gankit
from gankit.core.checkpoints import folders
from gankit.core.config import recipe as recipes
from gankit.core.interfaces.labels import Vocabulary
from gankit.core.models import build
from gankit.core.training.step import Stepper
from gankit.errors import GankitError

COMBINED = {"name": "combined", "parts": {"class": {}, "tags": {"dropout": 0.2, "noise": 0.05}}}


def log_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def train(out: Path, images: Path, recipe: str = "stylegan2", **overrides: Any) -> Path:
    changes = {**TINY, "train.images": 8, **{k.replace("__", "."): v for k, v in overrides.items()}}
    return gankit.train(recipe, out, data=str(images), overrides=changes, quiet=True)


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


# --------------------------------------------------------------------------------------------- micro-batches

NO_BATCH_STATISTICS = {
    "discriminator__mbstd_channels": 0,
    "regularizers": {"r1": {"gamma": 1.0, "interval": 2}},
    "augmentation": {"name": "ada", "pipeline": "bgc", "p": 0.6, "target": None},
    "conditioner": COMBINED,
    # Adam's first steps are the signs of gradients, and that of a gradient of zero is rounding; this eps makes the
    # steps a smooth function of the gradients.
    "train__eps": 0.1,
    "train__lr_g": 0.1,
    "train__lr_d": 0.1,
}


@pytest.mark.parametrize("micro", [2, 3])
def test_micro_batches_change_nothing(micro: int, images: Path, tmp_path: Path) -> None:
    options = {**NO_BATCH_STATISTICS, "train__images": 24}
    # A value before a leaky ReLU may be so near zero that rounding decides about its slope; a mistake spares no seed.
    for seed in (0, 1, 2):
        whole = train(tmp_path / f"whole{seed}", images, **options, train__seed=seed)
        split = train(
            tmp_path / f"split{seed}", images, **options, train__seed=seed, train__micro_batch=micro
        )
        with contextlib.suppress(AssertionError) if seed < 2 else contextlib.nullcontext():
            assert_same(whole, split, 1e-5)
            break
    start = train(tmp_path / "start", images, **{**options, "train__images": 8}, train__seed=seed)
    with pytest.raises(AssertionError):
        assert_same(whole, start, 1e-3)  # there was something to compare


def test_micro_batches_leave_running_state_as_one_batch_would(images: Path, tmp_path: Path) -> None:
    """Spectral norm iterates once a pass and mean w moves once a pass, however many micro-batches there are."""
    base = {**NO_BATCH_STATISTICS, "train__images": 16}
    whole = train(tmp_path / "whole", images, **base)
    split = train(tmp_path / "split", images, **base, train__micro_batch=1)
    name = "training/generator.safetensors:mapping.w_avg"
    a, b = tensors_of(whole)[name], tensors_of(split)[name]
    assert a.abs().max() > 1e-4
    assert torch.allclose(a, b, atol=1e-6)


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
    done = build.transfer(module, {"weight": tensors["generator.safetensors:mapping.embed.weight"]})
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


# ------------------------------------------------------------------------------------------------ bad numbers


def test_bad_gradients_are_skipped_counted_and_stop_the_run(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step with bad gradients leaves weights and running state alone; too many of them end the run."""
    bad_steps = {2, 3}
    original = Stepper._d_main

    def sometimes_bad(self: Stepper, *args: Any) -> torch.Tensor:
        loss = original(self, *args)
        return loss * math.nan if self.step in bad_steps else loss

    monkeypatch.setattr(Stepper, "_d_main", sometimes_bad)
    options = {"train__images": 48, "train__checkpoint_every": 8, "train__keep": 2, "train__max_bad_steps": 3}
    last = train(tmp_path / "some", images, **options)
    assert [line["bad_steps"] for line in log_of(tmp_path / "some")] == [0, 0, 1, 2, 2, 2]
    assert log_of(tmp_path / "some")[2]["loss/D"] is None
    assert all(tensor.isfinite().all() for tensor in tensors_of(last).values())

    bad_steps |= {4}
    with pytest.raises(gankit.GankitError, match=r"3 steps in a row .*000000016.* lower train.lr_g") as error:
        train(tmp_path / "many", images, **options)
    assert "\n" not in str(error.value)
    kept = folders.checkpoints(tmp_path / "many")
    assert [p.name for p in kept] == ["000000008", "000000016"]  # bad ones have not pushed out the good ones
    assert gankit.load(tmp_path / "many")(seeds=0)


def test_bad_path_lengths_do_not_poison_their_mean(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gankit.plugins.regularizers.path_length import PathLength

    original = PathLength.penalty

    def bad_once(self: PathLength, step: Any) -> torch.Tensor:
        value = original(self, step)
        if step.nimg == 8:
            self.pl_mean.fill_(math.nan)
            return value * math.nan
        return value

    monkeypatch.setattr(PathLength, "penalty", bad_once)
    last = train(tmp_path, images, train__images=24, regularizers={"path-length": {"interval": 2}})
    monkeypatch.undo()
    mean = tensors_of(last)["training/regularizer.path-length.safetensors:pl_mean"]
    assert mean.isfinite()
    assert mean > 0


def test_an_absurd_learning_rate_ends_in_one_sentence(images: Path, tmp_path: Path) -> None:
    with pytest.raises(gankit.GankitError, match="not finite"):
        train(
            tmp_path, images, train__images=2000, train__lr_g=1e30, train__lr_d=1e30, train__max_bad_steps=2
        )


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
