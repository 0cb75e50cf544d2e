"""Recipes: every key is checked, what a run writes reads back, what may differ on resuming."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from repository import ROOT

from gankit.core.config import recipe as recipes
from gankit.core.config.recipe import Recipe, parse, parse_set, parse_size, read
from gankit.core.config.registry import registry
from gankit.errors import GankitError

NAMES = [p.name for p in registry().plugins.values() if p.kind == "recipe" and p.package == "gankit"]


@pytest.mark.parametrize("name", NAMES)
def test_builtin_recipes(name: str, tmp_path: Path) -> None:
    recipe = read(name)
    assert recipe.name == name
    assert recipe.description
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    assert read(str(path)) == recipe
    assert read(str(tmp_path)) == recipe  # a run's folder
    assert recipe.differences(read(name)) == []


def test_there_are_builtin_recipes() -> None:
    assert {"stylegan2", "projected-stylegan2", "stylegan-t", "anime-tags"} <= set(NAMES)


def test_a_resolved_recipe_names_every_option() -> None:
    page = yaml.safe_load(read("stylegan2").to_yaml())
    assert page["generator"]["name"] == "stylegan2"
    assert {"z_dim", "w_dim", "channel_base", "channel_max"} <= page["generator"].keys()
    assert page["regularizers"]["r1"]["interval"] == 16
    assert page["train"].keys() == recipes.TrainOptions.model_fields.keys()
    assert page["data"].keys() == recipes.DataOptions.model_fields.keys()


def test_an_empty_page_has_defaults() -> None:
    recipe = parse({}, "page")
    assert recipe.generator["name"] == "stylegan2"
    assert recipe.image_shape == (3, 64, 64)
    assert recipe.augmentation is None


def test_docs_list_every_key_and_default() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w-]+)` \| `([^|]*)` \|", text, re.MULTILINE)
    resolved = Recipe().model_dump(mode="json")
    data, train, evaluation = resolved.pop("data"), resolved.pop("train"), resolved.pop("evaluation")
    expected = [*resolved.items(), *data.items(), *train.items(), *evaluation.items()]
    assert [(key, yaml.safe_load(default)) for key, default in rows] == expected
    for name in NAMES:
        assert f"| `{name}` |" in text
    for key in recipes.FREE_TO_CHANGE:
        assert f"`{key}`" in text.partition("## Stopping and continuing")[2]


def test_the_page_in_the_docs_is_valid(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    (page,) = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert parse(yaml.safe_load(page), "page").regularizers["r1"]["gamma"] == 0.5
    for line in re.findall(r"^--set (\S+)", text, re.MULTILINE):
        base = "projected-stylegan2" if line.startswith("discriminator.feature") else "stylegan2"
        read(base, parse_set([line]))


# ------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ({"generatr": "stylegan2"}, r"page: unknown key 'generatr'; did you mean 'generator'"),
        ({"train": {"batsh": 3}}, r"page: unknown key 'train\.batsh'; did you mean 'train\.batch'"),
        ({"data": {"sizes": 3}}, r"unknown key 'data\.sizes'; did you mean 'data\.size'"),
        ({"train": {"batch": 0}}, r"page: train\.batch = 0: .*greater than or equal to 1"),
        ({"train": {"batch": "many"}}, r"page: train\.batch = 'many'"),
        ({"train": {"images": "5 zillions"}}, r"train\.images = '5 zillions': .*not a number of images"),
        ({"train": {"order": "ddg"}}, r"train\.order = 'ddg': .*'dg' or 'gd'"),
        ({"data": {"size": "64x"}}, r"data\.size = '64x': .*not a size"),
        ({"data": {"channels": 2}}, r"data\.channels = 2"),
        ({"train": {"keep": "last"}}, r"train\.keep = 'last': .*which checkpoints to keep; write"),
        ({"train": {"keep": 0}}, r"train\.keep = 0: .*which checkpoints"),
        ({"train": {"keep": True}}, r"train\.keep = True: .*not a number of checkpoints"),
        ({"train": {"keep": "last:2,best:3"}}, r"evaluation\.every is set"),
        (
            {"train": {"keep": "best:1:recal"}, "evaluation": {"every": 5, "metrics": {"pr": None}}},
            r"unknown number in train\.keep: 'recal'; did you mean 'recall'",
        ),
        ({"evaluation": {"evry": 5}}, r"unknown key 'evaluation\.evry'; did you mean 'evaluation\.every'"),
        ({"evaluation": {"every": 0}}, r"evaluation\.every = 0"),
        ({"evaluation": {"every": 5, "metrics": {"fdd": {}}}}, r"unknown metric 'fdd'; did you mean 'fd'"),
        ({"evaluation": {"every": 5, "metrics": {}}}, r"evaluation\.metrics names no metric"),
        ({"evaluation": {"every": 5, "feature": "timm-cn"}}, r"unknown feature 'timm-cn'"),
        ({"generator": "stylgan2"}, r"unknown generator 'stylgan2'; did you mean 'stylegan2'"),
        ({"generator": {"name": "stylegan2", "zdim": 3}}, r"'zdim'; did you mean 'z_dim'.*\(in generator\)"),
        (
            {"generator": None},
            r"generator must be the name of a generator or a mapping with 'name', not None",
        ),
        ({"regularizers": {"r3": {}}}, r"unknown regularizer 'r3'"),
        ({"regularizers": {"r1": {"gama": 1}}}, r"'gama'; did you mean 'gamma'\? \(in regularizers\.r1\)"),
        (
            {"regularizers": {"r1": 5}},
            r"page: regularizers = \{'r1': 5\}: must map names of plugins to their options",
        ),
        ({"regularizers": ["r1"]}, r"regularizers = \['r1'\]: must map names of plugins to their options"),
        ({"regularizers": "r1"}, r"regularizers = 'r1': must map names of plugins to their options"),
        ({"train": None}, r"train = None"),
        ({"train": 3}, r"train = 3"),
        ({"gankit": 2}, r"recipe of format 2, this gankit reads 1"),
        ([1], r"page is not a recipe"),
        (None, r"page is not a recipe"),
    ],
)
def test_mistakes_are_named(page: Any, message: str) -> None:
    with pytest.raises(GankitError, match=message) as error:
        parse(page, "page")
    assert "\n" not in str(error.value)


def test_files_that_are_not_recipes(tmp_path: Path) -> None:
    with pytest.raises(GankitError, match=r"cannot read the recipe .*missing\.yaml"):
        read(str(tmp_path / "missing.yaml"))
    for name, content, message in (
        ("text.yaml", b"just text", "is not a recipe"),
        ("broken.yaml", b"a: [1, 2", "is not valid YAML"),
        ("empty.yaml", b"", "is not a recipe"),
        ("binary.yaml", b"\xff\xfe\x00", "cannot read the recipe|is not valid YAML"),
        ("code.yaml", b"!!python/object/apply:os.system ['true']", "is not valid YAML"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(GankitError, match=message):
            read(str(path))
    with pytest.raises(GankitError, match="unknown recipe 'stylgan2'; did you mean 'stylegan2'"):
        read("stylgan2")


# ------------------------------------------------------------------------------------------------- numbers


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 5000), st.integers(0, 5000))
def test_parse_size(height: int, width: int) -> None:
    assert parse_size(f"{height}x{width}") == (height, width)
    assert parse_size(f" {height} X {width} ") == (height, width)
    assert parse_size(str(height)) == parse_size(height) == (height, height)


@pytest.mark.parametrize("text", ["", "x", "64x", "x64", "64*32", "64x32x3", "-4"])
def test_parse_size_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


# ------------------------------------------------------------------------------------- what a run computes


@pytest.mark.parametrize(
    ("key", "value", "matters"),
    [
        ("train.images", "9k", False),
        ("train.micro_batch", 2, False),
        ("train.tick", 50, False),
        ("train.workers", 0, False),
        ("train.keep", 7, False),
        ("evaluation.every", 500, False),
        ("trackers", {}, False),
        ("data.path", "elsewhere", False),
        ("name", "other", False),
        ("description", "other", False),
        ("train.batch", 8, True),
        ("train.seed", 8, True),
        ("train.lr_g", 1e-4, True),
        ("train.images_", None, None),
        ("data.size", 128, True),
        ("data.mirror", True, True),
        ("data.options", {"strict": True}, True),
        ("generator.z_dim", 8, True),
        ("regularizers.r1.gamma", 8, True),
        ("regularizers.r1", False, True),
        ("augmentation", None, True),
        ("augmentation", "diffaugment", True),
    ],
)
def test_differences(key: str, value: Any, matters: bool | None) -> None:
    if matters is None:  # a key that only begins like one that may change
        with pytest.raises(GankitError, match="unknown key"):
            read("stylegan2", {key: value})
        return
    before, after = read("stylegan2"), read("stylegan2", {key: value})
    lines = before.differences(after)
    assert bool(lines) is matters
    assert all(line.startswith((key, "regularizers", "augmentation", "data.size")) for line in lines)
    assert len(after.differences(before)) == len(lines)


TEXT = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"])
)  # PyYAML folds odd line breaks away


def test_differences_show_both_values() -> None:
    (line,) = read("stylegan2").differences(read("stylegan2", {"train.seed": 5}))
    assert line == "train.seed: 0 -> 5"


@settings(deadline=None, max_examples=40)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "train": st.fixed_dictionaries(
                {},
                optional={
                    "batch": st.integers(1, 512),
                    "seed": st.integers(0, 2**31),
                    "lr_g": st.floats(1e-9, 1),
                    "ema_rampup": st.none() | st.floats(0, 1),
                    "images": st.integers(1, 10**9),
                },
            ),
            "data": st.fixed_dictionaries(
                {},
                optional={
                    "size": st.tuples(st.integers(4, 99), st.integers(4, 99)).map(list),
                    "path": st.none() | TEXT,
                    "mirror": st.booleans(),
                },
            ),
            "description": TEXT,
            "loss": st.sampled_from(["hinge", "non-saturating"]),
            "augmentation": st.sampled_from(
                [None, "ada", {"name": "ada", "target": None, "ranges": {"hue": 0.1}}]
            ),
        },
    )
)
def test_what_is_written_reads_back(page: dict[str, Any]) -> None:
    recipe = parse(page, "page")
    again = parse(yaml.safe_load(recipe.to_yaml()), "again")
    assert isinstance(again, Recipe)
    assert again == recipe
    assert recipe.differences(again) == []
