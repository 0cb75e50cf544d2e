"""Guidance by CLIP, on a tiny CLIP with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conditioning_utils import SIDE, make_open_clip
from golden_utils import load_golden
from torch.nn.functional import adaptive_avg_pool2d

from gankit.core.interfaces.conditions import Condition
from gankit.core.interfaces.labels import Label
from gankit.core.runtime.random import batch_random
from gankit.plugins.guidance.clip import CLIPGuidance, squared_angle

GIVEN = Condition()


@pytest.fixture(scope="module")
def clip_files(tmp_path_factory) -> tuple[str, Path]:
    return make_open_clip(tmp_path_factory.mktemp("open_clip"))


@pytest.fixture(scope="module")
def clip(clip_files) -> CLIPGuidance:
    name, weights = clip_files
    return CLIPGuidance(model=name, pretrained=str(weights))


def captions(*texts: str) -> list[Label]:
    return [Label(texts=(text,)) if text else Label() for text in texts]


@pytest.mark.parametrize("name", ["spherical0", "spherical1"])
def test_squared_angle_agrees_with_the_original(name):
    case = next(case for case in load_golden("loss_sgt").cases if case.name == name)
    x, y = (case.inputs[key].clone().requires_grad_() for key in "xy")
    distance = squared_angle(x, y)
    case.check("distance", distance)
    case.check("mean", distance.mean().view(1))
    dx, dy = torch.autograd.grad(distance.mean(), (x, y))
    case.check("dx", dx)
    case.check("dy", dy)


def test_squared_angle_is_finite_at_its_ends():
    y = torch.cat([torch.eye(4, 768), torch.randn(60, 768, generator=torch.Generator().manual_seed(0))])
    for sign, expected in ((1, 0.0), (-1, torch.pi**2)):
        x = (sign * y).requires_grad_()
        distance = squared_angle(x, y)
        torch.testing.assert_close(distance, torch.full((64,), expected), rtol=0, atol=0.02)
        distance.sum().backward()
        assert x.grad.isfinite().all()


@pytest.mark.parametrize("size", [SIDE, 24, 40])
def test_clip_loss_is_the_angle_between_image_and_caption(clip, clip_files, size):
    import open_clip

    name, weights = clip_files
    original = open_clip.create_model(name, pretrained=str(weights)).eval()
    images = torch.rand(3, 3, size, size) * 2 - 1
    loss = clip.loss(images, GIVEN, captions("a cat", "", "a red hat"))
    images = adaptive_avg_pool2d(images, SIDE)
    mean, std = (
        torch.tensor(getattr(open_clip.constants, f"OPENAI_DATASET_{n}")).view(3, 1, 1)
        for n in ("MEAN", "STD")
    )
    with torch.no_grad():
        a = original.encode_image(((images + 1) / 2 - mean) / std, normalize=True)
        b = original.encode_text(open_clip.get_tokenizer(name)(["a cat", "", "a red hat"]), normalize=True)
    expected = torch.arccos((a * b).sum(1)).square()
    torch.testing.assert_close(loss[[0, 2]], expected[[0, 2]], rtol=1e-4, atol=1e-5)
    assert loss[1] == 0
    assert loss[0] != loss[2]


def test_clip_loss_is_zero_without_a_caption_that_g_saw(clip):
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    assert clip.loss(images, GIVEN, captions("", " ")).tolist() == [0, 0]
    hidden = Condition(torch.tensor([[0.0, 0.0], [0.0, 1.0]]))
    loss = clip.loss(images, hidden, captions("a cat", "a cat"))
    assert loss[0] == 0
    assert loss[1] == clip.loss(images, GIVEN, captions("a cat", "a cat"))[1]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_clip_gradients_reach_the_images_alone(clip, channels):
    images = (torch.rand(3, channels, 8, 8) * 2 - 1).requires_grad_()
    clip.train()
    clip.loss(images, GIVEN, captions("a cat", "", "a red hat")).sum().backward()
    touched = images.grad.abs().amax((2, 3)) > 0
    assert touched.tolist() == [[True] * channels, [False] * channels, [True] * channels]
    assert not clip.clip.training
    assert not any(p.requires_grad for p in clip.parameters())


def test_following_clip_gradients_lowers_the_loss(clip):
    generator = torch.Generator().manual_seed(1)
    images = (torch.rand(2, 3, SIDE, SIDE, generator=generator) - 0.5).requires_grad_()
    labels = captions("a cat", "a red hat")
    before = clip.loss(images, GIVEN, labels)
    optimizer = torch.optim.Adam([images], lr=0.05)
    for _ in range(20):
        optimizer.zero_grad()
        clip.loss(images, GIVEN, labels).sum().backward()
        optimizer.step()
    after = clip.loss(images, GIVEN, labels)
    assert (after < before * 0.8).all()


def test_crops_are_windows_of_their_own_image(clip_files):
    name, weights = clip_files
    guidance = CLIPGuidance(model=name, pretrained=str(weights), crop=8)
    images = torch.arange(6 * 3 * 12 * 20).view(6, 3, 12, 20).float()
    windows = guidance._random_crop(images)
    assert windows.shape == (6, 3, 8, 8)
    corners = set()
    for image, window in zip(images, windows):
        offset = int(window[0, 0, 0] - image[0, 0, 0])
        y, x = divmod(offset, 20)
        assert torch.equal(window, image[:, y : y + 8, x : x + 8])
        corners.add((y, x))
    assert len(corners) > 1
    assert guidance._random_crop(images[:, :, :6]).shape == (6, 3, 6, 8)
    assert guidance._random_crop(images[:, :, :8, :8]).data_ptr() == images.data_ptr()
    guidance.crop = 0
    assert guidance._random_crop(images) is images


def test_clip_loss_does_not_depend_on_the_split_of_the_batch(clip_files):
    name, weights = clip_files
    guidance = CLIPGuidance(model=name, pretrained=str(weights), crop=8)
    images = torch.rand(6, 4, 16, 16) * 2 - 1
    labels = captions("a cat", "", "a red hat", "a man", "a woman", "a cat")
    with batch_random("test", total=6):
        whole = guidance.loss(images, GIVEN, labels)
    parts = []
    for start in (0, 2, 4):
        with batch_random("test", total=6, start=start, count=2):
            parts.append(guidance.loss(images[start : start + 2], GIVEN, labels[start : start + 2]))
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-4, atol=1e-6)
    with batch_random("another", total=6):
        assert not torch.allclose(guidance.loss(images, GIVEN, labels), whole)


def test_captions_are_encoded_once_and_in_full_precision(clip_files, monkeypatch):
    name, weights = clip_files
    guidance = CLIPGuidance(model=name, pretrained=str(weights))
    encoded = []
    encode_text = guidance.clip.encode_text

    def spy(tokens, normalize):
        encoded.append(encode_text(tokens, normalize=normalize))
        return encoded[-1]

    monkeypatch.setattr(guidance.clip, "encode_text", spy)
    images = torch.rand(3, 3, 8, 8) * 2 - 1
    labels = captions("a cat", "a dog", "a cat")
    with torch.autocast("cpu", torch.bfloat16):
        rough = guidance.loss(images, GIVEN, labels)
    assert len(encoded) == 2
    assert all(e.dtype == torch.float32 for e in encoded)
    exact = guidance.loss(images, GIVEN, labels)
    assert len(encoded) == 2
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.1, atol=0.05)
