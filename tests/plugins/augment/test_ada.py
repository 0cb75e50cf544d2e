"""ADA and DiffAugment: reference vectors, differentiability, independence of the batch."""

from __future__ import annotations

import math

import pytest
import torch
from golden_utils import Case, load_golden
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gankit.core.config.options import check
from gankit.core.runtime.random import batch_random
from gankit.errors import GankitError
from gankit.plugins.augment import ada as ada_module
from gankit.plugins.augment import ada_filters
from gankit.plugins.augment import diffaugment as diffaugment_module
from gankit.plugins.augment.ada import ADA, PIPELINES, RANGES
from gankit.plugins.augment.diffaugment import DiffAugment

GOLDEN = load_golden("ada_augment")
RANGE_NAMES = {"scale_std": "scale", "rotate_max": "rotate", "xfrac_std": "xfrac", "hue_max": "hue"}
ALL_AUGMENTS = [
    pytest.param(lambda shape: ADA(shape, pipeline="bgcfnc", p=0.8), id="ada"),
    pytest.param(DiffAugment, id="diffaugment"),
]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def smooth_images(batch: int, size: int) -> Tensor:
    """Images without high frequencies, so that the low-pass (not quite symmetric) leaves them nearly as they are."""
    return torch.nn.functional.interpolate(images(batch, 3, 3, 3), size=size, mode="bicubic")


# --------------------------------------------------------------------------------------------------------- ADA


def test_filters_match_the_original() -> None:
    torch.testing.assert_close(ada_filters.low_pass(), GOLDEN.tensors["buffers/Hz_geom"], rtol=0, atol=1e-7)
    torch.testing.assert_close(
        ada_filters.filter_bank(), GOLDEN.tensors["buffers/Hz_fbank"], rtol=0, atol=1e-7
    )
    impulse = torch.eye(43)[21]
    torch.testing.assert_close(ada_filters.filter_bank().sum(0), impulse, rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", GOLDEN.cases, ids=lambda case: case.name)
def test_ada_matches_the_original(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    init = case.kwargs["init"]
    augment = ADA(
        tuple(case.inputs["images"].shape[1:]),
        p=1.0,
        multipliers={name: init.get(name, 0) for name in RANGES},
        ranges={RANGE_NAMES[name]: value for name, value in init.items() if name in RANGE_NAMES},
        filter_bands=tuple(init.get("imgfilter_bands", (1, 1, 1, 1))),
    )
    if "randn" in case.inputs:
        monkeypatch.setattr(ada_module, "randn", lambda *shape, device=None: case.inputs["randn"])
    x = case.inputs["images"].clone().requires_grad_()
    y = augment(x, percentile=case.kwargs["debug_percentile"])
    (dx,) = torch.autograd.grad(y, x, case.inputs["dout"])
    case.check("images", y)
    case.check("dimages", dx)


def test_ada_at_p_0_passes_the_images_through() -> None:
    x = images(2, 3, 16, 16)
    assert ADA((3, 16, 16), pipeline="bgcfnc")(x) is x


def test_untransformed_images_are_left_exactly() -> None:
    """Only images whose gates open are resampled."""
    x = images(64, 3, 8, 8)
    y = ADA((3, 8, 8), pipeline="blit", p=0.3)(x)
    same = (y == x).flatten(1).all(1)
    assert same.any()
    assert not same.all()


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_ada_probabilities(p: float) -> None:
    """Each augmentation acts on the expected share of images."""
    x = images(1, 3, 4, 4).expand(4000, -1, -1, -1)
    expected = {
        "xflip": p / 2,
        "rotate90": p * 3 / 4,
        "rotate": p,
        "scale": p,
        "aniso": p,
        "xfrac": p,
        "brightness": p,
        "contrast": p,
        "lumaflip": p / 2,
        "hue": p,
        "saturation": p,
        "imgfilter": 1 - (1 - p) ** 4,
        "noise": p,
    }
    for name, share in expected.items():
        multipliers = {other: float(other == name) for other in RANGES}
        y = ADA((3, 4, 4), p=p, multipliers=multipliers)(x)
        changed = (y - x).abs().flatten(1).amax(1) > 1e-5
        sigma = math.sqrt(share * (1 - share) / len(x))
        assert abs(changed.float().mean().item() - share) < 5 * sigma + 1e-3, name


def test_ada_controller() -> None:
    """p moves by 1 in `kimg` thousand images, towards the target, and not below 0."""
    augment = ADA((3, 8, 8), target=0.6, kimg=100)
    for step in range(25):
        augment.update(0.9, nimg=step * 400, batch=400)
    assert augment.p.item() == pytest.approx(25 * 400 / 100_000, rel=1e-5)
    augment.update(0.6, nimg=0, batch=400)
    assert augment.p.item() == pytest.approx(0.1, rel=1e-5)
    for _ in range(30):
        augment.update(-0.2, nimg=0, batch=400)
    assert augment.p.item() == 0
    for _ in range(2):
        augment.update(1.0, nimg=0, batch=80_000)
    assert augment.p.item() == pytest.approx(1.6)
    assert augment(images(4, 3, 8, 8)).isfinite().all()


def test_ada_with_fixed_p_does_not_adapt() -> None:
    augment = ADA((3, 8, 8), target=None, p=0.25)
    augment.update(1.0, nimg=0, batch=100_000)
    assert augment.p.item() == 0.25


def test_p_is_saved_and_stays_a_host_float() -> None:
    augment = ADA((3, 8, 8), p=0.123)
    assert list(augment.state_dict()) == ["p"]
    other = ADA((3, 8, 8)).to(torch.bfloat16).to("meta")
    other.load_state_dict(augment.state_dict())
    assert other.p.item() == pytest.approx(0.123)
    assert (other.p.dtype, other.p.device.type) == (torch.float32, "cpu")
    assert other.low_pass.device.type == "meta"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"multipliers": {"rotat": 0}}, "did you mean 'rotate'"),
        ({"ranges": {"sale": 0.1}}, "did you mean 'scale'"),
        ({"kimg": 0}, "kimg"),
        ({"p": -0.1}, "not -0.1"),
    ],
)
def test_ada_user_errors(options: dict, message: str) -> None:
    with pytest.raises(GankitError, match=message):
        ADA((3, 8, 8), **options)


def test_options_from_a_recipe() -> None:
    assert (
        check("augmentation", {"name": "ada", "pipeline": "bg", "multipliers": {"rotate": 0}})["target"]
        == 0.6
    )
    with pytest.raises(GankitError, match="pipeline"):
        check("augmentation", {"name": "ada", "pipeline": "bgx"})


def test_multipliers_switch_augmentations() -> None:
    x = smooth_images(16, 16)
    off = {name: 0.0 for name in ("rotate90", "xint", "scale", "rotate", "aniso", "xfrac")}
    y = ADA((3, 16, 16), pipeline="bg", p=1, multipliers=off)(x)
    kept = (y == x).flatten(1).all(1)
    flipped = (y - x.flip(3)).abs().amax((1, 2, 3)) < 0.1
    assert (kept ^ flipped).all()
    assert kept.any()
    assert flipped.any()


def test_rotate90_turns_about_the_centre() -> None:
    multipliers = {name: float(name == "rotate90") for name in RANGES}
    x = smooth_images(32, 16)
    y = ADA((3, 16, 16), p=1, multipliers=multipliers)(x)
    turned = torch.stack([x.rot90(k, (2, 3)) for k in range(4)])
    error = (turned - y).abs().amax((2, 3, 4))
    assert (error.amin(0) < 0.1).all()
    assert set(error.argmin(0).tolist()) == {0, 1, 2, 3}


def test_color_of_grey_is_that_of_equal_channels() -> None:
    """A grey image is treated as RGB with equal channels, averaged."""
    options = {"pipeline": "color", "p": 1.0, "multipliers": {"hue": 0, "saturation": 0}}
    x = images(4, 1, 6, 6)
    with batch_random("grey", total=4):
        grey = ADA((1, 6, 6), **options)(x)
    with batch_random("grey", total=4):
        rgb = ADA((3, 6, 6), **options)(x.expand(-1, 3, -1, -1))
    torch.testing.assert_close(grey, rgb.mean(1, keepdim=True))


@settings(max_examples=25, deadline=None)
@given(
    pipeline=st.sampled_from(list(PIPELINES)),
    channels=st.sampled_from([1, 3, 4]),
    height=st.integers(4, 24),
    width=st.integers(4, 24),
    p=st.floats(0.05, 1.5),
    seed=st.integers(0, 99),
)
def test_ada_shapes_and_micro_batches(
    pipeline: str, channels: int, height: int, width: int, p: float, seed: int
) -> None:
    """Any size and channel count; an image's result does not depend on the others computed along with it."""
    augment = ADA((channels, height, width), pipeline=pipeline, p=p)
    x = images(5, channels, height, width, seed=seed)
    with batch_random(seed, total=5):
        whole = augment(x)
    assert whole.shape == x.shape
    assert whole.isfinite().all()
    parts = []
    for start, count in ((0, 2), (2, 3)):
        with batch_random(seed, total=5, start=start, count=count):
            parts.append(augment(x[start : start + count]))
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("factor", [1.0, 1.5, 2.0])
def test_warp_reflects_as_far_as_if_alone(factor: float) -> None:
    """A shrunk image shows more of its surroundings, but not more because its neighbour needs more of its own."""
    x = images(2, 3, 16, 16)
    inverse = torch.stack([torch.diag(torch.tensor([f, f, 1.0])) for f in (factor, 4.0)])
    taps = ada_filters.low_pass()
    alone = ada_filters.warp(x[:1], inverse[:1], taps)
    together = ada_filters.warp(x, inverse, taps)[:1]
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("make", ALL_AUGMENTS)
def test_alpha_keeps_its_colour(make) -> None:
    """The alpha channel moves with the colours, but its values are not recoloured."""
    name = "color"
    augment = (
        DiffAugment((4, 8, 8), policy=name) if make is DiffAugment else ADA((4, 8, 8), pipeline=name, p=1)
    )
    x = images(8, 4, 8, 8)
    y = augment(x)
    assert torch.equal(y[:, 3], x[:, 3])
    assert not torch.allclose(y[:, :3], x[:, :3])


# ---------------------------------------------------------------------------------------------- differentiability


@pytest.mark.parametrize("make", ALL_AUGMENTS)
@pytest.mark.parametrize("shape", [(1, 6, 5), (3, 4, 4)])
def test_r1_gradients_through_the_augmentation(make, shape: tuple[int, int, int]) -> None:
    """y = L x + c, D(y) = sum(w y^2) / 2, so the gradient of |dD/dx|^2 / 2 to w is y * (L L^T w y)."""
    augment = make(shape)
    x = images(2, *shape).requires_grad_()
    size = x.numel()

    def apply(x: Tensor) -> Tensor:
        with batch_random("fixed", total=2):
            return augment(x)

    y = apply(x)
    w = images(*y.shape, seed=1).requires_grad_()
    (gradient,) = torch.autograd.grad((w * y.square()).sum() / 2, x, create_graph=True)
    (actual,) = torch.autograd.grad(gradient.square().sum() / 2, w)

    with torch.no_grad():
        offset = apply(torch.zeros_like(x))
        units = torch.eye(size).view(size, *x.shape)
        L = torch.stack([(apply(unit) - offset).flatten() for unit in units], dim=1)
        expected = y.flatten() * (L @ (L.T @ (w * y).flatten()))
    assert not torch.allclose(L, torch.eye(size))
    torch.testing.assert_close(actual.flatten(), expected, rtol=2e-3, atol=2e-4)


def test_bilinear_sample_gradients() -> None:
    """First and second derivatives agree with finite differences and with torch's own sampler."""
    x = images(2, 2, 5, 6).double().requires_grad_()
    grid = images(2, 4, 3, 2, seed=2).double() * 1.3
    reference = torch.nn.functional.grid_sample(x, grid, align_corners=False)
    torch.testing.assert_close(ada_filters.BilinearSample.apply(x, grid), reference)
    dy = images(*reference.shape, seed=3).double()
    (expected,) = torch.autograd.grad(reference, x, dy)
    (actual,) = torch.autograd.grad(ada_filters.BilinearSample.apply(x, grid), x, dy)
    torch.testing.assert_close(actual, expected)
    sample = ada_filters.BilinearSample.apply
    assert torch.autograd.gradcheck(lambda x: sample(x, grid), (x,))
    assert torch.autograd.gradgradcheck(lambda x: sample(x.square(), grid), (x,))


# --------------------------------------------------------------------------------------------------- DiffAugment


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
