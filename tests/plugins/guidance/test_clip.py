"""Guidance losses, on a tiny CLIP and tiny classifiers with random weights."""

from pathlib import Path

import pytest
import torch
from conditioning_utils import SIDE, make_open_clip
from golden_utils import load_golden
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy, interpolate

from gankit.core.config import options
from gankit.core.interfaces.conditions import Condition
from gankit.core.interfaces.labels import Label
from gankit.core.interfaces.networks import FeatureNetwork
from gankit.core.runtime.random import batch_random
from gankit.errors import GankitError
from gankit.plugins.guidance.classifier import ClassifierGuidance
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


# ------------------------------------------------------------------------------------------------------ CLIP


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


# ------------------------------------------------------------------------------------------------ classifier


class ColourClassifier(FeatureNetwork):
    """Logits are linear in the mean colour of the image's left half."""

    name = "colours"
    input_multiple = 4

    def __init__(self, num_logits: int = 5) -> None:
        super().__init__()
        self.num_logits = num_logits
        self.linear = torch.nn.Linear(3, max(num_logits, 1)).requires_grad_(False)
        self.seen = ()

    def forward(self, images):
        raise NotImplementedError

    pooled = forward

    def logits(self, images):
        self.seen = tuple(images.shape)
        return self.linear(images[:, :, :, : images.shape[3] // 2].mean((2, 3)))


def classes(*names: str) -> list[Label]:
    return [Label(cls=name) if name else Label() for name in names]


def test_classifier_loss_is_cross_entropy_with_the_mapped_class():
    network = ColourClassifier()
    guidance = ClassifierGuidance(feature=network, classes={"cat": 3, "dog": 0}, temperature=2.0, side=8)
    images = (torch.rand(3, 3, 5, 6) * 2 - 1).requires_grad_()
    loss = guidance.loss(images, GIVEN, classes("cat", "", "dog"))
    assert network.seen == (2, 3, 8, 8)
    inputs = interpolate(images[[0, 2]].detach(), (8, 8), mode="bilinear")
    expected = cross_entropy(network.logits(inputs) / 2, torch.tensor([3, 0]), reduction="none")
    torch.testing.assert_close(loss[[0, 2]], expected)
    assert loss[1] == 0
    loss.sum().backward()
    assert (images.grad.abs().amax((1, 2, 3)) > 0).tolist() == [True, False, True]


def test_classifier_takes_numbers_as_indices_and_skips_hidden_classes():
    guidance = ClassifierGuidance(feature=ColourClassifier(), side=8)
    images = torch.rand(2, 1, 8, 8)
    plain = guidance.loss(images, GIVEN, classes("4", "0"))
    hidden = guidance.loss(images, Condition(torch.tensor([[1.0, 0.0], [0.0, 0.0]])), classes("4", "0"))
    assert hidden[0] == plain[0] > 0
    assert hidden[1] == 0
    mapped = ClassifierGuidance(feature=guidance.feature, classes={"a": 4, "b": 0}, side=8)
    assert torch.equal(mapped.loss(images, GIVEN, classes("a", "b")), plain)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"classes": {"cat": 5}}, "class 'cat' .* has index 5, but 'colours' knows the 5 classes 0 to 4"),
        ({"side": 222}, "multiple of 4"),
        ({"temperature": 0.0}, "temperature = 0.0"),
        ({"feature": ColourClassifier(0)}, "has no classifier"),
    ],
)
def test_classifier_refuses_options_that_cannot_work(kwargs, message):
    with pytest.raises(GankitError, match=message):
        ClassifierGuidance(**{"feature": ColourClassifier(), "side": 8, **kwargs})


def test_classifier_names_a_class_that_it_cannot_place():
    images = torch.rand(1, 3, 8, 8)
    numbers = ClassifierGuidance(feature=ColourClassifier(), side=8)
    with pytest.raises(GankitError, match=r"class 'cat' is not a number .* option classes"):
        numbers.loss(images, GIVEN, classes("cat"))
    with pytest.raises(GankitError, match="index 7, but"):
        numbers.loss(images, GIVEN, classes("7"))
    mapped = ClassifierGuidance(feature=ColourClassifier(), side=8, classes={"cat": 1})
    with pytest.raises(GankitError, match="unknown class 'cta'; did you mean 'cat'"):
        mapped.loss(images, GIVEN, classes("cta"))


def test_classifier_is_built_from_a_recipe_on_a_timm_model():
    feature = {"name": "timm-cnn", "model": "test_resnet", "pretrained": False}
    guidance = options.build("guidance", {"name": "classifier", "feature": feature, "side": 64})
    images = (torch.rand(2, 3, 16, 16) * 2 - 1).requires_grad_()
    loss = guidance.loss(images, GIVEN, classes("7", "300"))
    loss.sum().backward()
    assert loss.shape == (2,)
    assert (images.grad != 0).any()
    defaults = options.check("guidance", "classifier")
    assert defaults["feature"]["model"].startswith("deit_small_distilled_patch16_224")
    assert defaults["weight"] == 8


def test_every_option_is_documented():
    for cls in (CLIPGuidance, ClassifierGuidance):
        assert all(option.help for option in options.options_of(cls).values())
