"""Every built-in plugin keeps its contract."""

from __future__ import annotations

import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from conditioning_utils import make_open_clip
from PIL import Image

import gankit.testing


def make_folder(folder: Path) -> Path:
    """Six images with classes, tags and captions."""
    rng = np.random.RandomState(0)
    lines = []
    for i in range(6):
        cls = ("cat", "dog")[i % 2]
        path = folder / cls / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.randint(0, 256, (20, 16, 3), np.uint8)).save(path)
        record = {
            "file_name": f"{cls}/{i}.png",
            "tags": ["fur", "red"][: 1 + i % 2],
            "text": f"{cls} number {i}",
        }
        lines.append(json.dumps(record))
    (folder / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="session", autouse=True)
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> None:
    model, weights = make_open_clip(tmp_path_factory.mktemp("clip"), image_layers=4)
    TestBuiltins.clip = {"model": model, "pretrained": str(weights)}


class TestBuiltins(gankit.testing.ConformanceSuite):
    package = "gankit"
    clip: ClassVar[dict[str, Any]] = {}

    def options(self, kind: str, name: str) -> dict[str, Any]:
        towers = ("clip", "clip-text", "clip-image", "clip-score")
        return self.clip if name in towers else super().options(kind, name)

    def source_path(self, name: str, folder: Path) -> str:
        made = make_folder(folder / "images")
        if name == "zip":
            with zipfile.ZipFile(folder / "images.zip", "w") as archive:
                for path in sorted(made.rglob("*.*")):
                    archive.write(path, path.relative_to(made))
            return str(folder / "images.zip")
        if name == "webdataset":
            with tarfile.open(folder / "images.tar", "w") as shard:
                for path in sorted(made.rglob("*.png")):
                    shard.add(path, path.name)
            return str(folder / "images.tar")
        return str(made)
