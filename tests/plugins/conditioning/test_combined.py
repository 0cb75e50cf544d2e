"""Conditioners combined: their parts and flags, vocabulary, dropout, what makes no sense."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conditioning_utils import augmented_in_parts, make_bert, ready

from gankit.core.config import options
from gankit.core.interfaces.conditions import CondSpec
from gankit.core.interfaces.labels import Label, Vocabulary
from gankit.core.runtime.random import batch_random
from gankit.errors import GankitError
from gankit.plugins.conditioning.classes import ClassConditioner
from gankit.plugins.conditioning.combined import CombinedConditioner
from gankit.plugins.conditioning.none import NoCondition
from gankit.plugins.conditioning.text import TextConditioner


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    return make_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def combined(bert) -> CombinedConditioner:
    parts = {"class": {}, "tags": {}, "text": {"model": str(bert), "tokens": True}}
    return ready(options.build("conditioner", {"name": "combined", "parts": parts}))


LABELS = [
    Label(cls="dog", tags={"smile": 1.0}, texts=("a cat",)),
    Label(texts=("the man",)),
    Label(tags={"glasses": 0.5}),
    Label(cls="cat"),
    Label(),
]


def test_combined_is_its_parts_and_their_flags(combined, bert):
    cond = combined.encode(LABELS)
    assert combined.spec == CondSpec(c_dim=3 + 5 + 32 + 3, token_dim=32)
    assert combined.slices == {"class": slice(0, 3), "tags": slice(3, 8), "text": slice(8, 40)}
    assert cond.embedding[:, combined.flags].tolist() == [
        [1, 1, 1],
        [0, 0, 1],
        [0, 1, 0],
        [1, 0, 0],
        [0, 0, 0],
    ]
    alone = ready(TextConditioner(model=str(bert), tokens=True)).encode(LABELS)
    assert torch.equal(cond.embedding[:, combined.slices["text"]], alone.embedding)
    assert torch.equal(cond.tokens, alone.tokens)
    assert torch.equal(cond.mask, alone.mask)
    assert combined.accepts == {"cls", "tags", "text"}
    assert set(combined.identity()) == {"text.sha256"}
    with pytest.raises(GankitError, match="unknown tag 'smlie'"):
        combined.encode([Label(tags={"smlie": 1.0})])


def test_combined_vocabulary_survives_json(combined, bert):
    page = json.loads(json.dumps(combined.vocabulary().to_json()))
    again = options.build(
        "conditioner", {"name": "combined", "parts": {"class": {}, "tags": {}, "text": {"model": str(bert)}}}
    )
    again.set_vocabulary(Vocabulary.from_json(page))
    assert again.spec.c_dim == combined.spec.c_dim
    assert torch.equal(again.encode(LABELS).embedding, combined.encode(LABELS).embedding)


def test_combined_dropout_leaves_parts_whole_or_absent(bert):
    parts = {"class": {}, "tags": {}, "text": {"model": str(bert), "tokens": True}}
    spec = {"name": "combined", "parts": parts, "part_dropout": 0.3, "drop_all": 0.2}
    conditioner = ready(options.build("conditioner", spec))
    cond = conditioner.encode(LABELS[:1])[torch.zeros(2000, dtype=torch.long)]
    with batch_random("test", total=2000):
        result = conditioner.augment(cond)
    assert torch.equal(result.embedding, augmented_in_parts(conditioner, cond, [500, 1500]).embedding)
    flags = result.embedding[:, conditioner.flags]
    for i, columns in enumerate(conditioner.slices.values()):
        part, whole = result.embedding[:, columns], cond.embedding[:, columns]
        assert torch.equal(part, whole * flags[:, i : i + 1])
        assert flags[:, i].mean() == pytest.approx(0.7 * 0.8, abs=0.04)
    nothing = (flags == 0).all(1).float().mean()
    assert nothing == pytest.approx(0.2 + 0.8 * 0.3**3, abs=0.04)
    text_flag = flags[:, 2].bool()
    assert torch.equal(result.mask.any(1), text_flag)
    assert torch.count_nonzero(result.tokens[~text_flag]) == 0


def test_combined_flags_follow_the_dropout_of_the_parts():
    parts = {"class": {"dropout": 1.0}, "tags": {"noise": 0.1}}
    spec = {"name": "combined", "parts": parts, "part_dropout": 0.0, "drop_all": 0.0}
    conditioner = ready(options.build("conditioner", spec))
    result = conditioner.augment(conditioner.encode([LABELS[0], Label()]))
    assert result.embedding[:, conditioner.flags].tolist() == [[0, 1], [0, 0]]
    assert torch.count_nonzero(result.embedding[:, conditioner.slices["class"]]) == 0
    assert torch.count_nonzero(result.embedding[1]) == 0
    assert torch.count_nonzero(result.embedding[0, conditioner.slices["tags"]]) == 5


def test_combined_refuses_parts_that_make_no_sense(bert):
    with pytest.raises(GankitError, match=r"part 'none' .* has no embedding"):
        ready(CombinedConditioner(parts={"none": NoCondition()}))
    twice = {
        "text": TextConditioner(model=str(bert), tokens=True),
        "other": TextConditioner(model=str(bert), tokens=True),
    }
    with pytest.raises(GankitError, match="both emit tokens"):
        ready(CombinedConditioner(parts=twice))
    with pytest.raises(GankitError, match="'class' needs images with a class"):
        CombinedConditioner(parts={"class": ClassConditioner()}).set_vocabulary(Vocabulary(tags={"smile": 1}))


def test_combined_trains_only_the_trainable_part(bert):
    parts = {"class": {}, "text": {"model": str(bert), "trainable": True}}
    conditioner = ready(options.build("conditioner", {"name": "combined", "parts": parts}))
    cond = conditioner.augment(conditioner.encode([LABELS[0]] * 20))
    cond.embedding.sum().backward()
    assert all(name.startswith("parts.text.encoder.") for name in conditioner.state_dict())
    assert all(p.grad is not None for p in conditioner.parameters())
