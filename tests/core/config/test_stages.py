"""Stages of a recipe: how a page and its changes are read, and mistakes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from stages import GROW

from gankit.core.config import recipe as recipes
from gankit.core.config.stages import merge
from gankit.errors import GankitError


@pytest.mark.parametrize(
    ("page", "changes", "expected"),
    [
        ({"a": 1, "b": {"c": 2}}, {"b": {"d": 3}}, {"a": 1, "b": {"c": 2, "d": 3}}),
        ({"a": [1]}, {"a": [2]}, {"a": [2]}),
        ({"a": {"b": 1}}, {"a": None}, {"a": None}),
        ({"g": {"name": "x", "z": 1}}, {"g": {"w": 2}}, {"g": {"name": "x", "z": 1, "w": 2}}),
        ({"g": {"name": "x", "z": 1}}, {"g": {"name": "x", "w": 2}}, {"g": {"name": "x", "z": 1, "w": 2}}),
        ({"g": {"name": "x", "z": 1}}, {"g": {"name": "y", "w": 2}}, {"g": {"name": "y", "w": 2}}),
        ({"g": {"name": "x", "z": 1}}, {"g": "y"}, {"g": {"name": "y"}}),
        ({"g": {"name": "x", "z": 1}}, {"g": "x"}, {"g": {"name": "x", "z": 1}}),
        ({"g": None}, {"g": {"name": "y"}}, {"g": {"name": "y"}}),
    ],
)
def test_merge(page: Any, changes: Any, expected: Any) -> None:
    before = json.dumps(page)
    assert merge(page, changes) == expected
    assert json.dumps(page) == before


def test_a_stage_is_the_page_with_its_changes() -> None:
    recipe = recipes.read("stylegan2", {"stages": GROW, "data.size": 16})
    assert [recipe.at_stage(i).data.size for i in range(3)] == [(16, 16), (32, 32), (32, 32)]
    assert [recipe.at_stage(i).train.lr_d for i in range(3)] == [0.01, 0.0025, 0.0025]
    assert [set(recipe.at_stage(i).regularizers) for i in range(3)] == [{"r1", "path-length"}, {"r1"}, {"r1"}]
    assert recipe.at_stage(1).stages == []
    assert recipes.parse(yaml.safe_load(recipe.to_yaml()), "again") == recipe
    other = recipes.read("stylegan2", {"stages": [{**GROW[0], "until": "12"}, *GROW[1:]], "data.size": 16})
    assert recipe.differences(other) == ["stages.0.until: 16 -> 12"]
    finer = [GROW[0], {**GROW[1], "train": {**GROW[1]["train"], "micro_batch": 2}}, GROW[2]]
    assert recipe.differences(recipes.read("stylegan2", {"stages": finer, "data.size": 16})) == []
    plain = recipes.read("stylegan2")
    assert plain.at_stage(0) is plain


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([{}], r"page: a single stage is no stage"),
        ([{"untill": 5}, {}], r"page: stages.0: unknown key 'untill'; did you mean 'until'"),
        ([{}, {}], r"page: stages.0.until = None must be the number of images"),
        ([{"until": "9 dozen"}, {}], r"page: stages.0.until: '9 dozen' is not a number of images"),
        ([{"until": 5}, {"until": 5}, {}], r"page: stages.1.until = 5 must be .*above 5"),
        ([{"until": 5}, {"until": 9}], r"page: stages.1: the last stage ends at train.images"),
        ([{"until": 5, "train": {"seed": 3}}, {}], r"stages.0: train.seed is the same in all stages"),
        ([{"until": 5}, {"data": {"path": "x"}}], r"stages.1: data.path is the same in all stages"),
        (
            [{"until": 5}, {"data": {"sise": 3}}],
            r"page: stages.1: unknown key 'data.sise'; did you mean 'data.size'",
        ),
        (
            [{"until": 5}, {"generator": "stylgan2"}],
            r"page: stages.1: unknown generator 'stylgan2'; did you mean",
        ),
        ([{"until": 5}, {"train": {"batch": 0}}], r"page: stages.1: train.batch = 0: "),
        ([{"until": 5}, {"stages": []}], r"stages.1: unknown key 'stages'"),
        ([{"until": 5}, {"patience": 2}], r"page: stages.1: the last stage ends .* leave patience away"),
        ([{"until": 5, "patience": 0}, {}], r"page: stages.0.patience = 0 must be a number of evaluations"),
        (
            [{"until": 5, "patience": 2}, {}],
            r"page: stages.0.patience needs evaluations; set evaluation.every",
        ),
        ([{"until": 5}, {"restart": ["discriminater"]}], r"stages.1.restart: unknown part .*'discriminator'"),
        ([{"until": 5}, {"restart": "generator"}], r"stages.1.restart = 'generator' must be a list of gen"),
        ([{"until": 5, "restart": ["generator"]}, {}], r"stages.0: the first stage starts everything"),
        ([{"until": 5}, 3], r"page: stages.1 = 3"),
        ({"until": 5}, r"page: stages = "),
    ],
)
def test_mistakes_in_stages_are_named(stages: Any, message: str) -> None:
    with pytest.raises(GankitError, match=message) as error:
        recipes.parse({"stages": stages}, "page")
    assert "\n" not in str(error.value)
