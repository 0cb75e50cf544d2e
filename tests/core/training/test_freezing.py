"""Frozen parts: patterns, mistakes in them, and what moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from runs import tensors_of, tiny_set, train
from torch import nn

from gankit.core.checkpoints import folders
from gankit.core.training.freezing import freeze
from gankit.errors import GankitError

FROZEN = ["discriminator.b16.fromrgb", "generator.mapping", "!generator.mapping.fc1"]


def test_frozen_parts_stay_and_others_move(images: Path, tmp_path: Path) -> None:
    options = {"train.freeze": FROZEN, "train.checkpoint_every": 8}
    train(tmp_path, images, **options, **{"train.images": 16})
    first, last = (tensors_of(p) for p in folders.checkpoints(tmp_path))
    for name, tensor in last.items():
        if name.startswith("training/optimizer") or not name.endswith((".weight", ".bias")):
            continue
        part = name.partition("/")[2]
        frozen = part.startswith(
            ("discriminator.safetensors:b16.fromrgb", "generator.safetensors:mapping.fc0")
        )
        if name.startswith("training/") and ("fc" not in name or frozen or "fc1" in name):
            assert torch.equal(tensor, first[name]) is frozen, name


def test_patterns() -> None:
    def made() -> dict[str, nn.Module]:
        D = nn.ModuleDict(
            {f"b{r}": nn.ModuleDict({"conv0": nn.Linear(2, 2), "skip": nn.Linear(2, 2)}) for r in (4, 8)}
        )
        return {"discriminator": D, "generator": nn.Linear(2, 2)}

    assert freeze(made(), []) == []
    assert freeze(made(), ["generator"]) == ["generator.weight", "generator.bias"]
    assert freeze(made(), ["discriminator.*.skip"]) == [
        f"discriminator.b{r}.skip.{kind}" for r in (4, 8) for kind in ("weight", "bias")
    ]
    assert freeze(made(), ["*.bias", "!discriminator.b8", "!generator"]) == [
        "discriminator.b4.conv0.bias",
        "discriminator.b4.skip.bias",
    ]
    modules = made()
    freeze(modules, ["discriminator.b8"])
    assert {n for n, p in modules["discriminator"].named_parameters() if not p.requires_grad} == {
        f"b8.{layer}.{kind}" for layer in ("conv0", "skip") for kind in ("weight", "bias")
    }
    with pytest.raises(
        GankitError, match=r"train.freeze: 'discriminator.b16'; did you mean 'discriminator.b"
    ):
        freeze(made(), ["discriminator.b16"])


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (
            ["discriminator.b61"],
            r"unknown part in train.freeze: 'discriminator.b61'; did you mean 'discriminator.b16'",
        ),
        (["discriminator"], r"train.freeze leaves nothing of the discriminator to train"),
        (["generator"], r"train.freeze leaves nothing of the generator to train"),
    ],
)
def test_mistakes_in_freezing_are_named(
    patterns: list[str], message: str, images: Path, tmp_path: Path
) -> None:
    with pytest.raises(GankitError, match=message):
        train(tmp_path, images, **{"train.freeze": patterns})


def test_dry_run_shows_what_is_frozen(images: Path, gankit_cli: Any) -> None:
    command = ("train", "stylegan2", "--data", images, "--dry-run", *tiny_set())
    shown = gankit_cli(
        *command, "--set", "train.freeze=[discriminator.b16.conv0]", "--set", "train.top_k=0.5"
    )
    assert "not trained: 2 tensors, such as discriminator.b16.conv0." in shown.out
    assert "top-k" in shown.out
    wrong = gankit_cli(*command, "--set", "train.freeze=[discriminator.b61]")
    assert (wrong.code, "did you mean" in wrong.message) == (2, True)
