"""The conformance suite notices plugins that break their contract: each of these breaks it in one way."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from gankit.core.interfaces import (
    AdversarialLoss,
    Augmentation,
    Cond,
    Condition,
    Conditioner,
    CondSpec,
    Discriminator,
    FeatureNetwork,
    Generator,
    ImageShape,
    Label,
    Regularizer,
    Source,
    StepContext,
    Tap,
    Vocabulary,
    embedding_of,
)
from gankit.core.plugins import Plugin, registry
from gankit.core.random import rand
from gankit.errors import GankitError
from gankit.testing import Subject, checks_of


class G(Generator):
    """Sound.

    Args:
        z_dim: width of z.
    """

    def __init__(self, image_shape: ImageShape, cond: CondSpec, *, z_dim: int = 6) -> None:
        super().__init__()
        self.z_dim = self.w_dim = z_dim
        self.num_ws, self.image_shape = 1, image_shape
        self.embed = nn.Linear(max(cond.c_dim, 1), z_dim)
        self.out = nn.Linear(z_dim, image_shape[0] * image_shape[1] * image_shape[2])

    def mapping(self, z: Tensor, cond: Cond = None, **_: Any) -> Tensor:
        c = embedding_of(cond)
        return (z + self.embed(torch.ones_like(z[:, :1]) if c is None else c))[:, None]

    def synthesis(self, ws: Tensor, cond: Cond = None, *, noise_mode: str = "random") -> Tensor:
        return torch.tanh(self.out(ws[:, 0])).unflatten(1, self.image_shape)


class WrongWidth(G):
    def mapping(self, z: Tensor, cond: Cond = None, **_: Any) -> Tensor:
        return super().mapping(z, cond).repeat(1, 2, 1)


class Untrained(G):
    def __init__(self, image_shape: ImageShape, cond: CondSpec, *, z_dim: int = 6) -> None:
        super().__init__(image_shape, cond, z_dim=z_dim)
        self.forgotten = nn.Parameter(torch.zeros(3))


class TorchNoise(G):
    def synthesis(self, ws: Tensor, cond: Cond = None, *, noise_mode: str = "random") -> Tensor:
        images = super().synthesis(ws)
        return images + 0.1 * torch.randn_like(images) if noise_mode == "random" else images


class NotConst(G):
    def synthesis(self, ws: Tensor, cond: Cond = None, *, noise_mode: str = "random") -> Tensor:
        return super().synthesis(ws) + 0.1 * torch.randn(1)


class CrossTalk(G):
    def synthesis(self, ws: Tensor, cond: Cond = None, *, noise_mode: str = "random") -> Tensor:
        return super().synthesis(ws + ws.mean(0, keepdim=True))


class Forgetful(G):
    mean: Any = 0.0

    def mapping(self, z: Tensor, cond: Cond = None, *, update_emas: bool = False, **_: Any) -> Tensor:
        if update_emas:
            self.mean = z.mean().item() + 1
        return super().mapping(z, cond) + self.mean


class Deaf(G):
    def mapping(self, z: Tensor, cond: Cond = None, **_: Any) -> Tensor:
        c = embedding_of(cond)
        return super().mapping(z, None if c is None else 0 * c)


class NoHelp(G):
    """Sound but for the help."""


class ThirdPositional(G):
    """Sound but for a positional argument.

    Args:
        z_dim: width of z.
    """

    def __init__(self, image_shape: ImageShape, cond: CondSpec, depth: int = 2, *, z_dim: int = 6) -> None:
        super().__init__(image_shape, cond, z_dim=z_dim)


class NoBase:
    """Not a generator."""

    def __init__(self, image_shape: ImageShape, cond: CondSpec) -> None: ...


class D(Discriminator):
    """Sound."""

    def __init__(self, image_shape: ImageShape, cond: CondSpec) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(image_shape[0], 6, 4, 4), nn.Softplus(), nn.AdaptiveAvgPool2d(1))
        self.embed = nn.Linear(max(cond.c_dim, 1), 6)

    def features(self, images: Tensor) -> Any:
        return self.body(images).flatten(1)

    def score(self, features: Any, cond: Cond = None) -> list[Tensor]:
        c = embedding_of(cond)
        c = torch.ones_like(features[:, :1]) if c is None else c
        return [(features * self.embed(c)).sum(1, keepdim=True)]


class NoList(D):
    def score(self, features: Any, cond: Cond = None) -> Any:
        return super().score(features, cond)[0]


class InPlaceScore(D):
    def score(self, features: Any, cond: Cond = None) -> list[Tensor]:
        if not features.requires_grad:
            features.mul_(2)
        return super().score(features, cond)


class SecretStatistics(D):
    def features(self, images: Tensor) -> Any:
        return super().features(images - images.mean(0, keepdim=True))


class Blind(D):
    def features(self, images: Tensor) -> Any:
        return super().features(images.detach())


class Feature(FeatureNetwork):
    """Sound."""

    name, num_pooled, num_logits, taps = "feature", 3, 0, [Tap(4, 4)]  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 4, 4).requires_grad_(False)
        self.eval()

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.stem(images)]

    def pooled(self, images: Tensor) -> Tensor:
        return self.stem(images).mean((2, 3))[:, :3]


class Trained(Feature):
    def __init__(self) -> None:
        super().__init__()
        self.requires_grad_(True)


class WrongTap(Feature):
    taps = [Tap(4, 8)]  # noqa: RUF012


class Loss(AdversarialLoss):
    """Sound."""

    def d_loss(self, real: list[Tensor], fake: list[Tensor]) -> Tensor:
        return torch.stack([f.mean(1) - r.mean(1) for r, f in zip(real, fake)]).sum(0)

    def g_loss(self, fake: list[Tensor], real: list[Tensor] | None = None) -> Tensor:
        return torch.stack([-f.mean(1) for f in fake]).sum(0)


class WrongSign(Loss):
    def g_loss(self, fake: list[Tensor], real: list[Tensor] | None = None) -> Tensor:
        return -super().g_loss(fake)


class Scalar(Loss):
    def d_loss(self, real: list[Tensor], fake: list[Tensor]) -> Tensor:
        return super().d_loss(real, fake).mean()


class FirstOnly(Loss):
    def d_loss(self, real: list[Tensor], fake: list[Tensor]) -> Tensor:
        return super().d_loss(real[:1], fake[:1]) + 0 * super().d_loss(real, fake)


class WrongSide(Regularizer):
    """A penalty on D that says it is one on G."""

    side = "G"

    def penalty(self, step: StepContext) -> Tensor:
        return step.D.requires_grad_(True)(step.real, step.cond)[0].square().flatten()


class HiddenState(Regularizer):
    """A running mean that is no buffer."""

    side = "D"
    mean = 0.0

    def penalty(self, step: StepContext) -> Tensor:
        value = step.D(step.real, step.cond)[0].flatten()
        self.mean += 1.0
        return (value - self.mean).square()


class Augment(Augmentation):
    """Sound."""

    def __init__(self, image_shape: ImageShape) -> None:
        super().__init__()

    def forward(self, images: Tensor) -> Tensor:
        return images * (0.5 + rand(len(images), 1, 1, 1))


class TorchRand(Augment):
    def forward(self, images: Tensor) -> Tensor:
        return images * torch.rand(len(images), 1, 1, 1)


class Stepped(Augment):
    def forward(self, images: Tensor) -> Tensor:
        return images + (images.round() - images).detach() - images + images.detach()


class InPlace(Augment):
    def forward(self, images: Tensor) -> Tensor:
        return images.mul_(0.9) if not images.requires_grad else images * 0.9


class Conditions(Conditioner):
    """Sound: one-hot classes."""

    accepts = frozenset({"cls"})  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.classes: dict[str, int] = {}
        self.spec = CondSpec(0)

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        self.classes, self.spec = dict(vocabulary.classes), CondSpec(len(vocabulary.classes))

    def vocabulary(self) -> Vocabulary:
        return Vocabulary(classes=self.classes)

    def known(self, label: Label) -> list[float]:
        if label.cls is not None and label.cls not in self.classes:
            raise GankitError(f"unknown class {label.cls!r}")
        return [float(label.cls == name) for name in self.classes]

    def encode(self, labels: Any) -> Condition:
        return Condition(torch.tensor([self.known(label) for label in labels]))


class Lenient(Conditions):
    def known(self, label: Label) -> list[float]:
        return [float(label.cls == name) for name in self.classes]


class NotSaved(Conditions):
    def vocabulary(self) -> Vocabulary:
        return Vocabulary()


class Curious(Conditions):
    def encode(self, labels: Any) -> Condition:
        cond = super().encode(labels)
        return cond.map(lambda t: t + torch.tensor([[float(len(x.tags))] for x in labels]))


class Promises(Conditions):
    accepts = frozenset({"cls", "tags"})  # type: ignore[assignment]


class Squares(Source):
    """Sound."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __len__(self) -> int:
        return 4

    def image(self, index: int) -> Image.Image:
        return Image.new("RGB", (4, 4), (index, 0, 0))

    def label(self, index: int) -> Label:
        return Label(cls="ab"[index % 2])

    def name(self, index: int) -> str:
        return f"square {index}"

    def fingerprint(self) -> str:
        return "squares"


class Unpicklable(Squares):
    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.function = lambda: None


class Fickle(Squares):
    def label(self, index: int) -> Label:
        return replace(super().label(index), texts=(str(random.random()),))


class BySeed(Squares):
    def fingerprint(self) -> str:
        return str(id(self))


class Incomplete(Squares):
    def vocabulary(self) -> Vocabulary:
        return Vocabulary({"a": 2})


SOUND = {
    "generator": G,
    "discriminator": D,
    "feature": Feature,
    "loss": Loss,
    "augmentation": Augment,
    "conditioner": Conditions,
    "source": Squares,
}
BAD = [
    ("generator", WrongWidth, "generator_shapes", "mapping returns"),
    ("generator", Untrained, "generator_gradients", "no gradient reaches the parameter forgotten"),
    ("generator", TorchNoise, "generator_random", "draws random numbers from torch"),
    ("generator", NotConst, "generator_deterministic", "'const' is not repeatable"),
    ("generator", CrossTalk, "generator_deterministic", "alone and in a batch"),
    ("generator", Forgetful, "generator_state", "before and after state dict"),
    ("generator", Deaf, "generator_condition", "does not change the images"),
    ("generator", NoHelp, "options", "'z_dim' is not described"),
    ("generator", ThirdPositional, "options", r"must take \(image_shape, cond\) by position"),
    ("generator", NoBase, "base_class", "must derive from Generator"),
    ("discriminator", NoList, "discriminator_logits", "not a list"),
    ("discriminator", InPlaceScore, "discriminator_condition", "scoring the same features again"),
    ("discriminator", SecretStatistics, "discriminator_random", "names no batch_statistics"),
    ("discriminator", Blind, "discriminator_gradients", "no gradient reaches the images"),
    ("feature", Trained, "feature_frozen", "trained"),
    ("feature", WrongTap, "feature_taps", "its tap says"),
    ("loss", WrongSign, "loss_direction", "do not please G"),
    ("loss", Scalar, "loss_shapes", r"not \[B\]"),
    ("loss", FirstOnly, "loss_shapes", "ignores the logits of a network"),
    ("regularizer", WrongSide, "regularizer_penalty", "no gradient reaches G"),
    ("regularizer", HiddenState, "regularizer_state", "one that was restored"),
    ("augmentation", TorchRand, "augmentation_random", "draws random numbers from torch"),
    ("augmentation", Stepped, "augmentation_gradients", "second derivative"),
    ("augmentation", InPlace, "augmentation_shapes", "writes into the images"),
    ("conditioner", Lenient, "conditioner_unknown", "no GankitError was raised"),
    ("conditioner", NotSaved, "conditioner_state", "in its JSON"),
    ("conditioner", Curious, "conditioner_fields", "does not accept 'tags', but reads it"),
    ("conditioner", Promises, "conditioner_fields", "accepts 'tags', but other tags"),
    ("source", Fickle, "source_samples", "label 0 changes"),
    ("source", BySeed, "source_travels", "another fingerprint"),
    ("source", Incomplete, "source_vocabulary", "class 'b' is missing"),
]


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    before = dict(registry().plugins)
    yield
    registry().plugins.clear()
    registry().plugins.update(before)


def subject(kind: str, target: type) -> Subject:
    registry().plugins[kind, "mine"] = Plugin(kind, "mine", f"{__name__}:{target.__name__}", "fake", "1")
    return Subject(kind, "mine", {}, shapes=((3, 16, 16), (1, 16, 8)))


@pytest.mark.parametrize("kind", SOUND)
def test_sound_ones_pass(kind: str) -> None:
    for check in checks_of(kind):
        check(subject(kind, SOUND[kind]))


@pytest.mark.parametrize(("kind", "target", "name", "message"), BAD, ids=[b[1].__name__ for b in BAD])
def test_bad_ones_are_found(kind: str, target: type, name: str, message: str) -> None:
    (check,) = [check for check in checks_of(kind) if check.__name__ == f"check_{name}"]
    with pytest.raises(AssertionError, match=message):
        check(subject(kind, target))


def test_unpicklable_source_is_found() -> None:
    (check,) = [check for check in checks_of("source") if check.__name__ == "check_source_travels"]
    with pytest.raises((AttributeError, TypeError), match="pickle"):
        check(subject("source", Unpicklable))
