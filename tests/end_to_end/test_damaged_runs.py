"""Damaged checkpoints and full disks: the file is named, exit code 2, nothing of the run is lost."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mistakes import contents, mistake, newest, resume
from runs import Result, tensors_of, tiny_set
from safetensors.torch import save_file

from gankit.core.checkpoints import folders
from gankit.core.runtime import tensor_files

Cli = Callable[..., Result]


# ------------------------------------------------------------------------------------------- damaged and foreign files


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
