"""Overrides of a recipe and the text of `--set`."""

from __future__ import annotations

from typing import Any

import pytest

from gankit.core.config.recipe import override, parse_set, read
from gankit.errors import GankitError


@pytest.mark.parametrize(
    ("page", "key", "value", "expected"),
    [
        ({}, "train.batch", 8, {"train": {"batch": 8}}),
        ({"generator": "a"}, "generator.z", 8, {"generator": {"name": "a", "z": 8}}),
        ({"generator": {"name": "a", "z": 1}}, "generator.z", 8, {"generator": {"name": "a", "z": 8}}),
        ({"generator": {"name": "a", "z": 1}}, "generator", "b", {"generator": {"name": "b"}}),
        ({"augmentation": None}, "augmentation.name", "ada", {"augmentation": {"name": "ada"}}),
        (
            {"d": {"feature": "cnn"}},
            "d.feature.model",
            "m",
            {"d": {"feature": {"name": "cnn", "model": "m"}}},
        ),
        ({"regularizers": {"r1": None}}, "regularizers.r1.gamma", 5, {"regularizers": {"r1": {"gamma": 5}}}),
        ({"data": {"options": {}}}, "data.options.strict", True, {"data": {"options": {"strict": True}}}),
    ],
)
def test_override(page: dict[str, Any], key: str, value: Any, expected: dict[str, Any]) -> None:
    override(page, key, value)
    assert page == expected


def test_override_of_a_value_that_has_no_parts() -> None:
    with pytest.raises(GankitError, match=r"--set train\.batch\.x: train\.batch is a value"):
        override({"train": {"batch": 8}}, "train.batch.x", 1)


def test_overrides_reach_the_recipe() -> None:
    changed = {"train.images": "2k", "data.size": "128x64", "regularizers.r1.gamma": 3, "augmentation": None}
    recipe = read("stylegan2", changed)
    assert recipe.train.images == 2000
    assert recipe.image_shape == (3, 128, 64)
    assert recipe.regularizers["r1"] == {"gamma": 3.0, "interval": 16}
    assert recipe.augmentation is None
    assert "path-length" in recipe.regularizers


def test_false_removes_a_plugin() -> None:
    recipe = read("stylegan2", parse_set(["regularizers.path-length=false", "regularizers.mismatch=null"]))
    assert list(recipe.regularizers) == ["r1", "mismatch"]
    assert (
        read("stylegan2", {"trackers.tensorboard": True}).trackers["tensorboard"]["subfolder"]
        == "tensorboard"
    )


def test_another_plugin_drops_the_options_of_the_first() -> None:
    recipe = read("stylegan2", {"augmentation": "diffaugment"})
    assert recipe.augmentation.keys() == {"name", "policy"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=4096", 4096),
        ("a=0.5", 0.5),
        ("a=2e-3", 0.002),
        ("a=1E5", 1e5),
        ("a=-1e-3", -0.001),
        ("a=true", True),
        ("a=null", None),
        ("a=", None),
        ("a=text", "text"),
        ("a=[1, 3]", [1, 3]),
        ("a={x: 1}", {"x": 1}),
        ("a=b=c", "b=c"),
        ("a='5'", "5"),
        ("a=[unclosed", "[unclosed"),
        ("a=200k", "200k"),
        ("a=color,cutout", "color,cutout"),
    ],
)
def test_parse_set(text: str, value: Any) -> None:
    got = parse_set([text])
    assert got == {"a": value}
    assert type(got["a"]) is type(value)


@pytest.mark.parametrize("text", ["a", "=5", " =5", ""])
def test_parse_set_needs_key_and_value(text: str) -> None:
    with pytest.raises(GankitError, match="must look like key=value"):
        parse_set([text])


def test_a_value_that_is_no_yaml_is_text() -> None:
    assert parse_set(["a=2026-13-45", "b=[1", "c=[1, 2]"]) == {"a": "2026-13-45", "b": "[1", "c": [1, 2]}
