"""Every installed recipe trains a few steps, continues and samples, made small by its own section `tiny`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from runs import Result, assert_same, tensors_of, write_images

import gankit
from gankit.core.checkpoints import folders
from gankit.core.config.recipe import Recipe, read, read_page
from gankit.core.config.registry import registry
from gankit.core.models import model_folder
from gankit.errors import GankitError

NAMES = sorted(registry().names("recipe"))


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classes are numbers, as those of ImageNet are for classifier guidance."""
    return write_images(tmp_path_factory.mktemp("labelled"), classes=("0", "1"))


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_trains_continues_and_samples(
    name: str, labelled: Path, tmp_path: Path, gankit_cli: Callable[..., Result]
) -> None:
    page, _ = read_page(name)
    assert page.get("tiny"), (
        f"recipe {name!r} needs a section 'tiny', without which nobody notices that it rots"
    )
    recipe = read(name, tiny=True)
    batch = recipe.train.batch
    assert recipe.train.images >= 3 * batch

    def train(folder: str, steps: int) -> Path:
        data = () if recipe.data.path else ("--data", labelled)
        out = tmp_path / folder
        result = gankit_cli("train", name, "--tiny", *data, "--out", out, "--images", steps * batch, "-q")
        assert (result.code, result.err) == (0, "")
        last = folders.checkpoints(out)[-1]
        assert last.name == f"{steps * batch:09d}"
        return last

    first = tensors_of(train("continued", 2))
    continued = train("continued", 3)
    assert_same(train("whole", 3), continued)
    last = tensors_of(continued)
    assert all(tensor.isfinite().all() for tensor in last.values())
    for kind in ("generator", "discriminator"):
        prefix = f"training/{kind}.safetensors:"
        kept = [key for key in first if key.startswith(prefix) and key in last]
        moved = [key for key in kept if not torch.equal(first[key], last[key])]
        assert moved, f"the {kind} has not learned"

    out = tmp_path / "samples"
    result = gankit_cli("sample", tmp_path / "continued", "--seeds", "0", "--out", out, *wishes(continued))
    assert (result.code, result.err) == (0, "")
    pictures = [path for path in out.glob("*.png") if path.name != "sheet.png"]
    assert [Image.open(path).size for path in pictures] == [recipe.at_stage(-1).data.size[::-1]]


def wishes(model: Path) -> list[str]:
    """What this model can be asked for, as arguments of `gankit sample`."""
    conditioner = model_folder.load_model(model).conditioner
    vocabulary = conditioner.vocabulary()
    given = {
        "cls": lambda: ["--class", next(iter(vocabulary.classes))],
        "tags": lambda: ["--tags", next(iter(vocabulary.tags))],
        "text": lambda: ["--prompt", "one red"],
    }
    return [part for what in sorted(conditioner.accepts) for part in given[what]()]


# ------------------------------------------------------------------------------------- the section by itself


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


def test_where_tiny_does_not_apply(labelled: Path, tmp_path: Path, gankit_cli: Callable[..., Result]) -> None:
    run = tmp_path / "run"
    gankit.train("stylegan2", run, data=str(labelled), tiny=True, overrides={"train.images": 4}, quiet=True)
    assert read(str(run)).name == "stylegan2-tiny"
    result = gankit_cli("train", "--resume", run, "--tiny")
    assert result.code == 2
    assert "leave --tiny away" in result.message
    with pytest.raises(ValueError, match="tiny"):
        gankit.train(read("stylegan2"), run, tiny=True)
