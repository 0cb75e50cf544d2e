"""How images enter frozen networks: as RGB, at a side that fits."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gankit.core.nn.rgb import entry_size, to_rgb
from gankit.core.runtime.random import batch_random


def test_to_rgb():
    rgb = torch.rand(4, 3, 5, 5) * 2 - 1
    assert to_rgb(rgb) is rgb
    assert torch.equal(to_rgb(rgb[:, :1]), rgb[:, :1].expand(-1, 3, -1, -1))
    opaque = torch.cat([rgb, torch.ones(4, 1, 5, 5)], dim=1)
    assert torch.allclose(to_rgb(opaque), rgb, atol=1e-6)
    clear = torch.cat([rgb, -torch.ones(4, 1, 5, 5)], dim=1)
    with batch_random(0, total=4):
        backgrounds = to_rgb(clear)
    assert (backgrounds.amax((2, 3)) - backgrounds.amin((2, 3))).max() == 0
    assert len({tuple(c) for c in backgrounds[:, :, 0, 0].tolist()}) == 4
    with batch_random(0, total=4, start=1, count=2):
        assert torch.equal(to_rgb(clear[1:3]), backgrounds[1:3])


@settings(deadline=None, max_examples=100)
@given(
    height=st.integers(8, 512),
    width=st.integers(8, 512),
    side=st.integers(16, 256),
    multiple=st.sampled_from([14, 16, 32]),
)
def test_entry_size(height, width, side, multiple):
    entry = entry_size(height, width, side, multiple)
    scale = side / min(height, width)
    for length, result in zip((height, width), entry):
        assert result % multiple == 0
        assert result >= multiple
        assert abs(result - length * scale) <= max(multiple / 2, multiple - length * scale) + 1e-6
