"""The contracts of generators, discriminators and frozen feature networks.

Keyword-only constructor parameters of an implementation are its options (see `gankit.hookspecs`); positional ones are
given by gankit. Images are NCHW float tensors in [-1, 1]; at the edges (files, sources) they are uint8 arrays HWC.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from gankit.core.interfaces.conditions import Cond, CondSpec

ImageShape = tuple[int, int, int]  # (C, H, W)

SPATIAL_NUMBERS = 2023


@dataclass(frozen=True)
class Composition:
    """What a plugin is to work with in a recipe, known before any network is built.

    Args:
        image_shape: (C, H, W).
        cond: sizes of the condition.
        accepts: which of 'cls', 'tags', 'text' the conditioner reads.
        parts: section of the recipe -> {'name': ..., option: value}, of regularizers and guidance name -> options.
    """

    image_shape: ImageShape
    cond: CondSpec
    accepts: frozenset[str]
    parts: Mapping[str, Any]

    @property
    def conditioner(self) -> str:
        """How to call it in messages."""
        return f"conditioner {self.parts['conditioner']['name']!r}"


class Component:
    """A network or another part of a recipe, which may be unable to work with others."""

    @classmethod
    def incompatibility(cls, options: Mapping[str, Any], composition: Composition) -> tuple[str, str] | None:
        """The part that this plugin, with these options, cannot work with, and why: ("conditioner 'none'", "...").

        Asked before any network is built, for mistakes that would show late or not at all; None if all fits."""
        return None


class Generator(nn.Module, Component):
    """`__init__(self, image_shape: (C, H, W), cond: CondSpec, *, options)`.

    `mapping` and `synthesis` are methods or submodules with these signatures::

        mapping(z [B, z_dim], cond=None, *, truncation_psi=1, truncation_cutoff=None, update_emas=False)
            -> ws [B, num_ws, w_dim]; truncation follows the network's family
        synthesis(ws, cond=None, *, noise_mode='random'|'const'|'none')
            -> images [B, C, H, W] in [-1, 1]

    A network without a mapping network returns z itself as ws [B, 1, z_dim]. A synthesis network that keeps running
    statistics of its own takes `update_emas=False`, too, and says so by `synthesis_emas`. One that sets `follows_ws`
    takes ws in bfloat16 as well: its feature maps are bfloat16 then, its images float32 still.
    """

    batch_statistics: ClassVar[str] = ""  # names the layers that look across the batch in training mode
    synthesis_emas: ClassVar[bool] = False
    follows_ws: ClassVar[bool] = False  # maps are bfloat16 where ws is; else torch.autocast makes them so
    z_dim: int
    w_dim: int
    num_ws: int
    image_shape: ImageShape
    mapping: Callable[..., Tensor]
    synthesis: Callable[..., Tensor]

    def renamed(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Tensors of a relative, such as one of another size, under the names that they have in this network."""
        return tensors

    def fade_in(self, share: float) -> bool:
        """Let what the finest resolution adds count for a share in [0, 1], 1 being the network as it is (progressive
        growing, Karras et al. 2018, section 2); False if the architecture has no such thing."""
        return False

    def forward(
        self,
        z: Tensor,
        cond: Cond = None,
        *,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        update_emas: bool = False,
        noise_mode: str = "random",
    ) -> Tensor:
        ws = self.mapping(
            z,
            cond,
            truncation_psi=truncation_psi,
            truncation_cutoff=truncation_cutoff,
            update_emas=update_emas,
        )
        emas = {"update_emas": update_emas} if self.synthesis_emas else {}
        return self.synthesis(ws, cond, noise_mode=noise_mode, **emas)


class Discriminator(nn.Module, Component, ABC):
    """`__init__(self, image_shape: (C, H, W), cond: CondSpec, *, options)`.

    Pretrained frozen networks inside are `FeatureNetwork`s; gankit leaves their tensors out of checkpoints.
    """

    batch_statistics: ClassVar[str] = (
        ""  # names the layers that look across the batch, e.g. "minibatch stddev"
    )

    def forward(self, images: Tensor, cond: Cond = None) -> list[Tensor]:
        """Logits, one tensor [B, N_i] for each feature network (a single one for a plain discriminator)."""
        return self.score(self.features(images), cond)

    def fade_in(self, share: float) -> bool:
        """Let what is seen at the finest resolution only count for a share in [0, 1], as `Generator.fade_in`."""
        return False

    @abstractmethod
    def features(self, images: Tensor) -> Any:
        """The part that does not see the condition, so that several conditions can be scored at its cost once."""

    @abstractmethod
    def score(self, features: Any, cond: Cond = None) -> list[Tensor]:
        """Logits [B, N_i] of what `features` returned, under a condition."""


@dataclass(frozen=True)
class Tap:
    """A feature map of a `FeatureNetwork`: [B, channels, H/stride, W/stride]."""

    channels: int
    stride: int


class FeatureNetwork(nn.Module, ABC):
    """A frozen network: always in eval mode, no gradients on its weights, gradients to its input.

    `forward` takes RGB images in [-1, 1] *already at the size* at which they shall enter, and applies its own mean and
    std. It is referenced by `identity()` in checkpoints, never stored.
    """

    taps: list[Tap]
    num_pooled: int  # width of `pooled`
    num_logits: int  # width of `logits`; 0 where the network has no classifier
    input_multiple: int = 1  # sides of the input must be multiples of this
    input_side: int | None = None  # of the square images that it was trained on, where that is known
    own_resize: str | None = (
        None  # the filter by which all but `forward` bring images of any size to its input, if so
    )
    answers: Mapping[
        str, Sequence[str | None]
    ] = {}  # what its logits decide, for the metric 'accuracy', see there

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps, one for each of `taps`, fine to coarse (a ViT's are all of one size)."""

    @abstractmethod
    def pooled(self, images: Tensor) -> Tensor:
        """[B, num_pooled] descriptor."""

    def logits(self, images: Tensor) -> Tensor:
        """[B, num_logits] classifier output."""
        raise NotImplementedError(f"{type(self).__name__} has no classifier")

    def spatial(self, images: Tensor) -> Tensor:
        """[B, N] descriptor of what is where: the first channels of the map whose stride is nearest to 16, as many as
        give about as many numbers as the 2023 of spatial FID (Nash et al., Generating Images with Sparse
        Representations, 2021)."""
        maps = self(images)
        chosen = maps[min(range(len(maps)), key=lambda i: abs(self.taps[i].stride - 16))]
        return chosen[:, : max(1, SPATIAL_NUMBERS // chosen[0, 0].numel())].flatten(1)

    def read(self, images: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        """Several of 'pooled', 'spatial' and 'logits' at once; override it where they share work."""
        return {name: getattr(self, name)(images) for name in outputs}

    def identity(self) -> dict[str, str]:
        """{'name': ..., 'sha256': ...} over the fp32 bytes of the tensors in name order."""
        from gankit.core.runtime.tensor_files import sha256_of

        return {"name": self.name, "sha256": sha256_of(self.state_dict())}

    name: str

    def train(self, mode: bool = True) -> FeatureNetwork:
        return super().train(False)
