"""The contracts of what a training step calls: losses, regularizers, guidance, augmentations, trackers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from gankit.core.interfaces.conditions import Condition, Conditioner
from gankit.core.interfaces.labels import Label
from gankit.core.interfaces.networks import Component, Discriminator, Generator, ImageShape


class AdversarialLoss(Component, ABC):
    """Logits are lists as `Discriminator.forward` returns them; results are per image, [B]."""

    g_needs_real: ClassVar[bool] = False  # relativistic losses compare with real logits in G's step too

    @abstractmethod
    def d_loss(self, real: list[Tensor], fake: list[Tensor]) -> Tensor: ...

    @abstractmethod
    def g_loss(self, fake: list[Tensor], real: list[Tensor] | None = None) -> Tensor: ...


@dataclass
class StepContext:
    """What a regularizer may use: one micro-batch of the running step.

    `side` is 'D' or 'G', whose phase it is; `real` is the batch before augmentation, [B, C, H, W]; `cond` its condition
    as the networks see it, `full_cond` the same before dropout and noise; `augment` is the pipeline in front of D;
    `sample_z(n)` draws fresh latents [n, z_dim]. In the main phases `features` holds what these have computed: "real"
    are D's features of the augmented reals (D's phase), "fake" G's images under the same conditions, before
    augmentation, and "fake features" D's features of them, after it (both phases; D's without a gradient to G).
    """

    side: str
    G: Generator
    D: Discriminator
    real: Tensor
    cond: Condition
    full_cond: Condition
    augment: Any
    sample_z: Any
    nimg: int
    features: dict[str, Any] = field(default_factory=dict)
    g_cond: Condition | None = None


class Regularizer(nn.Module, Component, ABC):
    """A penalty on one network, computed every `interval` steps and multiplied by it (lazy regularisation, StyleGAN2
    section 3.2). With interval 1 it joins the main loss; otherwise it is a step of its own and the optimiser of its
    side gets lr * k/(k+1) and beta ** (k/(k+1)). Parameters of its own are trained in D's phases."""

    side: ClassVar[str]  # 'D', 'G', or 'both' for one that joins both main losses
    second_order: ClassVar[bool] = True  # takes gradients of gradients, so it always runs in fp32
    interval: int = 1
    batch_statistics: ClassVar[str] = ""

    def set_up(self, D: Discriminator, conditioner: Conditioner, image_shape: ImageShape) -> None:
        """Called once, before training, with the networks at hand: the place to make parameters whose shapes depend on
        them. Raises GankitError if this regularizer cannot work with them."""

    @abstractmethod
    def penalty(self, step: StepContext) -> Tensor:
        """Weighted penalty of each image, [B]; state that it keeps belongs in buffers."""


class Guidance(nn.Module, Component, ABC):
    """A loss on generated images; its frozen networks are not stored."""

    weight: float

    @abstractmethod
    def loss(self, images: Tensor, cond: Condition, labels: Sequence[Label]) -> Tensor:
        """Unweighted loss of each image, [B]; images [B, C, H, W] in [-1, 1], before augmentation."""


class Augmentation(nn.Module, Component, ABC):
    """`__init__(self, image_shape: (C, H, W), *, options)`; twice differentiable with respect to the images."""

    channels: ClassVar[tuple[int, ...]] = (
        1,
        3,
        4,
    )  # channel counts that it accepts; others are refused early

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor: ...

    def update(self, real_signs: float, nimg: int, batch: int) -> None:
        """Adapt to the mean sign of D's real logits over the `batch` images since the last call (4 steps)."""

    def scalars(self) -> dict[str, float]:
        """What to log, such as an adaptive strength."""
        return {}


class Tracker(ABC):
    """`__init__(self, run_dir: Path, *, options)`; called on the main process only, a few times a minute at most."""

    def on_tick(self, nimg: int, scalars: Mapping[str, float]) -> None:
        """Scalars averaged since the last tick."""

    def on_images(self, nimg: int, name: str, path: Path) -> None:
        """A sample grid was written to `path` (PNG)."""

    def close(self) -> None: ...
