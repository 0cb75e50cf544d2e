"""Which packages a recipe's plugins are of: every kind, nested, of all stages; records that are not to be believed."""

from __future__ import annotations

import pytest
import yaml
from option_plugins import registered

from gankit import __version__
from gankit.core.config import model_recipe, packages
from gankit.core.config import recipe as recipes
from gankit.errors import GankitError

MINE = f"gankit {__version__}"


def test_every_plugin_of_a_recipe_is_recorded() -> None:
    page = {
        "conditioner": {"name": "combined", "parts": {"tags": {}, "more": {"name": "class"}}},
        "discriminator": {"name": "projected", "feature": "timm-cnn"},
        "regularizers": {"r1": {}},
        "guidance": {"classifier": {}},
        "trackers": {"tensorboard": {}},
        "evaluation": {"every": 8, "metrics": {"kid": {}}, "feature": "inception"},
        "data": {"path": "folder:pictures"},
    }
    recipe = recipes.parse(page, "test")
    assert recipe.packages == dict.fromkeys(sorted(recipe.packages), MINE)
    assert recipe.packages.keys() == {
        *("conditioner class", "conditioner combined", "conditioner tags"),
        *(
            "discriminator projected",
            "feature inception",
            "feature timm-cnn",
            "feature timm-vit",
            "generator stylegan2",
        ),
        *(
            "guidance classifier",
            "loss non-saturating",
            "metric kid",
            "optimizer adam",
            "regularizer r1",
            "source folder",
        ),
        "tracker tensorboard",
    }
    assert recipes.parse(yaml.safe_load(recipe.to_yaml()), "written") == recipe
    del page["evaluation"]["every"]  # nothing is measured
    assert not {"metric kid", "feature inception"} & recipes.parse(page, "test").packages.keys()


def test_the_stages_count() -> None:
    page = {"stages": [{"until": 8, "loss": "hinge"}, {"guidance": {"classifier": {}}}]}
    whole = recipes.parse(page, "test")
    assert {"loss hinge", "loss non-saturating", "guidance classifier"} <= whole.packages.keys()
    first = whole.at_stage(0).packages.keys()
    assert "loss hinge" in first
    assert not {"loss non-saturating", "guidance classifier"} & first
    assert recipes.parse({**page, "packages": {}}, "test") == whole


def test_records_change_nothing_else() -> None:
    """A page from elsewhere: the new recipe has its own records, and a run may continue."""
    recipe = recipes.parse({"loss": "hinge"}, "test")
    for given in ({"loss hinge": "gankit 9.9", "loss gone": "other 1.0"}, "nonsense", None, {3: []}):
        other = recipes.parse({"loss": "hinge", "packages": given}, "test")
        assert other == recipe
    other.packages = {"loss hinge": "gankit 9.9"}
    assert recipe.differences(other) == []


@pytest.mark.parametrize(
    "record",
    [
        *(
            "--index-url=http://evil 1",
            "evil\x1b[2J 1",
            "a b 1",
            "x",
            "",
            "-r 1",
            "x 1;rm",
            "http://x 1",
            3,
            None,
        ),
        *(
            "x -1",
            "x --pre",
            "x 1-",
            "x latest",
            "x 1.0+",
            "x file:///evil",
            f"{'x' * 200} 1",
            f"x {'1.' * 99}1",
        ),
    ],
)
def test_odd_records_are_not_repeated(record: object) -> None:
    """They are the text of a stranger."""
    page = {"generator": "odd-one", "packages": {"generator odd-one": record}}
    for parse in (model_recipe.parse, recipes.parse):
        with pytest.raises(GankitError, match="unknown generator 'odd-one'") as caught:
            parse(page, "test")
        assert "the recipe says" not in str(caught.value)


@pytest.mark.parametrize("version", ["1", "0.1.0", "1!2.0rc1.post2.dev3", "0+unknown", "2.0+cu126.g1a2b"])
def test_a_claim_is_told_as_one(version: str) -> None:
    """Anybody can write a recipe, so a message has no command that installs what a recipe names."""
    page = {"generator": "sagan", "packages": {"generator sagan": f"no-such-package {version}"}}
    for parse in (model_recipe.parse, recipes.parse):
        with pytest.raises(GankitError) as caught:
            parse(page, "test")
        assert str(caught.value) == (
            f"unknown generator 'sagan'; the recipe says that it is of package no-such-package {version}: install that "
            "if you trust its source"
        )
    del page["packages"]  # another page
    for parse in (model_recipe.parse, recipes.parse):
        with pytest.raises(GankitError, match="unknown generator 'sagan'") as caught:
            parse(page, "test")
        assert "no-such-package" not in str(caught.value)


def test_a_plugin_file_that_is_not_named() -> None:
    page = {"generator": "mine", "packages": {"generator mine": "my_file.py file"}}
    with pytest.raises(
        GankitError, match=r"it is of the plugin file my_file\.py: name it with --plugin, or in"
    ):
        recipes.parse(page, "test")


def test_a_source_that_is_missing_keeps_its_record() -> None:
    """A recipe is read without opening its data."""
    page = {"data": {"path": "somewhere:"}, "packages": {"source somewhere": "far-away 2.0"}}
    recipe = recipes.parse(page, "test")
    assert recipe.packages["source somewhere"] == "far-away 2.0"
    assert recipes.parse({**page, "data": {"path": "folder:"}}, "test").packages["source folder"] == MINE
    assert "source somewhere" not in recipes.parse({**page, "data": {"path": "x"}}, "test").packages


def test_nested_plugins_of_others_are_found() -> None:
    with registered():
        spec = {"name": "outer", "part": {"name": "inner", "gain": 1.0}, "spare": None}
        many = {"name": "many", "parts": {"inner": {}, "second": {"name": "factory"}}}
        found = packages.used([("augmentation", spec), ("loss", many)])
    names = ["augmentation outer", "loss factory", "loss inner", "loss many"]
    assert found == dict.fromkeys(names, "fake 1.0")
