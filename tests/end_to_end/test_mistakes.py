"""What users get wrong, and what machines lack: exit code 2, one sentence, nothing lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mistakes import contents, mistake, newest, resume
from PIL import Image
from runs import Result, tiny_set

from gankit.core.training.step import Stepper

Cli = Callable[..., Result]


# ------------------------------------------------------------------------------------------------ the command line


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        ("trian", ["No such command 'trian'"]),
        ("train --bach 3", ["--bach", "--batch"]),
        ("train stylegan2 --batch many", ["Invalid value for '--batch'", "integer"]),
        ("train", ["name a recipe", "--resume"]),
        ("train stylegan22", ["unknown recipe 'stylegan22'", "'stylegan2'"]),
        ("train {tmp}/none.yaml", ["cannot read the recipe", "none.yaml"]),
        ("train {tmp}/broken.yaml", ["broken.yaml is not valid YAML"]),
        ("train {tmp}/list.yaml", ["list.yaml is not a recipe"]),
        ("train {tmp}/future.yaml", ["format 2", "use the gankit that wrote it"]),
        ("train {tmp}/typo.yaml", ["unknown key 'train.bacth'", "'train.batch'"]),
        ("train {tmp}/plugin.yaml", ["unknown generator 'stylegan9'", "'stylegan2'"]),
        (
            "train {tmp}/option.yaml",
            ["unknown option of generator 'stylegan2': 'chanel_base'", "'channel_base'"],
        ),
        ("train stylegan2 --out {tmp}/r", ["no data", "--data PATH"]),
        ("train stylegan2 --out {tmp}/r --data {tmp}/none", ["{tmp}/none does not exist"]),
        ("train stylegan2 --out {tmp}/r --data {tmp}/empty", ["holds no images"]),
        ("train stylegan2 --out {tmp}/r --data avatar:", ["unknown source 'avatar'"]),
        ("train stylegan2 --out {tmp}/r --data {tmp}/list.yaml", ["no source reads"]),
        ("train stylegan2 --out {tmp}/r --data {tmp}/bad", ["cannot be read", "bad.png"]),
        ("train stylegan2 --set batch", ["--set 'batch' must look like key=value"]),
        ("train stylegan2 --set generator.chanel_base=3", ["'chanel_base'", "'channel_base'"]),
        ("train stylegan2 --set generator.channel_base=many", ["generator.channel_base = 'many'", "integer"]),
        ("train stylegan2 --set generatr.z_dim=3", ["unknown key 'generatr'", "'generator'"]),
        ("train stylegan2 --set train.batch.x=3", ["train.batch is a value"]),
        ("train stylegan2 --set train.lr_g=-1", ["train.lr_g = -1", "greater than 0"]),
        ("train stylegan2 --set train.precision=fp8", ["train.precision = 'fp8'", "bf16"]),
        ("train stylegan2 --set conditioner=klass", ["unknown conditioner 'klass'", "'class'"]),
        (
            "train stylegan2 --set conditioner.name=class --set conditioner.x=1",
            ["unknown option", "'class'", "'x'"],
        ),
        ("train stylegan2 --batch 0", ["train.batch = 0"]),
        ("train stylegan2 --size 64xx", ["'64xx' is not a size"]),
        ("train stylegan2 --size 0", ["image size 0x0 is too small"]),
        ("train stylegan2 --size 2", ["image size 2x2 is too small"]),
        ("train stylegan2 --size 100", ["image size 100x100", "multiples of 8"]),
        ("train stylegan2 --channels 2", ["data.channels = 2", "1, 3 or 4"]),
        ("train stylegan2 --fit squeeze", ["data.fit = 'squeeze'", "stretch"]),
        ("train stylegan2 --images lots", ["'lots' is not a number of images such as 200000, 200k or 8Mi"]),
        ("train stylegan2 --images 5k --kimg 5", ["--images and --kimg"]),
        ("train stylegan2 --kimg nan", ["--kimg nan is not a number of thousand images"]),
        ("train stylegan2 --kimg inf", ["--kimg inf is not a number of thousand images"]),
        ("train stylegan2 --out {tmp}/r --minutes nan", ["--minutes nan is not a number of minutes"]),
        ("train stylegan2 --device tpu", ["unknown device 'tpu'", "cpu"]),
        ("train stylegan2 --out {tmp}/r --init {tmp}/none", ["unknown model", "none"]),
        ("train stylegan2 --out {tmp}/r --init {tmp}/empty", ["holds neither a model nor a run"]),
        ("train stylegan2 --out {tmp}/images", ["is not empty and holds no run"]),
        ("train stylegan2 --out {tmp}/list.yaml", ["list.yaml", "choose another --out"]),
        ("train stylegan2 --out {tmp}/list.yaml/below/it", ["list.yaml", "choose another --out"]),
        ("train --resume {tmp}/none", ["no run there"]),
        ("train stylegan2 --resume {tmp}/none", ["leave RECIPE and --out away"]),
        ("train stylegan2-class --out {tmp}/r --data {tmp}/flat", ["needs images with a class"]),
        ("sample nothing", ["unknown model 'nothing'"]),
        ("sample {tmp}/empty", ["holds neither a model nor a run"]),
        ("sample {tmp}/list.yaml", ["is a file"]),
        ("sample {run} --seeds 3-x", ["--seeds '3-x' must look like 0-15"]),
        ("sample {run} --prompt cat", ["does not take a prompt; it takes a class"]),
        ("sample {run} --class rond", ["unknown class 'rond'", "'round'"]),
        (
            "sample {run} --class round --class square --class round --tags a --tags b",
            ["--tags is given 2 times"],
        ),
        ("sample {run} --noise much", ["unknown noise mode 'much'"]),
        ("sample {run} --center left --seeds 0", ["unknown center 'left'"]),
        ("sample {run} --batch-size 0", ["batch_size = 0"]),
        ("sample {run} --device tpu", ["unknown device 'tpu'"]),
        ("sample {run} --seeds 0 --out {tmp}/list.yaml", ["list.yaml", "choose another --out"]),
        ("export {run} {tmp}/x --dtype int4", ["unknown dtype 'int4'"]),
        ("export {run} {tmp}/images", ["exists already"]),
        ("export {run} {tmp}/list.yaml/x", ["list.yaml"]),
        ("plugins --kind generators", ["unknown plugin kind 'generators'", "'generator'"]),
        ("plugins show stylegan9", ["stylegan9"]),
    ],
)
def test_mistakes(
    arguments: str, fragments: list[str], trained: Path, images: Path, tmp_path: Path, gankit_cli: Cli
) -> None:
    pages = {
        "broken.yaml": "train: {batch: ",
        "list.yaml": "[1, 2]",
        "future.yaml": "gankit: 2",
        "typo.yaml": "train: {bacth: 3}",
        "plugin.yaml": "generator: stylegan9",
        "option.yaml": "generator: {name: stylegan2, chanel_base: 3}",
    }
    for name, text in pages.items():
        (tmp_path / name).write_text(text)
    for name in ("empty", "bad", "flat"):
        (tmp_path / name).mkdir()
    (tmp_path / "bad" / "bad.png").write_bytes(b"not a picture")
    Image.new("RGB", (16, 16)).save(tmp_path / "flat" / "a.png")
    (tmp_path / "images").symlink_to(images)
    before = contents(trained)
    words = [word.format(tmp=tmp_path, run=trained) for word in arguments.split()]
    if words[0] == "train" and len(words) > 1 and "--resume" not in words:
        words += complete(words, images, tmp_path / "out", needs_data="no data" not in fragments)
    mistake(gankit_cli(*words), *(fragment.format(tmp=tmp_path) for fragment in fragments))
    assert contents(trained) == before


def complete(words: list[str], images: Path, out: Path, *, needs_data: bool) -> list[str]:
    """What a `gankit train` lacks to be a short training, were it not for the mistake."""
    more = [] if "--out" in words else ["--out", str(out)]
    if needs_data and "--data" not in words:
        more += ["--data", str(images)]
    given = {word.partition("=")[0] for word in words}
    for option in ("size", "batch", "images", "kimg", "channels"):
        if f"--{option}" in words:
            given |= {f"data.{option}", f"train.{option}", "train.images"}
    settings = tiny_set(train__images=8)[1::2] if words[1].startswith("stylegan2") else []
    for setting in settings:
        if setting.partition("=")[0] not in given:
            more += ["--set", setting]
    return more


# ------------------------------------------------------------------------------------------- damaged and foreign files


@pytest.mark.parametrize(
    "setting",
    ["train.lr_g=0.1", "generator.w_dim=4", "augmentation.kimg=1", "data.mirror=true", "train.batch=4"],
)
def test_a_changed_recipe_is_told_difference_by_difference(
    setting: str, run: Path, images: Path, gankit_cli: Cli
) -> None:
    key, _, value = setting.partition("=")
    before = contents(run)
    result = resume(gankit_cli, run, images, "--set", setting)
    mistake(result, "another recipe", f"{key}: ", f"-> {value.title() if value == 'true' else value}")
    assert contents(run) == before


def test_other_data_is_refused(run: Path, images: Path, tmp_path: Path, gankit_cli: Cli) -> None:
    other = Path(shutil.copytree(images, tmp_path / "other"))
    Image.new("RGB", (16, 16)).save(other / "round" / "new.png")
    before = contents(run)
    mistake(resume(gankit_cli, run, other), "data set has changed", "--init")
    assert contents(run) == before


# -------------------------------------------------------------------------------------------- memory, hub, strangers


@pytest.mark.parametrize(
    ("error", "fragments"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), ["out of memory", "--micro-batch 4", "channel_base"]),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
            ["out of memory", "--micro-batch 4"],
        ),
        (MemoryError(), ["out of memory"]),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error."), ["--workers 0", "pid 7"]),
    ],
)
def test_lack_of_memory_is_told_with_a_way_out(
    error: Exception,
    fragments: list[str],
    run: Path,
    images: Path,
    gankit_cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(Stepper, "run", fail)
    before = contents(run)
    mistake(resume(gankit_cli, run, images), *fragments)
    assert {name: digest for name, digest in contents(run).items() if name in before} == before


def test_a_batch_that_processes_cannot_share(
    images: Path, tmp_path: Path, gankit_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "3"), ("LOCAL_RANK", "0")):  # as torchrun sets them
        monkeypatch.setenv(name, value)
    result = gankit_cli("train", "stylegan2", "--data", images, "--out", tmp_path / "run", *tiny_set())
    mistake(result, "train.batch = 8 cannot be shared by 3 processes", "multiple of 3")
    assert not (tmp_path / "run").exists()


def test_other_errors_are_bugs_and_keep_their_traceback(
    run: Path, images: Path, gankit_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(Stepper, "run", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        resume(gankit_cli, run, images)


def test_models_from_the_hub(
    run: Path, gankit_cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub

    asked = []

    def snapshot(hub_id: str, **kwargs: Any) -> str:
        asked.append(hub_id)
        if hub_id == "someone/squares":
            return str(newest(run))
        raise huggingface_hub.errors.LocalEntryNotFoundError("Cannot find the file\nand so on")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert gankit_cli("sample", "someone/squares", "--seeds", 0, "--out", tmp_path / "s").code == 0
    mistake(gankit_cli("sample", "someone/circles"), "'someone/circles'", "hub", "Cannot find the file")
    mistake(gankit_cli("sample", "no/such/folder"), "unknown model 'no/such/folder'")
    assert asked == ["someone/squares", "someone/circles"]
