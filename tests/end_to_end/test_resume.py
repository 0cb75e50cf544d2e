"""A run that was killed, interrupted or stopped continues to the bit as if nothing had happened."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import TINY, Result, assert_same, start_gankit, tensors_of, tiny_set, wait_for

import gankit
from gankit.core.checkpoints import folders
from gankit.core.training import run_folder as run_module
from gankit.core.training.step import Stepper

COMBINED = {"name": "combined", "parts": {"class": {}, "tags": {"dropout": 0.2, "noise": 0.05}}}
OPTIONS = tiny_set(
    conditioner=COMBINED,
    data__mirror=True,
    augmentation={"name": "ada", "pipeline": "bgc", "p": 0.3, "kimg": 0.1},
    regularizers__r1={"interval": 2},
    regularizers__attributes={"certainty": 0.6, "hidden": 8},
    train__checkpoint_every=8,
    train__keep=100,
)


def shards(images: Path, folder: Path) -> Path:
    """The same images as two WebDataset shards."""
    folder.mkdir()
    files = sorted(images.rglob("*.png"))
    for i in range(2):
        with tarfile.open(folder / f"set-{i:04d}.tar", "w") as tar:
            for file in files[i::2]:
                tar.add(file, f"{file.parent.name}-{file.name}")
                caption = file.parent / f"{file.stem}.json"
                caption.write_text(json.dumps({"class": file.parent.name, "tags": ["red"]}))
                tar.add(caption, f"{file.parent.name}-{caption.name}")
                caption.unlink()
    return folder


def steps(run: Path) -> list[int]:
    return [int(p.name) // 8 for p in folders.checkpoints(run)]


@pytest.mark.parametrize("source", [pytest.param("folder", marks=pytest.mark.slow), "shards"])
def test_a_killed_run_continues_to_the_bit(
    source: str, images: Path, tmp_path: Path, gankit_cli: Callable[..., Result]
) -> None:
    data = images if source == "folder" else shards(images, tmp_path / "shards")
    workers = "0" if source == "folder" else "1"

    def command(run: str, length: int) -> list[str]:
        train = ["train", "stylegan2", "--data", str(data), "--out", str(tmp_path / run), *OPTIONS]
        return [*train, "--images", str(length), "--workers", workers]

    whole = gankit_cli(*command("whole", 48))
    assert (whole.code, whole.err) == (0, "")

    process = start_gankit(*command("killed", 10**6))
    wait_for(lambda: 3 in steps(tmp_path / "killed"), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert max(steps(tmp_path / "killed")) < 6
    (tmp_path / "killed" / "checkpoints" / ".000000099.1.tmp").mkdir()  # what a kill within a save leaves

    again = gankit_cli(*command("killed", 48))
    assert (again.code, again.err) == (0, "")
    assert again.out.startswith("continuing ")
    assert steps(tmp_path / "killed") == steps(tmp_path / "whole") == [1, 2, 3, 4, 5, 6]
    for step in (5, 6):
        a, b = (tmp_path / run / "checkpoints" / f"{8 * step:09d}" for run in ("whole", "killed"))
        assert_same(a, b)
        assert json.loads((a / run_module.STATE).read_text()) == json.loads(
            (b / run_module.STATE).read_text()
        )
    names = tensors_of(b).keys()
    for part in (
        "augmentation.safetensors:p",
        "regularizer.path-length.safetensors:pl_mean",
        "optimizer_d",
        "optimizer_g",
    ):
        assert any(f"training/{part}" in name for name in names), part
    assert not list((tmp_path / "killed" / "checkpoints").glob(".*"))

    logs = [(tmp_path / run / "log.jsonl").read_text().splitlines() for run in ("whole", "killed")]
    assert len(logs[0]) == len(logs[1]) == 6
    samples = [
        sorted(p.read_bytes() for p in (tmp_path / run / "samples").iterdir()) for run in ("whole", "killed")
    ]
    assert samples[0] == samples[1]


def test_ctrl_c_and_sigterm_save_and_continue_to_the_bit(
    images: Path, tmp_path: Path, gankit_cli: Callable[..., Result]
) -> None:
    run = tmp_path / "run"
    common = ("train", "stylegan2", "--data", images, *OPTIONS, "--set", "train.checkpoint_every=1000000")
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        before = steps(run)
        process = start_gankit(*common, "--out", run, "--images", 10**6, "--workers", 1)
        lines = run / "log.jsonl"
        seen = (before or [0])[-1]
        wait_for(lambda: lines.is_file() and len(lines.read_text().splitlines()) > seen + 1, process)  # noqa: B023
        os.killpg(process.pid, number)  # a terminal sends Ctrl-C to the workers, too
        out, err = process.communicate(timeout=120)
        assert (process.returncode, err) == (code, ""), out
        assert "a checkpoint will be written" in out
        assert steps(run)[:-1] == before
        assert steps(run)[-1] >= seen + 2
    length = 8 * (steps(run)[-1] + 1)
    assert gankit_cli(*common, "--out", run, "--images", length).code == 0
    assert gankit_cli(*common, "--out", tmp_path / "whole", "--images", length).code == 0
    assert_same(*(p / "checkpoints" / f"{length:09d}" for p in (run, tmp_path / "whole")))


def test_resume_takes_the_recipe_from_the_run(
    images: Path, tmp_path: Path, gankit_cli: Callable[..., Result]
) -> None:
    run = tmp_path / "run"
    assert gankit_cli("train", "stylegan2", "--data", images, "--out", run, *OPTIONS, "--images", 8).code == 0
    assert gankit_cli("train", "--resume", run, "--kimg", 0.016).code == 0
    assert steps(run) == [1, 2]
    done = gankit_cli("train", "--resume", run, "--images", 16)  # nothing left to do
    assert done.code == 0
    assert "000000016" in done.out
    assert steps(run) == [1, 2]


def test_a_run_may_move_together_with_its_data(
    images: Path, tmp_path: Path, gankit_cli: Callable[..., Result]
) -> None:
    """Paths are not part of a run's identity; the content of the data is."""
    shutil.copytree(images, tmp_path / "data")
    run = tmp_path / "run"
    command = ("train", "stylegan2", *OPTIONS)
    assert gankit_cli(*command, "--data", tmp_path / "data", "--out", run, "--images", 8).code == 0
    run, data = run.rename(tmp_path / "elsewhere"), (tmp_path / "data").rename(tmp_path / "other")
    assert gankit_cli(*command, "--data", data, "--out", run, "--images", 16).code == 0
    (data / "square" / "001.png").unlink()
    (data / "metadata.jsonl").unlink()
    result = gankit_cli(*command, "--data", data, "--out", run, "--images", 24)
    assert result.code == 2
    assert "the data set has changed" in result.message
    assert steps(run) == [1, 2]


def test_the_api_saves_and_raises_what_stopped_it(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script does not go on as if a training that the user interrupted had ended."""
    original = Stepper.run
    signals = [signal.SIGINT]

    def interrupted(self: Stepper, *args: Any, **kwargs: Any) -> bool:
        if self.step == 1:
            for number in signals:
                os.kill(os.getpid(), number)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Stepper, "run", interrupted)
    options = {"data": str(images), "overrides": {**TINY, "train.images": 80}, "quiet": True}
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        gankit.train("stylegan2", tmp_path / "a", **options)
    assert steps(tmp_path / "a") == [2]
    signals[:] = [signal.SIGTERM]
    with pytest.raises(SystemExit) as stopped:
        gankit.train("stylegan2", tmp_path / "b", **options)
    assert stopped.value.code == 143
    assert steps(tmp_path / "b") == [2]
    signals[:] = [signal.SIGINT, signal.SIGINT]  # the user insists: at once, without a checkpoint
    with pytest.raises(KeyboardInterrupt):
        gankit.train("stylegan2", tmp_path / "c", **options)
    assert steps(tmp_path / "c") == []
    assert signal.getsignal(signal.SIGINT) is before
