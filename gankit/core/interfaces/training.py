"""Base classes of the plugins of a training step: losses, regularizers, optimizers, guidance, and so on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from gankit.core.interfaces.conditions import Condition, Conditioner
from gankit.core.interfaces.labels import Label
from gankit.core.interfaces.networks import Component, Discriminator, Generator, ImageShape


class AdversarialLoss(Component, ABC):
    """Adversarial losses of D and G: logits, as `Discriminator.forward` returns them -> losses of the images, [B]."""

    g_needs_real: ClassVar[bool] = False  # True if G's loss uses real logits too (relativistic losses)

    @abstractmethod
    def d_loss(self, real: list[Tensor], fake: list[Tensor]) -> Tensor: ...

    @abstractmethod
    def g_loss(self, fake: list[Tensor], real: list[Tensor] | None = None) -> Tensor: ...


@dataclass
class StepContext:
    """The inputs of a regularizer: one micro-batch of the running step.

    `side` is the side that is trained, 'D' or 'G'; `real` are the real images before augmentation, [B, C, H, W];
    `labels` are their B labels; `cond` is their condition as the networks see it, `full_cond` the same before dropout
    and noise, `g_cond` what G sees, where that differs; `augment` is the augmentation in front of D; `sample_z(n)`
    draws new latents [n, z_dim]; `nimg` is the number of images trained so far. In the main phases `features` holds
    intermediate results: "fake", G's images under the same conditions, before augmentation, and "fake features", D's
    features of them, after it (in D's phase without a gradient to G); in D's phase also "real", D's features of the
    augmented real images, and the lists of float32 logits "real logits" and "fake logits". What is put into `terms`,
    scalars by name, is logged.
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
    labels: Sequence[Label] = ()
    terms: dict[str, Tensor] = field(default_factory=dict)


class Regularizer(nn.Module, Component, ABC):
    """A penalty on G or D, computed every `interval` steps and multiplied by it (lazy regularisation, StyleGAN2 section
    3.2).

    With interval 1 it is added to the main loss. With interval k > 1 it is a phase of its own, and the optimizer of its
    side gets lr * k/(k+1) and beta ** (k/(k+1)). Parameters of the regularizer itself are trained in D's phases.

    Whatever the interval, it runs in its own `precision`: 'fp32', or 'mixed', which is that of the main losses: under
    autocast in bfloat16 if `train.precision` leads to it. Second derivatives are delicate in bfloat16, so a class that
    states no precision has 'fp32' with `second_order`, else 'mixed', which is also that of `StepContext.features`."""

    side: ClassVar[str]  # 'D', 'G', or 'both' if it is added to both main losses
    second_order: ClassVar[bool] = True  # True if it needs second derivatives
    precision: ClassVar[Literal["fp32", "mixed"]] = "fp32"
    interval: int = 1
    batch_statistics: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "precision" not in vars(cls) and "second_order" in vars(cls):
            cls.precision = "fp32" if cls.second_order else "mixed"

    def set_up(self, D: Discriminator, conditioner: Conditioner, image_shape: ImageShape) -> None:
        """Called once before training; may create parameters whose shapes depend on the networks.

        Raises GankitError if this regularizer cannot work with them."""

    @abstractmethod
    def penalty(self, step: StepContext) -> Tensor:
        """Weighted penalty of each image, [B]. State must be kept in buffers, so that checkpoints have it."""


class Optimizer(Component, ABC):
    """Makes the optimizer of one side, G or D. `__init__(self, *, options)`.

    Learning rates, betas and epsilon are options of the recipe's section `train`, which schedules can change; what is
    peculiar to an optimizer is its own option."""

    @abstractmethod
    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The torch optimizer of named parameters, each of which must be in one of its `param_groups`.

        Each group is a dict as torch's optimizers take it: 'params', a list of (name, parameter), 'lr', 'betas', 'eps',
        and 'rate', the option of `train` that holds its learning rate. Groups may be split, if each part keeps its
        'rate'. Before each step gankit sets 'lr' of every group and, where a group has them, 'betas'. All that a step
        remembers must be tensors or numbers in `optimizer.state[parameter]`, which checkpoints keep.
        """


class Guidance(nn.Module, Component, ABC):
    """A loss on generated images, added to G's loss with `weight`; checkpoints do not store its frozen networks."""

    weight: float

    @abstractmethod
    def loss(self, images: Tensor, cond: Condition, labels: Sequence[Label]) -> Tensor:
        """Unweighted loss of each image, [B]; images [B, C, H, W] in [-1, 1], before augmentation.

        Of `Label.fields`, labels have those that the conditioner accepts; see `needs_labels`."""


class Augmentation(nn.Module, Component, ABC):
    """Augmentation of all images that D sees. `__init__(self, image_shape: (C, H, W), *, options)`.

    Must be twice differentiable with respect to the images."""

    channels: ClassVar[tuple[int, ...]] = (
        1,
        3,
        4,
    )  # channel counts that it accepts; others are refused early

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor: ...

    def update(self, real_signs: float, nimg: int, batch: int) -> None:
        """Adapt the strength: `real_signs` is the mean sign of D's real logits over the `batch` images since the last
        call (4 steps)."""

    def scalars(self) -> dict[str, float]:
        """Numbers to log, such as an adaptive strength."""
        return {}


STOP = "stop"  # what a tracker returns to end the run


class Tracker(ABC):
    """Receiver of training events, such as a log file. `__init__(self, run_dir: Path, *, options)`.

    Called in the main process only, a few times a minute at most. A method that returns 'stop' ends the run: the step
    that follows is finished and a checkpoint written. A tracker that raises is left out for the rest of the run.
    """

    def on_tick(self, nimg: int, scalars: Mapping[str, float]) -> str | None:
        """Log scalars by name, averaged since the last tick, at `nimg` images."""
        return None

    def on_images(self, nimg: int, name: str, path: Path) -> str | None:
        """Log the sample grid that was written to `path` (PNG)."""
        return None

    def on_checkpoint(self, nimg: int, path: Path) -> str | None:
        """Note the checkpoint, a model folder, that was written to `path`; later ones may replace it."""
        return None

    def close(self) -> None: ...
