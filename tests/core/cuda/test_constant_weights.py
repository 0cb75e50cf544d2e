"""Prepared weights: kept from call to call, prepared anew when a weight changes, within the memory that is given."""

from __future__ import annotations

import pytest
import torch

from gankit.core.cuda import ConstantWeights
from gankit.core.cuda.constant_weights import ready_for


@pytest.fixture
def prepared():
    """A function that prepares a weight twice as large, and how often it did."""
    made = []

    def prepare(weight, key="packed", here=None):
        def make():
            made.append(key)
            return [torch.cat([weight, weight])]

        return ready_for(weight).get({} if here is None else here, (key,), make)

    return prepare, made


def test_weights_are_prepared_once(prepared):
    prepare, made = prepared
    weight, weights = torch.randn(4, 3, 3, 3), ConstantWeights()
    for _ in range(3):
        with weights.kept():
            assert prepare(weight)[0].shape == (8, 3, 3, 3)
    assert made == ["packed"]
    prepare(weight)  # outside nothing is kept
    assert made == ["packed"] * 2


def test_a_changed_weight_is_prepared_anew(prepared):
    prepare, made = prepared
    weight, weights = torch.randn(4, 3, 3, 3), ConstantWeights()
    with weights.kept():
        prepare(weight)
        weight.mul_(2)
        assert torch.equal(prepare(weight)[0][:4], weight)
    assert len(made) == 2


def test_the_key_tells_packed_weights_from_others(prepared):
    prepare, made = prepared
    weight, weights = torch.randn(4, 3, 3, 3), ConstantWeights()
    with weights.kept():
        prepare(weight, "packed"), prepare(weight, "plain"), prepare(weight, "plain")
    assert made == ["packed", "plain"]


def test_what_finds_no_room_is_kept_for_a_call(prepared):
    prepare, made = prepared
    weight, weights, here = torch.randn(4, 3, 3, 3), ConstantWeights(most=0), {}
    with weights.kept():
        prepare(weight, here=here), prepare(weight, here=here)
        assert len(made) == 1
        prepare(weight)
    assert len(made) == 2


def test_what_the_last_call_did_not_use_makes_room(prepared):
    prepare, _ = prepared
    weight = torch.randn(4, 3, 3, 3)
    weights = ConstantWeights(most=2 * weight.nbytes)
    for key in ("one", "one", "other", "other"):
        with weights.kept():
            prepare(weight, key)
    (ready,) = weights.known.values()
    assert [key for (key,) in ready.kernels] == ["other"]
    assert sum(kernel.size for kernel in ready.kernels.values()) == 2 * weight.nbytes
