"""Attribute classifier for avatars: a small CNN that predicts attributes of 64 x 64 images, real or generated.

Trained on avatars of seed 101, tested on avatars of seed 202; the test accuracies are in the metadata of
`attribute_classifier.safetensors`. `python benchmarks/attribute_classifier.py` trains it again (some minutes on one CPU
core).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gankit_avatars import attributes as at
from gankit_avatars.attributes import Avatar
from gankit_avatars.source import AvatarSource

WEIGHTS = Path(__file__).with_suffix(".safetensors")
HIDDEN = "hidden"
HEADS = {
    "class": list(at.TOPS),
    "hair_color": [*at.HAIR_COLORS, HIDDEN],
    "hat_color": [*at.FABRIC_COLORS, HIDDEN],
    "skin": list(at.SKIN_COLORS),
    "glasses": ["none", "glasses", "sunglasses", "eyepatch"],
    "clothes_color": [*at.FABRIC_COLORS, HIDDEN],
    "facial_hair": list(at.FACIAL_HAIR),
    "mouth": list(at.MOUTHS),
}


def truth(avatar: Avatar) -> dict[str, str]:
    """Attribute -> true class of an avatar, or HIDDEN if the attribute cannot be seen."""
    return {
        "class": avatar.top,
        "hair_color": avatar.hair_color or HIDDEN,
        "hat_color": avatar.hat_color or HIDDEN,
        "skin": avatar.skin,
        "glasses": "glasses" if avatar.accessory == "round_glasses" else avatar.accessory,
        "clothes_color": avatar.clothes_color or HIDDEN,
        "facial_hair": avatar.facial_hair,
        "mouth": avatar.mouth,
    }


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((3, 32), (32, 64), (64, 96), (96, 128)):
            layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.body = nn.Sequential(
            *layers, nn.Conv2d(128, 64, 1), nn.Flatten(), nn.Linear(64 * 16, 128), nn.ReLU()
        )
        self.heads = nn.ModuleDict({name: nn.Linear(128, len(values)) for name, values in HEADS.items()})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images [B, 3, 64, 64] in [-1, 1] -> logits [B, classes] by attribute."""
        features = self.body(images)
        return {name: head(features) for name, head in self.heads.items()}


@cache
def _load() -> Classifier:
    with safe_open(WEIGHTS, "pt") as file:
        state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    net = Classifier()
    net.load_state_dict(state, strict=False)  # without num_batches_tracked
    return net.eval()


def _tensor(images: Sequence[Image.Image] | np.ndarray) -> Tensor:
    """Resize pictures of any size to a tensor uint8 [N, 3, 64, 64]."""
    pictures = (i if isinstance(i, Image.Image) else Image.fromarray(np.asarray(i)) for i in images)
    sized = (p.convert("RGB").resize((64, 64), Image.Resampling.BOX) for p in pictures)
    return torch.from_numpy(np.stack([np.asarray(p) for p in sized])).permute(0, 3, 1, 2)


@torch.inference_mode()
def judge(images: Sequence[Image.Image] | np.ndarray) -> dict[str, list[str]]:
    """Predict attributes of images (PIL, or uint8 [N, H, W, 3]): attribute -> one class name for each image."""
    net = _load()
    answers: dict[str, list[str]] = {name: [] for name in HEADS}
    for batch in _tensor(images).split(256):
        for name, logits in net(batch.float() / 127.5 - 1).items():
            answers[name] += [HEADS[name][i] for i in logits.argmax(1).tolist()]
    return answers


@torch.inference_mode()
def features(images: Sequence[Image.Image] | np.ndarray) -> np.ndarray:
    """Features of the classifier's last hidden layer, float32 [N, 128], for distances between sets of pictures."""
    body = _load().body
    return np.concatenate([body(batch.float() / 127.5 - 1).numpy() for batch in _tensor(images).split(256)])


def agreement(images: Sequence[Image.Image] | np.ndarray, wanted: Sequence[Avatar]) -> dict[str, float]:
    """Attribute -> share of images predicted as wanted, among those whose wanted avatar shows the attribute."""
    answers, right = judge(images), [truth(avatar) for avatar in wanted]
    shares = {}
    for name in HEADS:
        pairs = [(a, t[name]) for a, t in zip(answers[name], right) if t[name] != HIDDEN]
        shares[name] = sum(a == t for a, t in pairs) / max(len(pairs), 1)
    return shares


def _augment(images: Tensor) -> Tensor:
    """Augment images by shifts, blur, noise and gain, as generated images differ without a change of attributes."""
    n = len(images)
    x = F.pad(images, (3, 3, 3, 3), mode="replicate")
    dx, dy = torch.randint(0, 7, (2,)).tolist()
    x = x[..., dy : dy + 64, dx : dx + 64]
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    x = torch.lerp(x, blurred, torch.rand(n, 1, 1, 1))
    gain, shift = 1 + 0.05 * torch.randn(n, 1, 1, 1), 0.04 * torch.randn(n, 3, 1, 1)
    return x * gain + shift + 0.08 * torch.rand(n, 1, 1, 1) * torch.randn_like(x)


def _data(count: int, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    source = AvatarSource("", count=count, seed=seed)
    images = torch.from_numpy(np.stack([np.asarray(source.image(i)) for i in range(count)])).permute(
        0, 3, 1, 2
    )
    rights = [truth(source.avatar(i)) for i in range(count)]
    return images, {
        name: torch.tensor([values.index(right[name]) for right in rights]) for name, values in HEADS.items()
    }


def train(count: int = 12000, epochs: int = 8, batch: int = 100) -> dict[str, float]:
    torch.manual_seed(0)
    images, targets = _data(count, seed=101)
    net = Classifier().train().to(memory_format=torch.channels_last)
    steps = epochs * (count // batch)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for epoch in range(epochs):
        started, total = time.perf_counter(), 0.0
        for rows in torch.randperm(count)[: count // batch * batch].split(batch):
            x = _augment(images[rows].float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
            loss = sum(F.cross_entropy(logits, targets[name][rows]) for name, logits in net(x).items())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        seconds = time.perf_counter() - started
        print(f"epoch {epoch}: loss {total * batch / count:.3f}, {seconds:.0f} s", flush=True)

    state = {name: tensor.half().contiguous() for name, tensor in net.state_dict().items() if tensor.ndim}
    save_file(state, WEIGHTS)
    _load.cache_clear()
    held_out = AvatarSource("", count=2000, seed=202)
    pictures = [held_out.image(i) for i in range(len(held_out))]
    answers, rights = judge(pictures), [truth(held_out.avatar(i)) for i in range(len(held_out))]
    accuracy = {
        name: sum(a == right[name] for a, right in zip(answers[name], rights)) / len(rights) for name in HEADS
    }
    note = {
        "held_out_accuracy": json.dumps(accuracy),
        "trained_on": f"{count} avatars, seed 101",
        "heads": json.dumps(HEADS),
    }
    save_file(state, WEIGHTS, metadata=note)
    return accuracy


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(train(), indent=2))
