"""A recipe's section `tiny`: what it changes, mistakes in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from gankit.core.config.recipe import Recipe, read
from gankit.errors import GankitError


def write_page(folder: Path, **page: Any) -> Path:
    path = folder / "page.yaml"
    path.write_text(yaml.safe_dump({"gankit": 1, **page}), encoding="utf-8")
    return path


def test_tiny_comes_before_overrides_and_names_the_run(tmp_path: Path) -> None:
    tiny = {"generator.channel_base": 64, "train.batch": 2, "augmentation": "diffaugment"}
    page = write_page(tmp_path, name="mine", generator="stylegan2", tiny=tiny)
    small = read(str(page), {"train.batch": 3}, tiny=True)
    assert (small.name, small.generator["channel_base"], small.train.batch) == ("mine-tiny", 64, 3)
    assert small.augmentation["name"] == "diffaugment"
    full = read(str(page))
    assert (full.name, full.train.batch, full.augmentation) == ("mine", Recipe().train.batch, None)
    assert "tiny" not in yaml.safe_load(full.to_yaml())


@pytest.mark.parametrize(
    ("tiny", "message"),
    [
        ({"train.batsh": 3}, r"unknown key 'train\.batsh'; did you mean 'train\.batch'"),
        ({"train.batch.x": 3}, r"page\.yaml: tiny train\.batch\.x: train\.batch is a value, it has no 'x'"),
        (["train.batch"], r"page\.yaml: tiny must map keys such as generator\.channel_base to values"),
        ({}, r"page\.yaml has no section 'tiny'.*; add one, or leave --tiny away"),
    ],
)
def test_mistakes_in_tiny(tiny: Any, message: str, tmp_path: Path) -> None:
    page = write_page(tmp_path, train={"batch": 4}, **({"tiny": tiny} if tiny else {}))
    with pytest.raises(GankitError, match=message) as error:
        read(str(page), tiny=True)
    assert "\n" not in str(error.value)
