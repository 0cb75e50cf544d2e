"""Tiny data sets, trainings and commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

import gankit

TINY = {
    "data.size": 16,
    "generator.z_dim": 8,
    "generator.w_dim": 8,
    "generator.channel_base": 128,
    "discriminator.channel_base": 128,
    "train.batch": 8,
    "train.workers": 0,
    "train.tick": 8,
    "train.precision": "fp32",  # the tests compare numbers
}
TAGS = ("red", "green", "dark")


def tiny_set(**extra: object) -> list[str]:
    """TINY, and more, as `--set` arguments."""
    options = {**TINY, **{key.replace("__", "."): value for key, value in extra.items()}}
    return [part for key, value in options.items() for part in ("--set", f"{key}={json.dumps(value)}")]


def write_images(
    root: Path, *, count: int = 24, channels: int = 3, classes: tuple[str, str] = ("round", "square")
) -> Path:
    """A folder of squares on a ground, in two classes, with tags and captions."""
    rng = np.random.default_rng(0)
    lines = []
    for i in range(count):
        name = f"{classes[i % 2]}/{i:03d}.png"
        pixels = np.full((16, 16, channels), rng.integers(0, 256, channels), np.uint8)
        pixels[4:12, 4:12] = rng.integers(0, 256, channels)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels).save(root / name)
        tags = [tag for tag in TAGS if rng.random() < 0.5]
        lines.append({"file_name": name, "tags": tags, "text": [f"a {name[0]}", " ".join(["one", *tags])]})
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return root


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """The one line that a mistake is told in."""
        lines = [line for line in self.err.splitlines() if not line.startswith("gankit: warning:")]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("gankit: ")
        return lines[0]


def start_gankit(*arguments: object, **kwargs: object) -> subprocess.Popen[str]:
    """`python -m gankit ARGS` as a process (group) of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "gankit", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        **kwargs,  # type: ignore[call-overload]
    )


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    """`gankit ARGS` in two processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*launcher, "-m", "gankit", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def tensors_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Every tensor of every file of a checkpoint, by 'file:name'."""
    return {
        f"{file.relative_to(checkpoint)}:{name}": tensor
        for file in sorted(checkpoint.rglob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def assert_same(a: Path, b: Path, tolerance: float = 0.0, *, within: str = "") -> None:
    """Two checkpoints hold the same files, names and numbers (of files whose name contains `within`)."""
    mine = {name: tensor for name, tensor in tensors_of(a).items() if within in name}
    theirs = {name: tensor for name, tensor in tensors_of(b).items() if within in name}
    assert mine.keys() == theirs.keys()
    assert mine
    errors = {name: (mine[name].double() - theirs[name].double()).abs().max().item() for name in mine}
    worst = max(errors, key=errors.__getitem__)
    assert errors[worst] <= tolerance, f"{worst}: {errors[worst]}"


def pixels(images: Sequence[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images]).astype(int)


def train(out: Path, images: Path, recipe: str = "stylegan2", **overrides: Any) -> Path:
    """Train a tiny network; `train__images=16` overrides the recipe's train.images."""
    changes = {**TINY, "train.images": 8, **{k.replace("__", "."): v for k, v in overrides.items()}}
    return gankit.train(recipe, out, data=str(images), overrides=changes, quiet=True)


def log_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
