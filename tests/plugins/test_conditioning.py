"""What all conditioners share: documented options, mistakes in options, names of columns."""

from __future__ import annotations

import pytest

from gankit.core.config import options
from gankit.core.interfaces.labels import Vocabulary
from gankit.errors import GankitError
from gankit.plugins.conditioning.classes import ClassConditioner
from gankit.plugins.conditioning.clip_text import CLIPTextConditioner
from gankit.plugins.conditioning.combined import CombinedConditioner
from gankit.plugins.conditioning.none import NoCondition
from gankit.plugins.conditioning.tags import TagConditioner
from gankit.plugins.conditioning.text import TextConditioner


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "class", "dropout": 1.5}, "dropout = 1.5"),
        ({"name": "tags", "noise": -1}, "noise = -1"),
        ({"name": "tags", "max_tags": 0}, "max_tags = 0"),
        ({"name": "combined", "parts": {}}, "at least one"),
        ({"name": "combined", "parts": {"class": {}}, "drop_all": -0.1}, "drop_all = -0.1"),
        ({"name": "tags", "min_cuont": 2}, "did you mean 'min_count'"),
    ],
)
def test_wrong_options_are_named(spec, message):
    with pytest.raises(GankitError, match=message):
        options.build("conditioner", spec)


def test_every_option_is_documented():
    for cls in (
        ClassConditioner,
        TagConditioner,
        TextConditioner,
        CLIPTextConditioner,
        CombinedConditioner,
        NoCondition,
    ):
        assert all(option.help for option in options.options_of(cls).values())


def test_names_of_columns() -> None:
    vocabulary = Vocabulary(classes={"a": 2, "b": 1}, tags={"t": 9, "rare": 1})
    tags = TagConditioner(min_count=2)
    combined = CombinedConditioner(parts={"class": ClassConditioner(), "tags": tags})
    combined.set_vocabulary(vocabulary)
    expected = [("cls", "a"), ("cls", "b"), ("tags", "t"), ("given", "class"), ("given", "tags")]
    assert combined.columns() == expected
