"""The feature network 'avatar-judge': a classifier of avatars' attributes, for the metric 'accuracy'.

Its features serve for distances that no discriminator was trained on.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gankit.interfaces import FeatureNetwork, GankitError, Tap, read_safetensors, sha256_of
from gankit_avatars import attributes as at

SIDE = 64
CHANNELS = (32, 64, 96, 128)
TRAINED_BY = (
    "benchmarks/attribute_classifier.py of gankit's repository, which lies there as .safetensors, too"
)

# question -> tags of the answers in the order of the logits; '' is none of the others, None what cannot be seen
ANSWERS: dict[str, list[str | None]] = {
    "class": list(at.TOPS),
    "hair_color": [*(f"{colour}_hair" for colour in at.HAIR_COLORS), None],
    "hat_color": [*(f"{colour}_headwear" for colour in at.FABRIC_COLORS), None],
    "skin": [f"{colour}_skin" for colour in at.SKIN_COLORS],
    "glasses": ["", "glasses", "sunglasses", "eyepatch"],
    "clothes_color": [*(f"{colour}_clothes" for colour in at.FABRIC_COLORS), None],
    "facial_hair": [tag or "" for _, tag, _ in at.FACIAL_HAIR.values()],
    "mouth": [tag for _, tag, _ in at.MOUTHS.values()],
}


class AvatarJudge(FeatureNetwork):
    """A small convolutional network that was trained on drawn avatars, with one classifier for each kind of attribute.

    Args:
        file: its weights, attribute_classifier.safetensors.
        pretrained: false keeps random weights and needs no file.
        seed: seed of the random weights.
    """

    conformance = {"pretrained": False}

    taps = [Tap(channels, 2 << level) for level, channels in enumerate(CHANNELS)]
    num_pooled, num_logits = 128, sum(map(len, ANSWERS.values()))
    input_multiple, input_side = 16, SIDE
    own_resize = f"area, to {SIDE} x {SIDE}"
    answers = ANSWERS

    def __init__(self, *, file: str | None = None, pretrained: bool = True, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers: list[nn.Module] = []
            for before, after in zip((3, *CHANNELS), CHANNELS):
                layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            layers += [nn.Conv2d(CHANNELS[-1], 64, 1), nn.Flatten(), nn.Linear(64 * 16, 128), nn.ReLU()]
            self.body = nn.Sequential(*layers)
            self.heads = nn.ModuleDict(
                {name: nn.Linear(128, len(answers)) for name, answers in ANSWERS.items()}
            )
        self.name = "avatar-judge" if pretrained else f"avatar-judge, random weights, seed {seed}"
        if pretrained:
            self._load(file)
        self.eval().requires_grad_(False)
        self._sha256 = sha256_of(self.state_dict())

    def _load(self, file: str | None) -> None:
        if file is None:
            raise GankitError(
                f"no weights for 'avatar-judge': name them with its option file; they come from {TRAINED_BY}"
            )
        path = Path(file).expanduser()
        state = {name: tensor.float() for name, tensor in read_safetensors(path).items()}
        own = {name: tensor.shape for name, tensor in self.state_dict().items() if tensor.ndim}
        if own != {name: tensor.shape for name, tensor in state.items()}:
            raise GankitError(
                f"{path} does not hold the weights of 'avatar-judge'; they come from {TRAINED_BY}"
            )
        self.load_state_dict(state, strict=False)  # without num_batches_tracked

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = []
        for number, layer in enumerate(self.body[: 3 * len(CHANNELS)]):
            images = layer(images)
            if number % 3 == 2:
                maps.append(images)
        return maps

    def pooled(self, images: Tensor) -> Tensor:
        if images.shape[2:] != (SIDE, SIDE):
            images = F.interpolate(images, (SIDE, SIDE), mode="area")
        return self.body(images)

    def logits(self, images: Tensor) -> Tensor:
        features = self.pooled(images)
        return torch.cat([head(features) for head in self.heads.values()], 1)

    def identity(self) -> dict[str, str]:
        return {"name": self.name, "sha256": self._sha256}
