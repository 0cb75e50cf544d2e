"""The text about a plugin and its options."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from option_plugins import registered

from gankit.cli.describe import describe
from gankit.errors import GankitError


@pytest.fixture(autouse=True)
def plugins() -> Iterator[None]:
    with registered():
        yield


def test_describe() -> None:
    page = describe("outer")
    assert "outer: augmentation of fake 1.0" in page
    assert "More about it." in page
    assert "  width  (int, default 8)\n      number of channels, 1 to 64." in page
    assert "  part  (loss plugin, default {'name': 'inner', 'gain': 2})" in page
    assert "parts  (loss plugins, required)" in describe("loss/many")
    with pytest.raises(GankitError, match="unknown plugin 'outr'; did you mean 'outer'"):
        describe("outr")
