"""Plugins that break their contract in one way each, and a sound one of each kind that they derive from."""

from __future__ import annotations

import builtins
import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import numpy as np
import torch
from fake_plugins import Angle
from PIL import Image
from torch import Tensor, nn

from gankit.core.config.options import Nested
from gankit.core.config.registry import Plugin, registry
from gankit.core.interfaces.conditions import Cond, Condition, Conditioner, CondSpec, embedding_of
from gankit.core.interfaces.data import Source
from gankit.core.interfaces.labels import Label, Vocabulary
from gankit.core.interfaces.networks import Discriminator, FeatureNetwork, Generator, ImageShape, Tap
from gankit.core.interfaces.training import (
    AdversarialLoss,
    Augmentation,
    Guidance,
    Regularizer,
    StepContext,
    Tracker,
)
from gankit.core.runtime.random import rand
from gankit.errors import GankitError
from gankit.sampling.engine import Engine


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


class NotHalf(G):
    follows_ws = True  # but its weights do not go with ws in bfloat16


class ReturnsHalf(G):
    follows_ws = True

    def synthesis(self, ws: Tensor, cond: Cond = None, *, noise_mode: str = "random") -> Tensor:
        return super().synthesis(ws.float()).to(ws.dtype)


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


class StuckFade(G):
    share = 1.0

    def fade_in(self, share: float) -> bool:
        self.share = min(share, self.share)
        return True

    def synthesis(self, ws: Tensor, cond: Cond = None, *, noise_mode: str = "random") -> Tensor:
        return super().synthesis(ws) * self.share


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

    name, num_pooled, num_logits, taps = "feature", 3, 0, [Tap(4, 4)]

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
    taps = [Tap(4, 8)]


class Loss(AdversarialLoss):
    """Sound."""

    def d_loss(self, real: list[Tensor], fake: list[Tensor]) -> Tensor:
        return torch.stack([f.mean(1) - r.mean(1) for r, f in zip(real, fake)]).sum(0)

    def g_loss(self, fake: list[Tensor], real: list[Tensor] | None = None) -> Tensor:
        return torch.stack([-f.mean(1) for f in fake]).sum(0)


class WrongSign(Loss):
    def g_loss(self, fake: list[Tensor], real: list[Tensor] | None = None) -> Tensor:
        return -super().g_loss(fake)


class Squares01(Loss):
    """Sound: least squares with targets 0 and 1 for D, 1 for G."""

    real_target, fake_target, wish = 1.0, 0.0, 1.0

    def d_loss(self, real: list[Tensor], fake: list[Tensor]) -> Tensor:
        parts = [
            (r - self.real_target).square().mean(1) + (f - self.fake_target).square().mean(1)
            for r, f in zip(real, fake)
        ]
        return torch.stack(parts).sum(0)

    def g_loss(self, fake: list[Tensor], real: list[Tensor] | None = None) -> Tensor:
        return torch.stack([(f - self.wish).square().mean(1) for f in fake]).sum(0)


class SquaresPearson(Squares01):
    """Sound: the other targets of that paper, by which the losses are a divergence of Pearson."""

    fake_target, wish = -1.0, 0.0


class SquaresSwapped(Squares01):
    real_target, fake_target = 0.0, 1.0


class SquaresG(Squares01):
    wish = -1.0


class Scalar(Loss):
    def d_loss(self, real: list[Tensor], fake: list[Tensor]) -> Tensor:
        return super().d_loss(real, fake).mean()


class NoReason(Loss):
    @classmethod
    def incompatibility(cls, options, composition):
        return "conditioner none"


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


class NoExamples(Angle):
    def examples(self) -> dict[str, list[float]]:
        return {}


class OneExample(Angle):
    def examples(self) -> dict[str, list[float]]:
        return {"angle": [1.0]}


class TakenName(Angle):
    """Its field is an argument of a Pipeline already."""

    accepts = frozenset({"seeds"})  # type: ignore[assignment]


class NoCheck(Angle):
    def check(self, label: Label) -> None: ...


class HalfMirror(Angle):
    """Mirrors to somewhere else each time."""

    def mirror(self, label: Label) -> Label | None:
        return replace(label, fields={name: value + 1 for name, value in label.fields.items()})


class TextNeeds(Conditions):
    """A text where a tuple of texts is meant."""

    needs_labels = "cls"  # type: ignore[assignment]


class NoSuchKind(Conditions):
    conflicts = {"discriminators/stylegan2": "no such kind"}


class Lenient(Conditions):
    def known(self, label: Label) -> list[float]:
        return [float(label.cls == name) for name in self.classes]


class NotSaved(Conditions):
    def vocabulary(self) -> Vocabulary:
        return Vocabulary()


class Nameless(Conditions):
    def columns(self) -> list[tuple[str, str]]:
        return [("cls", "any")] * len(self.classes)


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


# ------------------------------------------------------------------------ faults that the core finds at the seam


class RowMissing(G):
    def synthesis(self, ws: Tensor, cond: Cond = None, *, noise_mode: str = "random") -> Tensor:
        return super().synthesis(ws)[:, :, 1:]


class Bytes(G):
    def synthesis(self, ws: Tensor, cond: Cond = None, *, noise_mode: str = "random") -> Tensor:
        return 255 * super().synthesis(ws)


class Doubles(G):
    def synthesis(self, ws: Tensor, cond: Cond = None, *, noise_mode: str = "random") -> Tensor:
        return super().synthesis(ws).double()


class NoSynthesis(Generator):
    """Lacks a method that the base class cannot declare."""

    def __init__(self, image_shape: ImageShape, cond: CondSpec) -> None:
        super().__init__()
        self.z_dim = self.w_dim = self.num_ws = 1
        self.image_shape = image_shape

    def mapping(self, z: Tensor, cond: Cond = None, **_: Any) -> Tensor:
        return z[:, None]


class NoCondition(G):
    def mapping(self, z: Tensor) -> Tensor:  # type: ignore[override]
        return super().mapping(z)


class NoWidth(G):
    def __init__(self, image_shape: ImageShape, cond: CondSpec) -> None:
        super().__init__(image_shape, cond)
        del self.z_dim


class OtherShape(G):
    def __init__(self, image_shape: ImageShape, cond: CondSpec) -> None:
        super().__init__(image_shape, cond)
        self.image_shape = (3, 99, 99)


class LenOfBatch(G):
    def synthesis(self, ws: Tensor, cond: Cond = None, *, noise_mode: str = "random") -> Tensor:
        return super().synthesis(ws) * torch.ones(1, 1, 1, 1).repeat(len(ws), 1, 1, 1)


class Branches(G):
    def synthesis(self, ws: Tensor, cond: Cond = None, *, noise_mode: str = "random") -> Tensor:
        images = super().synthesis(ws)
        if images.mean() > 0:
            return images
        return -images


class NoScore(Discriminator):
    """Lacks a method."""

    def __init__(self, image_shape: ImageShape, cond: CondSpec) -> None:
        super().__init__()

    def features(self, images: Tensor) -> Any:
        return images


class HalfBatch(D):
    def score(self, features: Any, cond: Cond = None) -> list[Tensor]:
        return [x[::2] for x in super().score(features, cond)]


class StaticLoss(Loss):
    """Sound, with static methods."""

    @staticmethod
    def g_loss(fake: list[Tensor], real: list[Tensor] | None = None) -> Tensor:  # type: ignore[override]
        return Loss().g_loss(fake)

    @classmethod
    def d_loss(cls, real: list[Tensor], fake: list[Tensor]) -> Tensor:
        return Loss().d_loss(real, fake)


@dataclass(frozen=True)
class FrozenLoss(Loss):
    """Sound, and its attributes cannot be set.

    Args:
        scale: factor.
    """

    scale: float = field(default=1.0, kw_only=True)


class DelegatingLoss(Loss):
    """Sound, with methods of another object."""

    g_loss = property(lambda self: Loss().g_loss)  # type: ignore[assignment]
    d_loss = property(lambda self: Loss().d_loss)  # type: ignore[assignment]


class OneNumber(Loss):
    def g_loss(self, fake: list[Tensor], real: list[Tensor] | None = None) -> Tensor:
        return super().g_loss(fake).mean()


class FakeOnly(Loss):
    def d_loss(self, fake: list[Tensor]) -> Tensor:  # type: ignore[override]
        return fake[0]


class Weight(Regularizer):
    """Sound: the size of D's weights, shared out over the images."""

    side = "D"

    def penalty(self, step: StepContext) -> Tensor:
        return sum(p.square().sum() for p in step.D.parameters()).expand(len(step.real))  # type: ignore[union-attr]


class SideX(Weight):
    side = "X"


class NoInterval(Weight):
    interval = 0


class OnePenalty(Weight):
    def penalty(self, step: StepContext) -> Tensor:
        return super().penalty(step).mean()


class Brightness(Guidance):
    """Sound."""

    weight = 1.0

    def loss(self, images: Tensor, cond: Condition, labels: Any) -> Tensor:
        return images.mean((1, 2, 3))


class EveryPixel(Brightness):
    def loss(self, images: Tensor, cond: Condition, labels: Any) -> Tensor:
        return images.flatten(1)


class Crops(Augment):
    def forward(self, images: Tensor) -> Tensor:
        return images[:, :, 2:]


class Brightens(Augment):
    def forward(self, images: Tensor) -> Tensor:
        return images * 127.5 + 127.5


class Wide(Conditions):
    def encode(self, labels: Any) -> Condition:
        return super().encode(labels).map(lambda t: torch.cat([t, t], 1))


class NoSpec(Conditions):
    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        self.spec = None  # type: ignore[assignment]


class Arrays(Squares):
    def image(self, index: int) -> Any:
        return np.asarray(super().image(index))


class Names(Squares):
    def label(self, index: int) -> Any:
        return "ab"[index % 2]


class Empty(Squares):
    def __len__(self) -> int:
        return 0


class Lies(D):
    """A discriminator on a feature network whose taps lie."""

    def __init__(
        self,
        image_shape: ImageShape,
        cond: CondSpec,
        *,
        feature: Annotated[FeatureNetwork, Nested("feature")] = {"name": "wrong-tap"},  # type: ignore[assignment]  # noqa: B006
    ) -> None:
        super().__init__(image_shape, cond)
        self.feature = feature

    def features(self, images: Tensor) -> Any:
        return self.feature(images)[0].mean((2, 3)).repeat(1, 2)[:, :6]


class Every2nd(Engine):
    """Draws every second image."""

    def prepare(self, module: Any, inputs: Any) -> Any:
        return lambda inputs: module(**inputs)[::2]


class Backwards(Engine):
    """Draws the images in another order."""

    def prepare(self, module: Any, inputs: Any) -> Any:
        return lambda inputs: module(**inputs).flip(0)


class Raises(Tracker):
    """Raises in one of its methods.

    Args:
        where: name of the method.
        kind: of error.
    """

    def __init__(self, run_dir: Any, *, where: str = "on_tick", kind: str = "OSError") -> None:
        self.where, self.error = where, getattr(builtins, kind)
        self._maybe("__init__")

    def _maybe(self, where: str) -> None:
        if where == self.where:
            raise self.error(28, "no space left for it")

    def on_tick(self, nimg: int, scalars: Any) -> None:
        self._maybe("on_tick")

    def on_images(self, nimg: int, name: str, path: Any) -> None:
        self._maybe("on_images")

    def on_checkpoint(self, nimg: int, path: Any) -> None:
        self._maybe("on_checkpoint")

    def close(self) -> None:
        self._maybe("close")


@contextlib.contextmanager
def registered(kind: str, target: str, name: str = "mine") -> Iterator[None]:
    """A class of this file is known to the registry, of the package 'my-package 0.1'."""
    table = registry().plugins
    before = dict(table)
    table[kind, name] = Plugin(kind, name, f"{__name__}:{target}", "my-package", "0.1")
    try:
        yield
    finally:
        table.clear()
        table.update(before)
