"""What D's view of images lacks at first: blur, details."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from runs import train

from gankit.core.training import fade_in


@pytest.mark.parametrize("sigma", [0.34, 2.0, 10.0])
def test_blur_is_the_convolution_of_the_originals(sigma: float) -> None:
    images = torch.randn(2, 3, 20, 12, dtype=torch.float64)
    radius = math.floor(3 * sigma)
    taps = torch.tensor([2 ** -((i / sigma) ** 2) for i in range(-radius, radius + 1)], dtype=torch.float64)
    kernel = (taps / taps.sum()).expand(3, 1, -1)
    expected = F.conv2d(images, kernel[..., None], groups=3, padding=(radius, 0))
    expected = F.conv2d(expected, kernel[:, :, None], groups=3, padding=(0, radius))
    assert torch.allclose(fade_in.blur(images, sigma), expected, atol=1e-12)


def test_blur_of_ten_pixels_has_the_measured_width() -> None:
    line = torch.zeros(1, 1, 1, 201, dtype=torch.float64)
    line[..., 100] = 1
    out = fade_in.blur(line, 10)[0, 0, 0]
    out = out / out.sum()
    assert int((out > 0).sum()) == 61
    assert ((out * (torch.arange(201) - 100.0).square()).sum().sqrt()).item() == pytest.approx(8.47, abs=0.01)


def test_blur_ends_and_is_computed_in_float32() -> None:
    images = torch.randn(1, 3, 16, 16, dtype=torch.bfloat16)
    assert fade_in.blur(images, 0.33) is images
    with torch.autocast("cpu", torch.bfloat16):
        assert fade_in.blur(images, 2).dtype == torch.float32
    torch.autograd.gradgradcheck(
        lambda x: fade_in.blur(x, 1).pow(3).sum(),
        torch.randn(1, 1, 4, 4, dtype=torch.float64, requires_grad=True),
    )


def test_details_fade_in() -> None:
    images = torch.randn(1, 1, 4, 6)
    coarse = images.unflatten(3, (3, 2)).unflatten(2, (2, 2)).mean((3, 5))
    coarse = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(fade_in.fade_in(images, 0), coarse, atol=1e-6)
    assert torch.allclose(fade_in.fade_in(images, 0.25), 0.75 * coarse + 0.25 * images, atol=1e-6)
    assert fade_in.fade_in(images, 1.5) is images


def test_d_sees_blurred_images_first(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sigmas, shares = [], []
    blur, fade = fade_in.blur, fade_in.fade_in
    monkeypatch.setattr(fade_in, "blur", lambda x, sigma: (sigmas.append(sigma), blur(x, sigma))[1])
    monkeypatch.setattr(fade_in, "fade_in", lambda x, share: (shares.append(share), fade(x, share))[1])
    options = {"train.blur_sigma": 4.0, "train.blur_kimg": 0.016, "train.fade_kimg": 0.02, "regularizers": {}}
    train(tmp_path, images, **options, **{"train.images": 32, "train.order": "dg", "train.d_steps": 4})
    # real and fake in each D step, fake in the G step of the fourth
    assert sigmas == [4, 4, 2, 2, 0, 0, 0, 0, 0]
    assert shares == pytest.approx([0, 0.4, 0.8, 1])  # of real images: this generator fades its own
