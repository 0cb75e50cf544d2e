"""Every installed recipe trains a few steps, continues and samples, made small by its own section `tiny`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from runs import Result, assert_same, tensors_of, write_images

import gankit
from gankit.core.checkpoints import folders
from gankit.core.config.recipe import read, read_page
from gankit.core.config.registry import registry
from gankit.core.models import model_folder

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
    for field, values in conditioner.examples().items():
        given[field] = lambda field=field, value=values[0]: ["--label", f"{field}={json.dumps(value)}"]
    return [part for what in sorted(conditioner.accepts) for part in given[what]()]


def test_where_tiny_does_not_apply(labelled: Path, tmp_path: Path, gankit_cli: Callable[..., Result]) -> None:
    run = tmp_path / "run"
    gankit.train("stylegan2", run, data=str(labelled), tiny=True, overrides={"train.images": 4}, quiet=True)
    assert read(str(run)).name == "stylegan2-tiny"
    result = gankit_cli("train", "--resume", run, "--tiny")
    assert result.code == 2
    assert "leave --tiny away" in result.message
    with pytest.raises(ValueError, match="tiny"):
        gankit.train(read("stylegan2"), run, tiny=True)
