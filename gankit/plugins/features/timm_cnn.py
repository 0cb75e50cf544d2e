"""Convolutional feature networks from timm; EfficientNet-Lite0 is that of Projected GAN (Sauer et al. 2021)."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from gankit.core.interfaces.networks import Tap
from gankit.errors import GankitError
from gankit.plugins.features.timm_models import TimmFeatures

PROBE_SIDE = 64


class TimmCNN(TimmFeatures):
    """A frozen convolutional network of timm; its taps are the ends of its stages.

    Args:
        model: name in timm, such as tf_efficientnet_lite0.in1k or resnet50.a1_in1k.
        pretrained: load the published weights; false keeps random ones (a discriminator on them diverges).
        taps: indices of the stages to read, fine to coarse; the last four when omitted.
        seed: seed of the random weights when pretrained is false.
        model_args: further arguments of timm.create_model.
    """

    conformance = {"model": "test_efficientnet.r160_in1k", "pretrained": False}

    def __init__(
        self,
        *,
        model: str = "tf_efficientnet_lite0.in1k",
        pretrained: bool = True,
        taps: list[int] | None = None,
        seed: int = 0,
        model_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(model, pretrained=pretrained, seed=seed, model_args=model_args or {})
        stages = list(self.network.feature_info)
        self.indices = list(range(len(stages)))[-4:] if taps is None else list(taps)
        wrong = [i for i in self.indices if not -len(stages) <= i < len(stages)]
        if wrong or not self.indices:
            raise GankitError(f"taps = {taps} of timm model {model!r}: valid are 0 to {len(stages) - 1}")
        self.taps = [Tap(stages[i]["num_chs"], stages[i]["reduction"]) for i in self.indices]
        self.input_multiple = stages[-1]["reduction"]
        fold_batch_norm(self.network, torch.zeros(1, 3, PROBE_SIDE, PROBE_SIDE))

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.network.forward_intermediates(
            self.normalise(images), indices=self.indices, intermediates_only=True, stop_early=True
        )


@torch.no_grad()
def fold_batch_norm(network: nn.Module, probe: Tensor) -> None:
    """Merge every BatchNorm of a frozen network into the convolution that feeds it.

    The pairs are read off a forward pass of `probe`. A third of the time of EfficientNet-Lite0 on a CPU goes to these
    normalisations, since in a network of depthwise convolutions all layers are bound by memory.
    """
    made_by: dict[int, Any] = {}
    alive: list[Tensor] = []  # an id is unique only as long as its tensor lives
    pairs: list[tuple[Any, Any]] = []

    def after_convolution(module: nn.Module, _: Any, output: Tensor) -> None:
        made_by[id(output)] = module
        alive.append(output)

    def before_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if id(inputs[0]) in made_by:
            pairs.append((made_by[id(inputs[0])], module))

    handles = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(after_convolution))
        elif isinstance(module, nn.BatchNorm2d):
            handles.append(module.register_forward_pre_hook(before_norm))
    network(probe)
    for handle in handles:
        handle.remove()

    uses = Counter(module for pair in pairs for module in pair)
    names = {module: name for name, module in network.named_modules()}
    for convolution, norm in pairs:
        if uses[convolution] == uses[norm] == 1:  # shared layers keep their own statistics
            convolution.weight, convolution.bias = fuse_conv_bn_weights(
                convolution.weight,
                convolution.bias,
                norm.running_mean,
                norm.running_var,
                norm.eps,
                norm.weight,
                norm.bias,
            )
            network.set_submodule(
                names[norm], getattr(norm, "act", nn.Identity())
            )  # timm's norms hold the activation
