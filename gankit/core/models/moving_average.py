"""Moving averages of weights: one class, whose rule of decay says over how long it averages."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gankit.core.models.stored_state import frozen_networks, load_stored, stored_buffers, stored_parameters
from gankit.core.models.stored_state import stored_state as stored

if TYPE_CHECKING:
    from gankit.core.config.recipe import TrainOptions

# (images since averaging began, the step included; images of the step) -> factor in [0, 1] on the average so far
Decay = Callable[[int, int], float]


def half_life(train: TrainOptions) -> Decay:
    """The half-life `train.ema_kimg`, at most `train.ema_rampup` of the images before the step (StyleGAN2-ADA).

    The options are read in every step, as they may follow a schedule."""

    def decay(images: int, batch: int) -> float:
        half = train.ema_kimg * 1000
        if train.ema_rampup is not None:
            half = min(half, train.ema_rampup * (images - batch))
        return 0.5 ** (batch / max(half, 1e-8))

    return decay


class MovingAverage:
    """The moving average of the weights of networks. Buffers are copied; frozen networks inside are shared.

    Args:
        networks: the networks by name, which are followed; averages start as copies, in eval mode, without gradients.
        decay: the rule of decay.

    Attributes:
        networks: the averages by name.
        start: images at which averaging began.
    """

    def __init__(self, networks: Mapping[str, nn.Module], decay: Decay) -> None:
        self.start, self.decay, self.followed = 0, decay, dict(networks)
        self.networks: dict[str, nn.Module] = {}
        for name, network in networks.items():
            shared = {id(frozen): frozen for frozen in frozen_networks(network).values()}
            self.networks[name] = copy.deepcopy(network, shared).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, nimg: int, batch: int) -> None:
        """Update the averages after a step of `batch` images, `nimg` being the count of images after it."""
        share = 1 - self.decay(nimg - self.start, batch)
        for name, average in self.networks.items():
            network = self.followed[name]
            torch._foreach_lerp_((*stored_parameters(average),), (*stored_parameters(network),), share)
            for mine, theirs in zip(stored_buffers(average), stored_buffers(network)):
                mine.copy_(theirs)

    def state_dict(self) -> dict[str, Any]:
        """{'start': images, 'networks': {name: tensors}}."""
        return {"start": self.start, "networks": {name: stored(m) for name, m in self.networks.items()}}

    def load_state_dict(self, state: Mapping[str, Any], origin: str = "the state") -> None:
        """Load what `state_dict` returned. Raises GankitError, naming `origin`, if names or shapes differ."""
        self.start = state["start"]
        for name, network in self.networks.items():
            load_stored(network, state["networks"][name], f"{origin}, average of the {name},")
