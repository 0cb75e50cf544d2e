"""A cache of Hugging Face's hub with one repo."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

HUB_ID = "timm/some_model.in1k"
TENSORS = {"b": torch.arange(3.0), "a": torch.ones(2, 2, dtype=torch.float16), "count": torch.tensor(7)}


def fill_cache(cache: Path, hub_id: str, files: dict[str, dict | str]) -> Path:
    """The layout of the hub's cache for one revision."""
    root = cache / f"models--{hub_id.replace('/', '--')}"
    snapshot = root / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("abc123")
    for name, content in files.items():
        if isinstance(content, str):
            (snapshot / name).write_text(content)
        else:
            save_file(content, snapshot / name)
    return snapshot
