"""Conditioners on classes and tags, and their combination with texts."""

import json
from pathlib import Path

import pytest
import torch
from conditioning_utils import VOCABULARY, augmented_in_parts, make_bert, ready
from hypothesis import given, settings
from hypothesis import strategies as st

from gankit.core.config import options
from gankit.core.interfaces.conditions import Condition, CondSpec
from gankit.core.interfaces.labels import Label, Vocabulary
from gankit.core.runtime.random import batch_random
from gankit.errors import GankitError
from gankit.plugins.conditioning.classes import ClassConditioner
from gankit.plugins.conditioning.clip_text import CLIPTextConditioner
from gankit.plugins.conditioning.combined import CombinedConditioner
from gankit.plugins.conditioning.none import NoCondition
from gankit.plugins.conditioning.tags import TagConditioner
from gankit.plugins.conditioning.text import TextConditioner


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    return make_bert(tmp_path_factory.mktemp("bert"))


def test_classes_are_one_hot_in_the_order_of_the_vocabulary():
    conditioner = ready(ClassConditioner())
    cond = conditioner.encode([Label(cls="bird"), Label(), Label(cls="cat")])
    assert conditioner.spec == CondSpec(c_dim=3)
    assert cond.embedding.tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert cond.tokens is None
    with pytest.raises(GankitError, match=r"unknown class 'brid'; did you mean 'bird'"):
        conditioner.encode([Label(cls="brid")])
    with pytest.raises(GankitError, match="data has none"):
        ClassConditioner().set_vocabulary(Vocabulary(tags={"smile": 1}))


def test_class_dropout_hides_whole_rows_and_does_not_depend_on_the_split():
    conditioner = ready(ClassConditioner(dropout=0.3))
    cond = conditioner.encode([Label(cls="dog")] * 1000)
    with batch_random("test", total=1000):
        kept = conditioner.augment(cond).embedding
    assert 0.65 < kept.sum() / 1000 < 0.75
    assert torch.equal(kept, augmented_in_parts(conditioner, cond, [300, 300, 400]).embedding)
    assert conditioner.augment(cond).embedding is not cond.embedding
    assert ready(ClassConditioner()).augment(cond) is cond


def test_tags_are_weighted_and_rare_ones_are_known_but_ignored():
    conditioner = ready(TagConditioner(min_count=2, max_tags=3))
    labels = [
        Label(tags={"glasses": 0.5, "smile": 1.0}),
        Label(),
        Label(tags={"scar": 1.0, "blue hair": 1.0}),
    ]
    cond = conditioner.encode(labels)
    assert cond.embedding.tolist() == [[1, 0.5, 0], [0, 0, 0], [0, 0, 0]]
    assert conditioner.ignored(labels[0]) == []
    assert conditioner.ignored(labels[2]) == ["scar", "blue hair"]
    with pytest.raises(GankitError, match=r"unknown tag 'glases'; did you mean 'glasses'"):
        conditioner.encode([Label(tags={"glases": 1.0})])
    with pytest.raises(GankitError, match="most frequent one has 9; lower min_count"):
        TagConditioner(min_count=10).set_vocabulary(VOCABULARY)
    with pytest.raises(GankitError, match="data has none"):
        TagConditioner().set_vocabulary(Vocabulary(classes={"cat": 1}))


@pytest.mark.parametrize("normalize", ["none", "sqrt", "l2"])
@given(
    rows=st.lists(
        st.dictionaries(st.sampled_from(list(VOCABULARY.tags)), st.floats(0.125, 1.0, width=32)),
        min_size=1,
        max_size=6,
    ),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=25)
def test_dropped_tags_look_like_tags_that_were_never_given(normalize, rows, seed):
    conditioner = ready(TagConditioner(dropout=0.5, drop_all=0.1, normalize=normalize))
    cond = conditioner.encode([Label(tags=tags) for tags in rows])
    with batch_random(seed, total=len(rows)):
        result = conditioner.augment(cond).embedding
    names = list(VOCABULARY.tags)
    kept = [
        {tag: weight for tag, weight in tags.items() if result[i, names.index(tag)] != 0}
        for i, tags in enumerate(rows)
    ]
    expected = conditioner.encode([Label(tags=tags) for tags in kept]).embedding
    torch.testing.assert_close(result, expected)


def test_tag_noise_spares_images_without_tags():
    conditioner = ready(TagConditioner(noise=0.25))
    cond = conditioner.encode([Label(tags={"smile": 1.0})] * 2000 + [Label()])
    noise = conditioner.augment(cond).embedding - cond.embedding
    assert torch.count_nonzero(noise[-1]) == 0
    assert noise[:-1].std() == pytest.approx(0.25, rel=0.05)


def test_no_condition():
    conditioner = ready(NoCondition())
    assert conditioner.encode([Label(cls="cat")]) == Condition() == conditioner.augment(Condition())
    assert conditioner.spec == CondSpec()
    assert not conditioner.accepts


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "class", "dropout": 1.5}, "dropout = 1.5"),
        ({"name": "tags", "noise": -1}, "noise = -1"),
        ({"name": "tags", "max_tags": 0}, "max_tags = 0"),
        ({"name": "combined", "parts": {}}, "at least one"),
        ({"name": "combined", "parts": {"class": {}}, "drop_all": -0.1}, "drop_all = -0.1"),
        ({"name": "tags", "min_cuont": 2}, "did you mean 'min_count'"),
    ],
)
def test_wrong_options_are_named(spec, message):
    with pytest.raises(GankitError, match=message):
        options.build("conditioner", spec)


def test_every_option_is_documented():
    for cls in (
        ClassConditioner,
        TagConditioner,
        TextConditioner,
        CLIPTextConditioner,
        CombinedConditioner,
        NoCondition,
    ):
        assert all(option.help for option in options.options_of(cls).values())


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
