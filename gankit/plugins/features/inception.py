"""Inception-v3 as used by FID, edition 2015-12-05 (Szegedy et al., CVPR 2016).

It differs from other editions in its average pooling, which leaves the border out, and in a maximum in place of an
average in the last block.
"""

from __future__ import annotations

import hashlib
import os
import urllib.request
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gankit.core.interfaces.networks import FeatureNetwork, Tap
from gankit.core.models.pretrained import ENV_FOLDER
from gankit.core.runtime.tensor_files import sha256_of
from gankit.errors import GankitError

FILES = (
    "pt_inception-2015-12-05-6726825d.pth",
    "weights-inception-2015-12-05-6726825d.pth",
)  # the same bytes
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
URL = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/" + FILES[0]
SIDE = 299
CLASSES = 1008
SPATIAL_CHANNELS = 7
TENSORFLOW = "bilinear of TensorFlow 1, not antialiased, stretched to 299 x 299"
ANTIALIASED = "bicubic, antialiased, clamped, float32, stretched to 299 x 299"


class Inception(FeatureNetwork):
    """Inception-2015-12-05, with the weights of torch-fidelity and pytorch-fid, converted from those that TensorFlow's
    FID and NVIDIA's inception-2015-12-05.pt have.

    `pooled` [B, 2048] is the feature of FID, `spatial` [B, 2023] that of spatial FID, `logits` [B, 1008] those of
    Inception Score: without the bias, as in the other implementations. All three resize images by themselves;
    `forward`, for discriminators, takes them at their size and resizes its maps, which unpadded convolutions make
    smaller, to H / stride.

    Args:
        pretrained: load the published weights; false keeps random ones, for rFID.
        file: path of the weights; null searches the folder GANKIT_WEIGHTS and torch's cache, then downloads them.
        resize: tensorflow as published FIDs do, or antialiased (clean-fid).
        seed: seed of the random weights when pretrained is false.
    """

    conformance = {"pretrained": False}

    taps = [Tap(64, 4), Tap(288, 8), Tap(768, 16)]
    num_pooled, num_logits = 2048, CLASSES
    input_multiple, input_side = 16, SIDE

    def __init__(
        self,
        *,
        pretrained: bool = True,
        file: str | None = None,
        resize: Literal["tensorflow", "antialiased"] = "tensorflow",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.own_resize = TENSORFLOW if resize == "tensorflow" else ANTIALIASED
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._build()
        self.name = "inception-2015-12-05" if pretrained else f"inception, random weights, seed {seed}"
        if pretrained:
            self._load(find_weights(file))
        self.eval().requires_grad_(False)
        self._sha256 = sha256_of(self.state_dict())

    def _build(self) -> None:
        """Layers under the names of the published state dict."""
        self.Conv2d_1a_3x3 = Layer(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Layer(32, 32, 3)
        self.Conv2d_2b_3x3 = Layer(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Layer(64, 80, 1)
        self.Conv2d_4a_3x3 = Layer(80, 192, 3)
        self.Mixed_5b = BlockA(192, 32)
        self.Mixed_5c = BlockA(256, 64)
        self.Mixed_5d = BlockA(288, 64)
        self.Mixed_6a = ReductionA(288)
        self.Mixed_6b = BlockB(768, 128)
        self.Mixed_6c = BlockB(768, 160)
        self.Mixed_6d = BlockB(768, 160)
        self.Mixed_6e = BlockB(768, 192)
        self.Mixed_7a = ReductionB(768)
        self.Mixed_7b = BlockC(1280, average=True)
        self.Mixed_7c = BlockC(2048, average=False)
        self.fc = nn.Linear(2048, CLASSES)

    def _load(self, path: Path) -> None:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.load_state_dict(
                {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}, strict=False
            )
            lacking = {k for k in self.state_dict() if not k.endswith("num_batches_tracked")} - state.keys()
        except (
            RuntimeError,
            UnpicklingError,
            OSError,
            AttributeError,
            TypeError,
            zipfile.BadZipFile,
        ) as error:
            reason = " ".join(str(error).split())[:200]
            raise GankitError(
                f"{path} does not hold the weights of Inception-2015-12-05 ({reason})"
            ) from None
        if lacking:
            raise GankitError(
                f"{path} does not hold the weights of Inception-2015-12-05: {sorted(lacking)[0]} is missing"
            )

    # ------------------------------------------------------------------------------------------------ outputs

    def pooled(self, images: Tensor) -> Tensor:
        return self.read(images, ["pooled"])["pooled"]

    def spatial(self, images: Tensor) -> Tensor:
        return self.read(images, ["spatial"])["spatial"]

    def logits(self, images: Tensor) -> Tensor:
        return self.read(images, ["logits"])["logits"]

    def read(self, images: Tensor, outputs: object) -> dict[str, Tensor]:
        wanted = set(outputs)  # type: ignore[call-overload]
        found = {}
        _, x = self._stem(self._enter(images))
        x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))
        if "spatial" in wanted:
            found["spatial"] = self.Mixed_6d.branch1x1(x)[:, :SPATIAL_CHANNELS].flatten(1)
        if wanted - {"spatial"}:
            x = self.Mixed_7a(self.Mixed_6e(self.Mixed_6d(x)))
            pooled = self.Mixed_7c(self.Mixed_7b(x)).mean((2, 3))
            found["pooled"] = pooled
            found["logits"] = pooled @ self.fc.weight.T if "logits" in wanted else pooled
        return {name: found[name] for name in outputs}  # type: ignore[attr-defined]

    def forward(self, images: Tensor) -> list[Tensor]:
        x = (images * 127.5 - 0.5) / 128
        quarter, eighth = self._stem(x)
        sixteenth = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(eighth)))))
        maps = [quarter, eighth, sixteenth]
        sizes = [(images.shape[2] // tap.stride, images.shape[3] // tap.stride) for tap in self.taps]
        return [F.interpolate(m, size, mode="bilinear", align_corners=False) for m, size in zip(maps, sizes)]

    def _enter(self, images: Tensor) -> Tensor:
        """Resize images [B, 3, H, W] in [-1, 1] -> [B, 3, 299, 299], levels 0 to 255 as (level - 128) / 128."""
        if self.own_resize == TENSORFLOW:
            levels = resize_like_tensorflow(images * 127.5 + 127.5, SIDE)
        else:
            small = F.interpolate(images, (SIDE, SIDE), mode="bicubic", antialias=True, align_corners=False)
            levels = small.clamp(-1, 1) * 127.5 + 127.5
        return (levels - 128) / 128

    def _stem(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.max_pool2d(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))), 3, 2)
        y = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, 2)
        return x, self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(y)))


def resize_like_tensorflow(images: Tensor, side: int) -> Tensor:
    """Resize [B, C, H, W] -> [B, C, side, side] by TensorFlow 1's bilinear filter: sample i lies at i times the
    ratio of the sizes, not in the middle of its pixel, and there is no antialiasing."""
    for axis in (2, 3):
        length = images.shape[axis]
        place = torch.arange(side, dtype=torch.float32, device=images.device) * (length / side)
        low = place.long().clamp(max=length - 1)
        high = (low + 1).clamp(max=length - 1)
        share = (place - low).to(images.dtype).view(-1, *[1] * (3 - axis))
        images = torch.lerp(images.index_select(axis, low), images.index_select(axis, high), share)
    return images


# --------------------------------------------------------------------------------------------------- layers


class Layer(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(
        self,
        before: int,
        after: int,
        kernel: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel, stride, padding, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")  # keeps the scale of random networks
        self.bn = nn.BatchNorm2d(after, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


class BlockA(nn.Module):
    """35 x 35: branches of 1x1, 5x5 and two 3x3 convolutions, and a pool."""

    def __init__(self, before: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = Layer(before, 64, 1)
        self.branch5x5_1 = Layer(before, 48, 1)
        self.branch5x5_2 = Layer(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = Layer(before, 64, 1)
        self.branch3x3dbl_2 = Layer(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Layer(96, 96, 3, padding=1)
        self.branch_pool = Layer(before, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(_average(x))], 1)


class ReductionA(nn.Module):
    """35 x 35 -> 17 x 17."""

    def __init__(self, before: int) -> None:
        super().__init__()
        self.branch3x3 = Layer(before, 384, 3, stride=2)
        self.branch3x3dbl_1 = Layer(before, 64, 1)
        self.branch3x3dbl_2 = Layer(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Layer(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, 2)], 1)


class BlockB(nn.Module):
    """17 x 17: 7x7 convolutions as pairs of 1x7 and 7x1."""

    def __init__(self, before: int, inner: int) -> None:
        super().__init__()
        wide, high = {"kernel": (1, 7), "padding": (0, 3)}, {"kernel": (7, 1), "padding": (3, 0)}
        self.branch1x1 = Layer(before, 192, 1)
        self.branch7x7_1 = Layer(before, inner, 1)
        self.branch7x7_2 = Layer(inner, inner, **wide)  # type: ignore[arg-type]
        self.branch7x7_3 = Layer(inner, 192, **high)  # type: ignore[arg-type]
        self.branch7x7dbl_1 = Layer(before, inner, 1)
        self.branch7x7dbl_2 = Layer(inner, inner, **high)  # type: ignore[arg-type]
        self.branch7x7dbl_3 = Layer(inner, inner, **wide)  # type: ignore[arg-type]
        self.branch7x7dbl_4 = Layer(inner, inner, **high)  # type: ignore[arg-type]
        self.branch7x7dbl_5 = Layer(inner, 192, **wide)  # type: ignore[arg-type]
        self.branch_pool = Layer(before, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(_average(x))], 1)


class ReductionB(nn.Module):
    """17 x 17 -> 8 x 8."""

    def __init__(self, before: int) -> None:
        super().__init__()
        self.branch3x3_1 = Layer(before, 192, 1)
        self.branch3x3_2 = Layer(192, 320, 3, stride=2)
        self.branch7x7x3_1 = Layer(before, 192, 1)
        self.branch7x7x3_2 = Layer(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = Layer(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = Layer(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_2(self.branch7x7x3_1(x))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(seven))
        return torch.cat([three, seven, F.max_pool2d(x, 3, 2)], 1)


class BlockC(nn.Module):
    """8 x 8: branches that fork into 1x3 and 3x1."""

    def __init__(self, before: int, *, average: bool) -> None:
        super().__init__()
        wide, high = {"kernel": (1, 3), "padding": (0, 1)}, {"kernel": (3, 1), "padding": (1, 0)}
        self.average = average
        self.branch1x1 = Layer(before, 320, 1)
        self.branch3x3_1 = Layer(before, 384, 1)
        self.branch3x3_2a = Layer(384, 384, **wide)  # type: ignore[arg-type]
        self.branch3x3_2b = Layer(384, 384, **high)  # type: ignore[arg-type]
        self.branch3x3dbl_1 = Layer(before, 448, 1)
        self.branch3x3dbl_2 = Layer(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = Layer(384, 384, **wide)  # type: ignore[arg-type]
        self.branch3x3dbl_3b = Layer(384, 384, **high)  # type: ignore[arg-type]
        self.branch_pool = Layer(before, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pool = _average(x) if self.average else F.max_pool2d(x, 3, 1, 1)
        branches = [self.branch1x1(x), self.branch3x3_2a(three), self.branch3x3_2b(three)]
        branches += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double), self.branch_pool(pool)]
        return torch.cat(branches, 1)


# --------------------------------------------------------------------------------------------------- weights


def find_weights(file: str | None) -> Path:
    """Path of the weights file, downloaded if it is nowhere. Raises GankitError that names the file and where to put
    it."""
    if file is not None:
        path = Path(file).expanduser()
        if not path.is_file():
            raise GankitError(f"file = {file!r} of feature 'inception': there is no such file")
        return path  # whatever its hash: the user has chosen it
    folders = [Path(torch.hub.get_dir()) / "checkpoints"]
    if os.environ.get(ENV_FOLDER):
        folders.insert(0, Path(os.environ[ENV_FOLDER]).expanduser())
    for folder in folders:
        for name in FILES:
            if (folder / name).is_file():
                return _verified(folder / name)
    reason = _download(folders[-1] / FILES[0])
    if reason is None:
        return folders[-1] / FILES[0]
    raise GankitError(
        f"no weights for 'inception': {FILES[0]} (or {FILES[1]}, which is the same file; sha256 {SHA256}) is not in "
        f"{' or '.join(map(str, folders))}, and downloading it from {URL} failed ({reason}); put it there, or name it "
        "with the option file, or take a metric on a network that is here, such as fd-efficientnet"
    )


def _verified(path: Path) -> Path:
    found = _hash(path)
    if found != SHA256:
        raise GankitError(
            f"{path} is damaged: its sha256 is {found}, not {SHA256}; delete it and fetch it again"
        )
    return path


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _download(path: Path) -> str | None:
    """Fetch the file unless HF_HUB_OFFLINE forbids the network. Returns None, or the reason of a failure."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(URL, timeout=20) as response, open(aside, "wb") as stream:
            while block := response.read(1 << 20):
                stream.write(block)
        if _hash(aside) != SHA256:
            return "what came has another sha256"
        os.replace(aside, path)
    except OSError as error:
        return str(getattr(error, "reason", None) or error)
    finally:
        aside.unlink(missing_ok=True)
    return None
