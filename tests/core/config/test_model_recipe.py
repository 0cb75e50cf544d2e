"""What a model reads of its recipe, and that the rest is written as it was read."""

from __future__ import annotations

import math

import pytest
import yaml

from gankit.core.config import model_recipe
from gankit.core.config import recipe as recipes
from gankit.core.runtime import yaml_files
from gankit.errors import GankitError


@pytest.mark.parametrize("name", ["stylegan2", "stylegan-xl", "r3gan-cifar10"])
def test_a_written_page_is_carried_to_the_letter(name: str) -> None:
    recipe = recipes.read(name, {"train.seed": 7, "data.path": "pictures"})
    page = yaml_files.load(recipe.to_yaml())
    model = model_recipe.parse(page, "test")
    assert model.to_yaml() == recipe.to_yaml()
    assert model.to_page() == page
    for fact in ("name", "description", "conditioner", "generator", "image_shape", "seed"):
        assert getattr(model, fact) == getattr(recipe, fact)
    assert model.data.model_dump() == recipe.data.model_dump()


def test_what_training_needs_may_be_anything() -> None:
    odd = {
        **{key: "?" for key in ("loss", "discriminator", "regularizers", "stages", "evaluation", "packages")},
        **{
            "schedules": {"r1": {"gamma": math.inf}},
            "train": {"seed": -1, "lr": 2},
            "later": [None, {"a": 1}],
        },
    }
    model = model_recipe.parse({"name": "mine", **odd}, "test")
    assert model.seed == 0
    written = yaml_files.load(model.to_yaml())
    assert {key: written[key] for key in odd} == odd
    assert model.model_copy(update={"name": "other"}).to_page() == {**written, "name": "other"}
    assert yaml.safe_load(model_recipe.parse({"x": b"\x80"}, "test").to_yaml())["x"]


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        ([], "test is not a recipe"),
        ({"gankit": 2}, "a recipe of format 2, this gankit reads 1"),
        ({"data": {"channels": 2}}, r"test: data.channels = 2: "),
        ({"data": {"size": "big"}}, "test: data.size = 'big': 'big' is not a size"),
        ({"generator": "stylegan22"}, "unknown generator 'stylegan22'; did you mean 'stylegan2'"),
        ({"generator": {"name": "stylegan2", "z": 1}}, "unknown option of generator 'stylegan2': 'z'"),
        ({"conditioner": 3}, "conditioner must be the name of a conditioner"),
    ],
)
def test_what_drawing_needs_is_checked(page: object, sentence: str) -> None:
    with pytest.raises(GankitError, match=sentence):
        model_recipe.parse(page, "test")
