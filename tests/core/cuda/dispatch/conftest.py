"""Each test of dispatch begins without choices, warnings and failures of the tests before."""

from __future__ import annotations

import pytest

from gankit.core.cuda import dispatch


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.setattr(dispatch, "_choices", {})
    monkeypatch.setattr(dispatch, "_warned", set())
    monkeypatch.setattr(dispatch, "_failed", {})
    monkeypatch.setattr(dispatch, "requested", "auto")
