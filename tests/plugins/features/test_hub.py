"""Hugging Face's cache as a source of weights: pickles are never taken."""

from __future__ import annotations

import pytest
from hub_cache import HUB_ID, fill_cache

from gankit.core.models import pretrained
from gankit.plugins.features.hub import HuggingFaceWeights


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """An empty Hugging Face cache and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.delenv(pretrained.ENV_FOLDER, raising=False)
    return tmp_path / "hub"


def test_pickles_are_never_taken(hub):
    fill_cache(hub, HUB_ID, {"pytorch_model.bin": "a pickle"})
    source = HuggingFaceWeights()
    with pytest.warns(UserWarning, match="not downloaded"):
        assert source.state_dict(HUB_ID) is None
    with pytest.warns(UserWarning, match="not downloaded"):
        assert source.folder(HUB_ID) is None
