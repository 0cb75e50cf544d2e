"""Options are read off a plugin's constructor: help, types, coercion, nested plugins, messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from option_plugins import Inner, Many, Outer, factory, registered

from gankit.core.config import options
from gankit.core.config.options import build, check, options_of
from gankit.errors import GankitError


@pytest.fixture(autouse=True)
def plugins() -> Iterator[None]:
    with registered():
        yield


def test_help_defaults_and_types() -> None:
    found = options_of(Outer)
    assert list(found) == [
        "width",
        "mode",
        "taps",
        "rate",
        "table",
        "on",
        "part",
        "spare",
    ]  # image_shape is gankit's
    assert found["width"].help == "number of channels, 1 to 64."
    assert found["mode"].help == "how to do it, on two lines: with a colon."
    assert found["taps"].help == "with a type in parentheses."
    assert found["rate"].help == ""
    assert (found["width"].default, found["width"].type_name) == (8, "int")
    assert found["mode"].type_name == "Literal['fast', 'slow']"
    assert found["part"].type_name == "loss plugin"
    assert options_of(Many)["parts"].required
    assert options_of(Many)["parts"].type_name == "loss plugins"
    assert not found["rate"].required
    assert options_of(factory)["size"].help == "of the result."


def test_a_class_without_options() -> None:
    class Bare:
        """Nothing to set."""

    assert options_of(Bare) == {}


def test_types_that_exist_for_type_checkers_only() -> None:
    class Half:
        """Half known."""

        def __init__(self, *, part: NoSuchType = 1) -> None:  # type: ignore[name-defined]  # noqa: F821
            self.part = part

    with pytest.raises(
        GankitError, match=r"Half cannot be read: name 'NoSuchType' is not defined; .*TYPE_CHECKING"
    ):
        options_of(Half)


def test_defaults_are_filled_in_and_nested_ones_too() -> None:
    assert check("augmentation", "outer") == {
        "name": "outer",
        "width": 8,
        "mode": "fast",
        "taps": (1, 2),
        "rate": None,
        "table": None,
        "on": False,
        "part": {"name": "inner", "gain": 2.0},
        "spare": None,
    }


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        ("width", "16", 16),
        ("width", 16.0, 16),
        ("taps", [3], (3,)),
        ("rate", "0.5", 0.5),
        ("rate", 1, 1.0),
        ("rate", None, None),
        ("table", {"a": 1}, {"a": 1.0}),
        ("on", "true", True),
        ("part", "inner", {"name": "inner", "gain": 1.0}),
        ("part", {"name": "inner", "gain": "3"}, {"name": "inner", "gain": 3.0}),
        ("part", {"gain": 3}, {"name": "inner", "gain": 3.0}),
        ("part", {}, {"name": "inner", "gain": 2.0}),
    ],
)
def test_coercion(key: str, given: Any, expected: Any) -> None:
    value = check("augmentation", {"name": "outer", key: given})[key]
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"name": "outer", "widht": 3},
            r"unknown option of augmentation 'outer': 'widht'; did you mean 'width'",
        ),
        (
            {"name": "outer", "width": "many"},
            r"augmentation\.width = 'many' of augmentation 'outer': .*integer",
        ),
        ({"name": "outer", "width": 1.5}, r"augmentation\.width = 1\.5"),
        ({"name": "outer", "width": None}, r"augmentation\.width = None"),
        ({"name": "outer", "mode": "quick"}, r"augmentation\.mode = 'quick'.*'fast' or 'slow'"),
        ({"name": "outer", "taps": 3}, r"augmentation\.taps = 3"),
        ({"name": "outer", "part": "iner"}, r"unknown loss 'iner'; did you mean 'inner'"),
        (
            {"name": "outer", "part": {"name": "inner", "gian": 1}},
            r"did you mean 'gain'\? \(in augmentation\.part\)",
        ),
        ({"name": "outer", "spare": {"gain": 1}}, r"augmentation\.spare must be the name of a loss"),
        ({"name": "outer", "part": None}, r"augmentation\.part must be the name of a loss or .*, not None"),
        ({"name": "outer", "part": 3}, r"augmentation\.part must be the name of a loss"),
        ("outr", r"unknown augmentation 'outr'; did you mean 'outer'"),
        (None, r"augmentation must be the name of an augmentation or a mapping with 'name', not None"),
        ({"width": 3}, r"augmentation must be the name of an augmentation or a mapping with 'name'"),
    ],
)
def test_mistakes_are_named(spec: Any, message: str) -> None:
    with pytest.raises(GankitError, match=message) as error:
        check("augmentation", spec)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (None, r"loss\.parts must map names of loss plugins"),
        (["inner"], r"loss\.parts must map names of loss plugins to their options, not \['inner'\]"),
        ({"inner": 3}, r"loss\.parts\.inner must be a mapping of options"),
        ({"inner": {"gian": 3}}, r"'gian'; did you mean 'gain'\? \(in loss\.parts\.inner\)"),
        ({"iner": {}}, r"unknown loss 'iner'"),
    ],
)
def test_mistakes_in_nested_maps(parts: Any, message: str) -> None:
    with pytest.raises(GankitError, match=message):
        check("loss", {"name": "many", "parts": parts})


def test_required_option() -> None:
    with pytest.raises(GankitError, match=r"needs the option 'parts' \(by name\.\); set loss\.parts"):
        check("loss", "many")


def test_build_makes_nested_objects_and_passes_positionals() -> None:
    outer = build("augmentation", {"name": "outer", "width": "4"}, (3, 8, 8))
    assert (outer.image_shape, outer.width, outer.rate) == ((3, 8, 8), 4, None)
    assert isinstance(outer.part, Inner)
    assert outer.part.gain == 2
    assert outer.spare is None
    assert build("augmentation", {"name": "outer", "spare": "inner"}, (3, 8, 8)).spare.gain == 1
    many = build("loss", {"name": "many", "parts": {"inner": {"gain": 5}}})
    assert many.parts["inner"].gain == 5
    many = build("loss", {"name": "many", "parts": {"inner": None}})
    assert many.parts["inner"].gain == 1
    assert build("loss", {"name": "factory", "size": 5}).size == 5


def test_checking_twice_changes_nothing() -> None:
    once = check("augmentation", {"name": "outer", "taps": [4, 5], "part": "inner"})
    assert check("augmentation", once) == once


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(st.text(min_size=1), st.integers(), min_size=1, max_size=3))
def test_no_unknown_key_gets_through(extra: dict[str, int]) -> None:
    if extra.keys() <= {*options_of(Inner), "name"}:
        return
    with pytest.raises(GankitError, match="unknown option"):
        options.check("loss", {**extra, "name": "inner"})
