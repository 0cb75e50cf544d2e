"""Draws are keyed by the sample's place in the batch, not by how the batch is split."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from gankit.core.runtime import random as R


def _draws(total: int, start: int, count: int) -> list[torch.Tensor]:
    with R.batch_random(7, "phase", total=total, start=start, count=count):
        return [R.randn(count, 3, 2), R.rand(count), R.randint(0, 9, (count, 2)), R.randn(count, 5)]


@given(st.integers(1, 12), st.data())
def test_split_gives_the_same_rows(total, data):
    start = data.draw(st.integers(0, total - 1))
    count = data.draw(st.integers(1, total - start))
    whole, part = _draws(total, 0, total), _draws(total, start, count)
    for a, b in zip(whole, part):
        assert torch.equal(a[start : start + count], b)


def test_shared_draw_is_the_same_for_every_split_and_differs_between_keys():
    def coin(key, start):
        with R.batch_random(key, total=8, start=start, count=4):
            return R.shared_rand(1).item()

    assert coin(1, 0) == coin(1, 4)
    assert coin(1, 0) != coin(2, 0)


def test_successive_draws_differ():
    with R.batch_random(1, total=4):
        assert not torch.equal(R.randn(4, 3), R.randn(4, 3))


def test_outside_of_a_batch_torch_seeds_apply():
    torch.manual_seed(3)
    a = R.randn(2, 2)
    torch.manual_seed(3)
    assert torch.equal(a, torch.randn(2, 2))
