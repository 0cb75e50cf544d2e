"""Values of label fields, what a vocabulary counts, and how fields are spoken of."""

from __future__ import annotations

import copy
import inspect
import json
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gankit.core.interfaces.labels import (
    EMPTY,
    RESERVED,
    Label,
    Vocabulary,
    listed,
    ordered,
    plain,
    usable,
    words,
)
from gankit.sampling.pipeline import Pipeline

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=25)
@given(JSON)
def test_what_json_holds_stays_as_it_is(value):
    assert plain(value) == value
    assert json.loads(json.dumps(plain(value))) == value


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ((1, (2.5,)), [1, [2.5]]),
        (np.arange(3), [0, 1, 2]),
        (np.float64(0.5), 0.5),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        ({"pose": torch.tensor([[1.0]])}, {"pose": [[1.0]]}),
        ([np.int64(3)], [3]),
    ],
)
def test_tuples_arrays_and_tensors_are_stored_as_lists(value, stored):
    assert plain(value) == stored
    assert type(plain(value)) is type(stored)
    assert json.loads(json.dumps(plain(value))) == stored


def nested(depth: int) -> list:
    return [] if depth == 0 else [nested(depth - 1)]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (math.nan, "finite, not nan"),
        ([1, {"a": -math.inf}], "finite, not -inf"),
        (np.array([1.0, np.nan]), "finite"),
        ({1: 2}, "keys are text"),
        (b"bytes", "text, a number, or a list or mapping of these, not bytes"),
        ({1, 2}, "not set"),
        (nested(17), "nested at most 16 deep"),
    ],
)
def test_other_values_are_refused(value, message):
    with pytest.raises(ValueError, match=message):
        plain(value)
    assert plain(nested(16)) == nested(16)


def test_a_vocabulary_counts_fields():
    labels = [
        Label("a", fields={"box": [0, 0, 1, 1]}),
        Label(fields={"box": None, "z": 1}),
        Label(texts=("x",)),
    ]
    found = Vocabulary.collect(labels)
    assert found.fields == {"box": 2, "z": 1}
    assert found.present == ["text", "cls", "box", "z"]
    assert Vocabulary.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_vocabularies_of_before_have_no_fields():
    page = {"classes": {"a": 1}, "tags": {}, "captioned": 0, "total": 1}
    assert Vocabulary.from_json(page) == Vocabulary({"a": 1}, total=1)
    assert Vocabulary.from_json(page).present == ["cls"]


def test_a_label_has_fields():
    label = Label("a", {}, (), {"box": [0, 0, 1, 1]})
    assert [label.has(field) for field in ("cls", "tags", "text", "box", "angle")] == [
        True,
        False,
        False,
        True,
        False,
    ]


def test_labels_share_one_empty_mapping_that_stays_empty():
    label = Label("a")
    for same in (label, pickle.loads(pickle.dumps(label)), copy.deepcopy(label)):
        assert same == label == Label("a", {}, (), {})
        assert same.tags is same.fields is EMPTY
    assert json.dumps(label.tags) == "{}"
    for change in (
        lambda tags: tags.__setitem__("x", 1),
        lambda tags: tags.update(x=1),
        lambda tags: tags.setdefault("x", 1),
        lambda tags: tags.__ior__({"x": 1}),
    ):
        with pytest.raises(TypeError, match="labels are frozen"):
            change(label.tags)
    assert label.tags | {"x": 1.0} == {"x": 1.0}
    assert not EMPTY


def test_names_of_fields_that_a_request_cannot_give():
    assert list(inspect.signature(Pipeline.__call__).parameters) == list(RESERVED)
    assert usable("box")
    assert usable("größe")
    assert not any(map(usable, (*RESERVED, "two words", "class", "", "3d")))


def test_fields_are_spoken_of():
    assert ordered({"box", "cls", "text", "angle"}) == ["text", "cls", "angle", "box"]
    assert [words(field).many for field in ("text", "box")] == ["captions", "'box'"]
    assert [words(field).wish for field in ("text", "cls", "box")] == ["a prompt", "a class", "'box'"]
    assert listed([]) == ""
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"], "or") == "a, b or c"
    assert listed([str(i) for i in range(15)]).endswith("10, 11 and 3 more")
