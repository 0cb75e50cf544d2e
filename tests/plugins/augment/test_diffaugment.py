"""DiffAugment: each step by its definition, independence of the batch, unknown steps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gankit.core.runtime.random import batch_random
from gankit.errors import GankitError
from gankit.plugins.augment import diffaugment as diffaugment_module
from gankit.plugins.augment.diffaugment import DiffAugment


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_diffaugment_color_is_the_three_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    u = images(3, 3, 1, 1, seed=5) / 2 + 0.5
    monkeypatch.setattr(diffaugment_module, "rand", lambda *shape, device=None: u)
    for channels in (1, 3, 4):
        x = images(3, channels, 5, 7)
        actual = DiffAugment((channels, 5, 7), policy="color")(x)
        y = x[:, :3] + (u[:, :1] - 0.5)
        pixel = y.mean(1, keepdim=True)
        y = pixel + (y - pixel) * (2 * u[:, 1:2])
        whole = y.mean((1, 2, 3), keepdim=True)
        y = whole + (y - whole) * (u[:, 2:] + 0.5)
        torch.testing.assert_close(actual, torch.cat([y, x[:, 3:]], dim=1))


def test_diffaugment_translation() -> None:
    """Each image is shifted by whole pixels within reach, every shift occurs, zeros come in."""
    height, width = 12, 5  # reach 2 and 1
    x = images(400, 3, height, width)
    y = DiffAugment((3, height, width), policy="translation")(x)
    padded = torch.nn.functional.pad(x, (1, 1, 2, 2))
    shifts = [(dy, dx) for dy in range(5) for dx in range(3)]
    matches = torch.stack(
        [(y == padded[:, :, dy : dy + height, dx : dx + width]).flatten(1).all(1) for dy, dx in shifts]
    )
    assert (matches.sum(0) == 1).all()
    assert matches.any(1).all()


@pytest.mark.parametrize(("height", "width"), [(10, 10), (15, 8), (32, 4)])
def test_diffaugment_cutout(height: int, width: int) -> None:
    """One hole, at most a fifth of each side, cut off by the border; every pixel is hit at times."""
    ones = torch.ones(600, 4, height, width)
    y = DiffAugment((4, height, width), policy="cutout")(ones)
    hole = y[:, 0] == 0
    assert torch.equal(hole[:, None].expand_as(y), y == 0)
    rows, columns = hole.any(2), hole.any(1)
    assert torch.equal(hole, rows[:, :, None] & columns[:, None])
    for lines, size in ((rows, height), (columns, width)):
        side = int(0.2 * size + 0.5)
        assert lines.sum(1).max() == side
        assert lines.sum(1).min() == (side + 1) // 2  # the centre is inside
        coverage = lines.float().mean(0)
        torch.testing.assert_close(coverage, coverage.flip(0), rtol=0, atol=0.08)
    assert hole.any(0).all()


@settings(max_examples=20, deadline=None)
@given(
    policy=st.sets(st.sampled_from(["color", "translation", "cutout"]), min_size=1),
    channels=st.sampled_from([1, 3, 4]),
    height=st.integers(4, 20),
    width=st.integers(4, 20),
    seed=st.integers(0, 99),
)
def test_diffaugment_micro_batches(
    policy: set[str], channels: int, height: int, width: int, seed: int
) -> None:
    augment = DiffAugment((channels, height, width), policy=", ".join(policy))
    x = images(4, channels, height, width, seed=seed).to(memory_format=torch.channels_last)
    with batch_random(seed, total=4):
        whole = augment(x)
    assert whole.shape == x.shape
    with batch_random(seed, total=4, start=1, count=2):
        part = augment(x[1:3])
    torch.testing.assert_close(part, whole[1:3])


@pytest.mark.parametrize("policy", ["colour", "color,", ""])
def test_diffaugment_rejects_unknown_steps(policy: str) -> None:
    with pytest.raises(GankitError, match="diffaugment's policy"):
        DiffAugment((3, 8, 8), policy=policy)
