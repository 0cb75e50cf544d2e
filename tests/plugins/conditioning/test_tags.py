"""The conditioner on tags: weights, rare tags, dropout, noise."""

from __future__ import annotations

import pytest
import torch
from conditioning_utils import VOCABULARY, ready
from hypothesis import given, settings
from hypothesis import strategies as st

from gankit.core.interfaces.labels import Label, Vocabulary
from gankit.core.runtime.random import batch_random
from gankit.errors import GankitError
from gankit.plugins.conditioning.tags import TagConditioner


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
