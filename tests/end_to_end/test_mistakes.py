"""What users get wrong, and what disks and machines do to them: exit code 2, one sentence, nothing lost."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from runs import TINY, Result, tensors_of, tiny_set
from safetensors.torch import save_file

import gankit
from gankit.core.checkpoints import folders
from gankit.core.runtime import tensor_files
from gankit.core.training.step import Stepper

Cli = Callable[..., Result]


@pytest.fixture(scope="module")
def trained(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two checkpoints, conditioned on classes."""
    run = tmp_path_factory.mktemp("trained") / "run"
    overrides = {**TINY, "train.images": 16, "train.checkpoint_every": 8, "trackers": {}}
    gankit.train("stylegan2-class", run, data=str(images), overrides=overrides, quiet=True)
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def contents(folder: Path) -> dict[str, str]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def mistake(result: Result, *fragments: str) -> None:
    assert result.code == 2, result
    message = result.message
    assert result.out == "" or "Traceback" not in result.out
    for fragment in fragments:
        assert fragment in message


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
        ("train stylegan2 --images lots", ["'lots' is not a number of images"]),
        ("train stylegan2 --images 5k --kimg 5", ["--images and --kimg"]),
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


def newest(run: Path) -> Path:
    return folders.checkpoints(run)[-1]


def resume(cli: Cli, run: Path, images: Path, *more: object) -> Result:
    return cli(
        "train",
        "stylegan2-class",
        "--data",
        images,
        "--out",
        run,
        *tiny_set(trackers={}),
        "--images",
        24,
        *more,
    )


TENSOR_FILES = [
    "generator.safetensors",
    "training/generator.safetensors",
    "training/discriminator.safetensors",
    "training/optimizer_g.safetensors",
    "training/optimizer_d.safetensors",
    "training/augmentation.safetensors",
]
JSON_FILES = ["conditioner.json", "training/state.json"]


@pytest.mark.parametrize("name", [*TENSOR_FILES, *JSON_FILES])
def test_damaged_checkpoints_are_named(name: str, run: Path, images: Path, gankit_cli: Cli) -> None:
    path = newest(run) / name
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) * 9 // 10] ^= 1
    for data in (whole[: len(whole) // 2], b"", flipped, None):
        path.unlink()
        if data is not None:
            path.write_bytes(data)
        before = contents(run)
        what = "missing" if data is None else "damaged"
        mistake(resume(gankit_cli, run, images), f"{path} is {what}", "delete this checkpoint")
        assert contents(run) == before
        sampled = gankit_cli("sample", run, "--seeds", 0, "--out", run.parent / "samples")
        if name.startswith("training/"):
            assert sampled.code == 0  # the model itself is whole
        else:
            mistake(sampled, f"{path} is {what}")


def test_the_advice_for_damaged_checkpoints_helps(run: Path, images: Path, gankit_cli: Cli) -> None:
    (newest(run) / "training" / "state.json").write_text("{")
    assert resume(gankit_cli, run, images).code == 2
    shutil.rmtree(newest(run))
    result = resume(gankit_cli, run, images)
    assert result.code == 0
    assert "at 0.008 kimg" in result.out
    assert newest(run).name == "000000024"


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "missing"])
def test_damaged_recipes_are_noticed(damage: str, run: Path, images: Path, gankit_cli: Cli) -> None:
    for page in (run / "recipe.yaml", newest(run) / "recipe.yaml"):
        text = page.read_text()
        changed = {
            "truncated": text[: len(text) // 2],
            "empty": "",
            "flipped": text.replace("z_dim: 8", "z_dim: 9"),
        }
        if damage == "missing":
            page.unlink()
        else:
            page.write_text(changed[damage])
        before = contents(run)
        result = resume(gankit_cli, run, images)
        if damage == "missing" and page.parent != run:
            assert result.code == 0  # that folder is no complete checkpoint: the one before is taken
        else:
            mistake(result)
            assert contents(run) == before
        page.write_text(text)


def test_files_of_two_checkpoints_do_not_mix(run: Path, images: Path, gankit_cli: Cli) -> None:
    old, new = folders.checkpoints(run)
    name = "training/optimizer_g.safetensors"
    shutil.copy(old / name, new / name)
    mistake(resume(gankit_cli, run, images), name, "belongs to another checkpoint")


def test_models_of_other_versions_are_refused(run: Path, images: Path, gankit_cli: Cli) -> None:
    folder = newest(run)
    page = folder / "conditioner.json"
    text = page.read_text()
    page.write_text(text.replace('"format": 1', '"format": 99'))
    mistake(gankit_cli("sample", run), "conditioner.json", "format 99", "use the gankit that wrote it")
    page.write_text(text)

    recipe = folder / "recipe.yaml"
    text = recipe.read_text()
    recipe.write_text(text.replace("gankit: 1", "gankit: 7"))
    mistake(gankit_cli("sample", run), "recipe.yaml", "format 7")
    recipe.write_text(text.replace("name: stylegan2\n", "name: stylegan4\n", 1))
    mistake(gankit_cli("sample", run), "unknown generator 'stylegan4'")
    recipe.write_text(text.replace("z_dim: 8", "z_dim: 9"))
    mistake(gankit_cli("sample", run), "generator.safetensors", "of another shape")
    recipe.write_text(text)

    tensors = {k.partition(":")[2]: v for k, v in tensors_of(folder).items() if k.startswith("generator.")}
    (folder / "generator.safetensors").unlink()
    save_file({**tensors, "extra": torch.zeros(1)}, folder / "generator.safetensors")
    mistake(gankit_cli("sample", run), "1 unknown, e.g. 'extra'")
    state = folder / "training" / "state.json"
    state.write_text(state.read_text().replace('"format": 1', '"format": 99'))
    mistake(resume(gankit_cli, run, images), "state.json", "format 99")


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


# ---------------------------------------------------------------------------------------------------- full disks


LIMITED = """
    import resource, sys
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
    from gankit.cli import main
    sys.argv = ["gankit", *sys.argv[2:]]
    main()
"""


def test_a_full_disk_costs_the_new_checkpoint_only(
    run: Path, images: Path, gankit_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the tensor files of a save meets the full disk once; what was there stays as it was."""
    before = contents(run)
    save = tensor_files.save_file
    room = 0

    def save_if_there_is_room(tensors: Any, path: str, metadata: Any) -> None:
        nonlocal room
        room -= 1
        if room < 0:
            Path(path).write_bytes(b"half a file")
            raise OSError(28, "No space left on device", path)
        save(tensors, path, metadata)

    monkeypatch.setattr(tensor_files, "save_file", save_if_there_is_room)
    for room in range(len(TENSOR_FILES)):  # noqa: B007
        mistake(resume(gankit_cli, run, images), "cannot write", "No space left on device", "free some space")
        now = contents(run)
        assert all(now[name] == before[name] for name in before if name != "log.jsonl")
        assert not list((run / "checkpoints").glob(".*"))
    room = 100
    assert resume(gankit_cli, run, images).code == 0


@pytest.mark.skipif(sys.platform == "win32", reason="limits of the size of files are POSIX")
@pytest.mark.parametrize("limit", [200, 20_000])
@pytest.mark.slow
def test_a_real_limit_on_the_size_of_files(limit: int, run: Path, images: Path) -> None:
    before = contents(run)
    script = textwrap.dedent(LIMITED)
    arguments = (
        "train",
        "stylegan2-class",
        "--data",
        images,
        "--out",
        run,
        *tiny_set(trackers={}),
        "--images",
        24,
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(limit), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    mistake(Result(result.returncode, result.stdout, result.stderr), "cannot write", "too large")
    now = contents(run)
    changed = {name for name in before if now.get(name) != before[name]}
    assert changed <= {"log.jsonl"}
    assert not list((run / "checkpoints").glob(".*"))


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
