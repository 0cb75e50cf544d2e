"""The conditioner on open_clip's text tower, at toy size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conditioning_utils import (
    make_open_clip,
    ready,
    text,
)

from gankit.core.interfaces.conditions import CondSpec
from gankit.core.models.stored_state import stored_state
from gankit.errors import GankitError
from gankit.plugins.conditioning.clip_text import CLIPTextConditioner


@pytest.fixture(scope="module")
def open_clip_model(tmp_path_factory) -> tuple[str, Path]:
    return make_open_clip(tmp_path_factory.mktemp("open_clip"))


PROMPTS = ["a cat", "the woman with long red hair and a blue hat", "A man", "", "a cat with glasses"]


def test_clip_text_is_the_pooled_feature_of_the_text_tower(open_clip_model, tmp_path):
    import open_clip

    name, weights = open_clip_model
    conditioner = ready(CLIPTextConditioner(model=name, pretrained=str(weights)))
    assert conditioner.spec == CondSpec(c_dim=12)
    conditioner.prepare(tmp_path, torch.device("cpu"))
    cond = conditioner.encode(text(*PROMPTS))
    clip = open_clip.create_model(name, pretrained=str(weights)).eval()
    with torch.no_grad():
        expected = clip.encode_text(open_clip.get_tokenizer(name)([p for p in PROMPTS if p]), normalize=True)
    torch.testing.assert_close(cond.embedding[[0, 1, 2, 4]], expected, rtol=1e-4, atol=1e-5)
    assert torch.count_nonzero(cond.embedding[3]) == 0
    assert stored_state(conditioner) == {}
    raw = ready(CLIPTextConditioner(model=name, pretrained=str(weights), normalize=False)).encode(
        text("a cat")
    )
    torch.testing.assert_close(torch.nn.functional.normalize(raw.embedding), cond.embedding[:1])


def test_clip_text_with_random_weights_is_always_the_same():
    options = {"model": "ViT-S-32-alt", "pretrained": "random"}
    conditioner = ready(CLIPTextConditioner(**options))
    cond = conditioner.encode(text("a cat", "", "a red hat"))
    assert conditioner.spec == CondSpec(c_dim=256)
    assert torch.count_nonzero(cond.embedding[1]) == 0
    torch.manual_seed(5)
    again = ready(CLIPTextConditioner(**options))
    assert torch.equal(again.encode(text("a red hat")).embedding[0], cond.embedding[2])
    assert again.identity() == conditioner.identity()
    assert again.cache_key() == conditioner.cache_key()


def test_trainable_clip_text_keeps_the_text_tower_only(open_clip_model):
    name, weights = open_clip_model
    conditioner = ready(CLIPTextConditioner(model=name, pretrained=str(weights), trainable=True))
    conditioner.encode(text("a cat")).embedding[:, 0].sum().backward()
    assert not any("visual" in key or "logit" in key for key in conditioner.state_dict())
    assert all(p.grad is not None for p in conditioner.parameters())
    frozen = CLIPTextConditioner(model=name, pretrained=str(weights))
    assert len(frozen.identity()["sha256"]) == 64


def test_clip_errors_name_the_way_out(open_clip_model, tmp_path):
    name, _ = open_clip_model
    with pytest.raises(GankitError, match=r"unknown open_clip model 'ViT-B-61'; did you mean"):
        CLIPTextConditioner(model="ViT-B-61")
    with pytest.raises(GankitError, match=r"'opanai'; did you mean 'openai'"):
        CLIPTextConditioner(model="ViT-B-32", pretrained="opanai")
    with pytest.raises(GankitError, match="no such file"):
        CLIPTextConditioner(model=name, pretrained=str(tmp_path / "none.safetensors"))
    with pytest.raises(GankitError, match="tokenizer"):
        CLIPTextConditioner(model="ViT-B-16-SigLIP")
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(GankitError, match="does not fit open_clip model"):
        ready(CLIPTextConditioner(model=name, pretrained=str(tmp_path / "x.safetensors"))).encode(
            text("a cat")
        )


def test_openai_weights_come_from_a_weight_folder_with_their_own_gelu(tmp_path, monkeypatch):
    import open_clip
    from safetensors.torch import save_file

    from gankit.plugins.conditioning import clip_text

    folder = tmp_path / "timm" / "vit_base_patch32_clip_224.openai"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text("weights of the image tower under other names")
    save_file({"x": torch.zeros(1)}, folder / "open_clip_model.safetensors")
    monkeypatch.setenv("GANKIT_WEIGHTS", str(tmp_path))
    built = {}

    def create_model(name, **kwargs):
        built.update(kwargs, name=name)
        return torch.nn.Linear(1, 1)

    monkeypatch.setattr(open_clip, "create_model", create_model)
    monkeypatch.setattr(open_clip, "load_checkpoint", lambda model, path: built.update(path=path))
    clip_text.load_clip("ViT-B-32", "openai")
    assert built["path"] == str(folder / "open_clip_model.safetensors")
    assert built["force_quick_gelu"] is True
