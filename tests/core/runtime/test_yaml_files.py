"""Pages of YAML: what safe_load makes of them, and pages that cost more than they look."""

from __future__ import annotations

import time
import tracemalloc

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gankit.core.runtime import yaml_files

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@settings(deadline=None)
@given(VALUES)
def test_what_was_written_is_read(value: object) -> None:
    assert yaml_files.load(yaml.safe_dump(value)) == value


def test_aliases_and_merge_keys_work() -> None:
    page = "base: &base {a: 1, b: [2, x]}\nsame: *base\nmore: {<<: *base, a: 3}\nwhen: 2026-11-25\nat: 1e-3\n"
    assert yaml_files.load(page) == yaml.safe_load(page)
    assert yaml_files.load(page)["more"] == {"a": 3, "b": [2, "x"]}
    assert yaml_files.load("") is None


LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(60))
LONG_TEXT = f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * 10_000)}]\n"
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i + 1}: &a{i + 1} {{<<: [{', '.join([f'*a{i}'] * 10)}]}}\n" for i in range(12)
)


@pytest.mark.parametrize(
    ("page", "said"),
    [
        (LAUGHS, "with its aliases written out"),
        (LONG_TEXT, "with its aliases written out"),
        (MERGES, "with its aliases written out"),
        ("a: &a [*a]", "contains it"),
        ("a: &a {b: {<<: *a}}", "contains it"),
        ("[" * 60 + "]" * 60, "nested more than 50 deep"),
        ("[" * 100_000, "nest"),
        ("- " * 100_000, "nest"),
        ("? " * 100_000, "nest"),
        ("x" * 1_000_001, "1,000,001 characters"),
        ("a: " + "9" * 5_000, "a number of 5,000 characters"),
        ("a: " + "1" + ":59" * 300_000, "a number of 900,001 characters"),
        ("a: 2026-13-45", "month must be"),
        ("a: !!int ''", "index out of range"),
        ("a: !!bool maybe", "maybe"),
        ("a: !!timestamp now", "."),
        ("a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("a: [1", "expected"),
    ],
    ids=lambda text: None if len(text) > 30 else text,
)
def test_pages_that_are_refused(page: str, said: str) -> None:
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(ValueError, match=said) as caught:
        yaml_files.load(page)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert type(caught.value) is ValueError
    assert "\n" not in str(caught.value)
    assert peak < 100e6
    assert time.process_time() - start < 30
