"""Where pretrained weights come from, in which order, and what is said when there are none."""

from __future__ import annotations

import pytest
import torch
from hub_cache import HUB_ID, TENSORS, fill_cache
from safetensors.torch import save_file

from gankit.core.config.registry import Registry
from gankit.core.interfaces.data import WeightSource
from gankit.core.models import pretrained
from gankit.errors import GankitError


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """An empty Hugging Face cache and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.delenv(pretrained.ENV_FOLDER, raising=False)
    return tmp_path / "hub"


def test_hub_cache(hub):
    fill_cache(hub, HUB_ID, {"model.safetensors": TENSORS, "config.json": "{}"})
    assert pretrained.find_state_dict(HUB_ID).keys() == TENSORS.keys()
    assert (pretrained.find_folder(HUB_ID) / "config.json").is_file()


def test_open_clips_file_name(hub):
    fill_cache(hub, HUB_ID, {"open_clip_model.safetensors": TENSORS})
    assert pretrained.find_state_dict(HUB_ID).keys() == TENSORS.keys()


def test_users_folder_comes_first(hub, monkeypatch, tmp_path):
    fill_cache(hub, HUB_ID, {"model.safetensors": TENSORS})
    mine = tmp_path / "mine" / HUB_ID
    mine.mkdir(parents=True)
    save_file({"mine": torch.zeros(1)}, mine / "model.safetensors")
    monkeypatch.setenv(pretrained.ENV_FOLDER, str(tmp_path / "mine"))
    assert list(pretrained.find_state_dict(HUB_ID)) == ["mine"]
    assert pretrained.find_folder(HUB_ID) == mine


class Shipped(WeightSource):
    """What another package would register."""

    def ids(self):
        return [HUB_ID]

    def state_dict(self, hub_id):
        return {"shipped": torch.zeros(1)} if hub_id == HUB_ID else None


def test_packages_come_before_the_hub(hub, monkeypatch):
    fill_cache(hub, HUB_ID, {"model.safetensors": TENSORS})
    fill_cache(hub, "timm/other", {"model.safetensors": TENSORS})
    registry = Registry()
    for name, package, target in (
        ("huggingface", "gankit", "gankit.plugins.features.hub:HuggingFaceWeights"),
        ("theirs", "theirs", f"{__name__}:Shipped"),
    ):
        registry.register("weights", name, target, package=package, version="1")
    monkeypatch.setattr(pretrained, "registry", lambda: registry)
    assert list(pretrained.find_state_dict(HUB_ID)) == ["shipped"]
    assert pretrained.find_state_dict("timm/other").keys() == TENSORS.keys()


@pytest.mark.filterwarnings("ignore:.*not downloaded")
@pytest.mark.parametrize("find", [pretrained.find_state_dict, pretrained.find_folder])
def test_message_names_file_place_and_package(hub, monkeypatch, find):
    only_hub = Registry()
    target = "gankit.plugins.features.hub:HuggingFaceWeights"
    only_hub.register("weights", "huggingface", target, package="gankit", version="1")
    monkeypatch.setattr(pretrained, "registry", lambda: only_hub)
    with pytest.raises(GankitError) as error:
        find(HUB_ID)
    for part in (HUB_ID, "model.safetensors", pretrained.ENV_FOLDER, "~/.cache/huggingface"):
        assert part in str(error.value)
    assert "pip install" not in str(error.value)
    for shipped in ("timm/tf_efficientnet_lite0.in1k", "sentence-transformers/all-MiniLM-L6-v2"):
        with pytest.raises(GankitError, match="pip install gankit-avatars"):
            find(shipped)


def test_damaged_file_is_named(tmp_path, monkeypatch):
    folder = tmp_path / HUB_ID
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"not tensors")
    monkeypatch.setenv(pretrained.ENV_FOLDER, str(tmp_path))
    with pytest.raises(GankitError, match=r"model\.safetensors is not a readable"):
        pretrained.find_state_dict(HUB_ID)


def test_unfit_weights_are_explained(monkeypatch, tmp_path):
    from gankit.plugins.features.timm_cnn import TimmCNN

    folder = tmp_path / "timm" / "resnet18.a1_in1k"
    folder.mkdir(parents=True)
    save_file({"nonsense": torch.zeros(1)}, folder / "model.safetensors")
    monkeypatch.setenv(pretrained.ENV_FOLDER, str(tmp_path))
    with pytest.raises(GankitError, match="do not fit"):
        TimmCNN(model="resnet18.a1_in1k")


def test_a_broken_weight_source_does_not_silence_the_others(monkeypatch, hub):
    from gankit.core.config.registry import Plugin, registry

    broken = Plugin("weights", "broken", "no_such_module:Weights", "broken-package", "1")
    monkeypatch.setitem(registry().plugins, ("weights", "broken"), broken)
    with (
        pytest.warns(UserWarning, match="broken-package"),
        pytest.raises(GankitError, match="no weights for"),
    ):
        pretrained.find_state_dict("nobody/nothing")
