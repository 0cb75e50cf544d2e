"""Base class of the timm feature networks: construction, weights, input range, pooled and logit outputs."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn

from gankit.core.interfaces.networks import FeatureNetwork
from gankit.core.models.pretrained import find_state_dict, shapes_only
from gankit.core.runtime.tensor_files import sha256_of
from gankit.errors import GankitError, unknown


class TimmFeatures(FeatureNetwork):
    """A frozen timm model, `self.network`, with images in [-1, 1] brought to its own mean and std."""

    network: Any  # timm's classes share an interface but no base class
    scale: Tensor
    shift: Tensor

    def __init__(self, model: str, *, pretrained: bool, seed: int, model_args: dict[str, Any]) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # building draws weights even if they are replaced at once
            torch.manual_seed(seed)
            self.network = _create(model, model_args)
        config = self.network.pretrained_cfg
        self.name = f"{model}, random weights, seed {seed}"
        if pretrained:
            self.name = _hub_id(model, config)
            if not shapes_only():
                _load(self.network, self.name)
        self.network.eval().requires_grad_(False)
        self._sha256 = sha256_of(self.network.state_dict())
        self.input_side = config["input_size"][-1]
        self.num_pooled = self.network.head_hidden_size
        self.num_logits = self.network.num_classes
        mean, std = torch.tensor(config["mean"]), torch.tensor(config["std"])
        # the network itself expects images in [-1, 1]
        self._is_centred = all(value == 0.5 for value in (*config["mean"], *config["std"]))
        self.register_buffer("scale", (0.5 / std).view(3, 1, 1), persistent=False)
        self.register_buffer("shift", ((0.5 - mean) / std).view(3, 1, 1), persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        return images if self._is_centred else torch.addcmul(self.shift, images, self.scale)

    def pooled(self, images: Tensor) -> Tensor:
        features = self.network.forward_features(self.normalise(images))
        return self.network.forward_head(features, pre_logits=True)

    def logits(self, images: Tensor) -> Tensor:
        return self.network(self.normalise(images)) if self.num_logits else super().logits(images)


def _create(model: str, model_args: dict[str, Any]) -> nn.Module:
    if not timm.is_model(model.split(".")[0]):
        raise GankitError(unknown("timm model", model, timm.list_models(pretrained=True)))
    try:
        return timm.create_model(model, pretrained=False, **model_args)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise GankitError(f"timm cannot build {model!r} with model_args {model_args}: {error}") from error


def _hub_id(model: str, config: dict[str, Any]) -> str:
    hub_id = config.get("hf_hub_id") or f"timm/{model}"
    return hub_id + model if hub_id.endswith("/") else hub_id


def _load(network: nn.Module, hub_id: str) -> None:
    try:
        network.load_state_dict(find_state_dict(hub_id))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise GankitError(
            f"the weights found for {hub_id!r} do not fit its timm model ({reason}); check the option model_args and "
            "what GANKIT_WEIGHTS offers"
        ) from error
