"""Base classes of generators, discriminators and frozen feature networks.

Keyword-only constructor parameters of an implementation are its options (see `gankit.hookspecs`); positional ones are
given by gankit. Images are float tensors [B, C, H, W] in [-1, 1]; in files and sources, uint8 arrays [H, W, C].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from gankit.core.interfaces.composition import Component, ImageShape
from gankit.core.interfaces.conditions import Cond

SPATIAL_NUMBERS = 2023


class Generator(nn.Module, Component):
    """`__init__(self, image_shape: (C, H, W), cond: CondSpec, *, options)`.

    `mapping` and `synthesis` are methods or submodules with these signatures::

        mapping(z [B, z_dim], cond=None, *, truncation_psi=1, truncation_cutoff=None, update_emas=False)
            -> ws [B, num_ws, w_dim]; truncation follows the network's family
        synthesis(ws, cond=None, *, noise_mode='random'|'const'|'none')
            -> images [B, C, H, W] in [-1, 1]

    A network without a mapping network returns z itself as ws [B, 1, z_dim]. A synthesis network with running
    statistics also takes `update_emas=False` and sets `synthesis_emas`. One that sets `follows_ws` also takes ws in
    bfloat16: its feature maps are then bfloat16, its images still float32.
    """

    batch_statistics: ClassVar[str] = ""  # name of layers with statistics over the batch in training mode
    synthesis_emas: ClassVar[bool] = False
    follows_ws: ClassVar[bool] = False  # feature maps get the dtype of ws; else bf16 needs torch.autocast
    z_dim: int
    w_dim: int
    num_ws: int
    image_shape: ImageShape
    mapping: Callable[..., Tensor]
    synthesis: Callable[..., Tensor]

    def renamed(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """State dict of a related network, such as one of another size, with the tensor names of this network."""
        return tensors

    def fade_in(self, share: float) -> bool:
        """Set the fade-in weight alpha in [0, 1] of the finest resolution; 1 is the full network (progressive growing,
        Karras et al. 2018, section 2). Returns False if the architecture has no fade-in."""
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

    Pretrained frozen networks inside are `FrozenNetwork`s; gankit leaves their tensors out of checkpoints.
    """

    batch_statistics: ClassVar[str] = (
        ""  # name of layers with statistics over the batch, e.g. "minibatch stddev"
    )

    def forward(self, images: Tensor, cond: Cond = None) -> list[Tensor]:
        """Logits, one tensor [B, N_i] for each feature network (a single one for a plain discriminator)."""
        return self.score(self.features(images), cond)

    def fade_in(self, share: float) -> bool:
        """Set the fade-in weight of the finest resolution, as `Generator.fade_in`."""
        return False

    @abstractmethod
    def features(self, images: Tensor) -> Any:
        """Compute the part of D that does not depend on the condition; `score` may use it for several conditions."""

    @abstractmethod
    def score(self, features: Any, cond: Cond = None) -> list[Tensor]:
        """Logits [B, N_i] for the result of `features` and a condition."""


@dataclass(frozen=True)
class Tap:
    """A feature map of a `FeatureNetwork`: [B, channels, H/stride, W/stride]."""

    channels: int
    stride: int


class FrozenNetwork(nn.Module):
    """A pretrained network that is not trained: always in eval mode, without gradients on its weights.

    It may lie anywhere in G, D, a conditioner, a regularizer or a guidance. Checkpoints and models refer to it by
    `identity()` and do not store it; moving averages share it; gankit turns the gradients of its weights off.
    """

    name: str
    _sha256: str | None = None  # of the weights; set by a constructor whose later calls change them

    def identity(self) -> dict[str, str]:
        """{'name': ..., 'sha256': ...}; the hash is that of `sha256_of` over the state dict at the first call."""
        from gankit.core.runtime.tensor_files import sha256_of

        if self._sha256 is None:
            self._sha256 = sha256_of(self.state_dict())
        return {"name": self.name, "sha256": self._sha256}

    def train(self, mode: bool = True) -> FrozenNetwork:
        return super().train(False)


class Pretrained(FrozenNetwork):
    """A network of another library as a frozen one.

    Args:
        name: name of its weights, for messages.
        network: the network, as attribute `network`.
    """

    def __init__(self, name: str, network: nn.Module) -> None:
        super().__init__()
        self.name, self.network = name, network
        self.eval().requires_grad_(False)


class FeatureNetwork(FrozenNetwork, ABC):
    """A frozen network, with gradients to its input.

    `forward` takes RGB images in [-1, 1] *already at the network's input size*, and applies its own mean and std.
    """

    taps: list[Tap]
    num_pooled: int  # width of `pooled`
    num_logits: int  # width of `logits`; 0 where the network has no classifier
    input_multiple: int = 1  # sides of the input must be multiples of this
    input_side: int | None = None  # side of the square images that it was trained on; None if not known
    own_resize: str | None = (
        None  # filter with which all methods but `forward` resize images of any size; None: they do not
    )
    answers: Mapping[
        str, Sequence[str | None]
    ] = {}  # meaning of the logits, for the metric 'accuracy'; its docstring has the format

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps, one for each of `taps`, from fine to coarse (all of one size in a ViT)."""

    @abstractmethod
    def pooled(self, images: Tensor) -> Tensor:
        """Pooled features [B, num_pooled]."""

    def logits(self, images: Tensor) -> Tensor:
        """Classifier logits [B, num_logits]. Raises NotImplementedError if there is no classifier."""
        raise NotImplementedError(f"{type(self).__name__} has no classifier")

    def spatial(self, images: Tensor) -> Tensor:
        """Spatial features [B, N]: the first channels of the feature map whose stride is nearest to 16, flattened.

        The number of channels is the largest with N <= 2023, the size in spatial FID (Nash et al., Generating Images
        with Sparse Representations, 2021), and at least 1."""
        maps = self(images)
        chosen = maps[min(range(len(maps)), key=lambda i: abs(self.taps[i].stride - 16))]
        return chosen[:, : max(1, SPATIAL_NUMBERS // chosen[0, 0].numel())].flatten(1)

    def read(self, images: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        """Name -> tensor for several of 'pooled', 'spatial', 'logits'; override it if they share computation."""
        return {name: getattr(self, name)(images) for name in outputs}
