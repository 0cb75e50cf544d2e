"""The conditioner on classes: one-hot in the order of the vocabulary, dropout of whole rows."""

from __future__ import annotations

import pytest
import torch
from conditioning_utils import augmented_in_parts, ready

from gankit.core.interfaces.conditions import CondSpec
from gankit.core.interfaces.labels import Label, Vocabulary
from gankit.core.runtime.random import batch_random
from gankit.errors import GankitError
from gankit.plugins.conditioning.classes import ClassConditioner


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
