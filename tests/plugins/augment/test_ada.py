"""ADA: reference vectors, probabilities, the controller of p, options, independence of the batch."""

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
from gankit.plugins.augment.ada import ADA, PIPELINES, RANGES

GOLDEN = load_golden("ada_augment")
RANGE_NAMES = {"scale_std": "scale", "rotate_max": "rotate", "xfrac_std": "xfrac", "hue_max": "hue"}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def smooth_images(batch: int, size: int) -> Tensor:
    """Images without high frequencies, so that the low-pass (not quite symmetric) leaves them nearly as they are."""
    return torch.nn.functional.interpolate(images(batch, 3, 3, 3), size=size, mode="bicubic")


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
