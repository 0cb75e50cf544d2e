"""`gankit export`: a slim model folder that draws the same images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from runs import Result, pixels
from safetensors import safe_open
from torch import Tensor

import gankit
from gankit.core.checkpoints import folders


@pytest.mark.parametrize(("dtype", "levels", "size"), [("fp32", 0, 1), ("fp16", 2, 0.6), ("bf16", 12, 0.6)])
def test_export(
    dtype: str,
    levels: int,
    size: float,
    runs: dict[str, Path],
    tmp_path: Path,
    gankit_cli: Callable[..., Result],
) -> None:
    newest, out = folders.checkpoints(runs["any"])[-1], tmp_path / "deep" / "model"
    assert gankit_cli("export", runs["any"], out, "--dtype", dtype).code == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "README.md",
        "conditioner.json",
        "generator.safetensors",
        "recipe.yaml",
    ]
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "pipe('a prompt', tags=['a', 'b'], cls='a class', seeds=range(8), psi=0.7)" in card
    assert "on 48 images" in card
    kinds = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    with safe_open(out / "generator.safetensors", "pt") as file:
        stored: list[Tensor] = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
        facts = json.loads(file.metadata()["gankit"])
    assert {t.dtype for t in stored if t.is_floating_point()} == {kinds[dtype]}
    assert (facts["images"], facts["image_shape"]) == (48, [3, 16, 16])
    assert facts["packages"]["generator stylegan2"] == f"gankit {gankit.__version__}"
    assert facts["packages"]["conditioner letters"] == "gankit-letters 1.0"  # in the options of another one
    assert "pip install gankit gankit-letters\n" in card
    whole = (newest / "generator.safetensors").stat().st_size
    assert (out / "generator.safetensors").stat().st_size <= size * whole + 4096

    exported, original = (gankit.load(path) for path in (out, runs["any"]))
    assert next(exported.generator.parameters()).dtype == torch.float32
    difference = abs(pixels(exported("abc", seeds=range(4))) - pixels(original("abc", seeds=range(4))))
    assert difference.max() <= levels
    again = gankit_cli("export", runs["any"], out)
    assert again.code == 2
    assert "exists already" in again.message
