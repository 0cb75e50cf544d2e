"""Feature extraction for metrics: resizing and precision of a frozen network, and an iterator that runs ahead."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from gankit.core.interfaces.networks import FeatureNetwork

RESIZE = "bicubic, antialiased, clamped, float32, stretched to a square"

T = TypeVar("T")


@dataclass
class Backbone:
    """A feature network with input size and precision.

    Args:
        network: feature network on `device`.
        side: side of the square input images; not used if the network resizes by itself.
        device: the network's device.
        half: compute in bfloat16; the relative error against float32 on the first batch is kept in `deviation`.
        spec: plugin name and options, which may differ between networks with the same weights.
        deviation: output name -> that error, filled by `read`.
    """

    network: FeatureNetwork
    side: int
    device: torch.device
    half: bool = False
    spec: dict[str, Any] = field(default_factory=dict)
    deviation: dict[str, float] = field(default_factory=dict)

    @torch.no_grad()
    def read(self, images: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        """uint8 [B, 1 | 3 | 4, H, W] -> output name -> [B, N] float32, see `FeatureNetwork.read`."""
        pixels = self.enter(on_white(images.to(self.device)).float() / 127.5 - 1)
        if not self.half:
            return {name: rows.float() for name, rows in self.network.read(pixels, outputs).items()}
        with torch.autocast(self.device.type, torch.bfloat16):
            found = {name: rows.float() for name, rows in self.network.read(pixels, outputs).items()}
        missing = [name for name in outputs if name not in self.deviation]
        if missing:
            exact = self.network.read(pixels, missing)
            for name in missing:
                error = (found[name] - exact[name]).norm() / exact[name].norm()
                self.deviation[name] = float(error)
        return found

    def enter(self, images: Tensor) -> Tensor:
        """Resize RGB images [B, 3, H, W] in [-1, 1] to the network's input, unless it resizes by itself."""
        return images if self.network.own_resize else resize(images, self.side)

    def facts(self, output: str) -> dict[str, Any]:
        """Everything on which the features depend, for reports and keys of caches."""
        return {
            **self.network.identity(),
            "plugin": self.spec,
            "output": output,
            "input": self.side,
            "resize": self.network.own_resize or RESIZE,
            "dtype": "bfloat16" if self.half else "float32",
        }


def on_white(images: Tensor) -> Tensor:
    """uint8 [B, 1 | 3 | 4, H, W] -> RGB uint8 [B, 3, H, W]; grey is repeated, RGBA composited over white."""
    if images.shape[1] == 4:
        alpha = images[:, 3:].int()
        return ((images[:, :3].int() * alpha + 255 * (255 - alpha) + 127) // 255).to(torch.uint8)
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def resize(images: Tensor, side: int) -> Tensor:
    """Resize images [B, C, H, W] in [-1, 1] to [B, C, side, side] with Pillow's bicubic filter, clamped.

    As in clean-fid, values are not rounded to 8 bit. Of the usual filters only antialiased ones do not shift Frechet
    distances (Parmar et al., On Aliased Resizing and Surprising Subtleties in GAN Evaluation, CVPR 2022)."""
    if images.shape[2:] == (side, side):
        return images
    return F.interpolate(images, (side, side), mode="bicubic", antialias=True, align_corners=False).clamp_(
        -1, 1
    )


class Ahead(Iterator[T], Generic[T]):
    """Iterator that computes the items of another one ahead, in a thread.

    Args:
        items: the other iterator; its exceptions are raised to the consumer in order.
        depth: maximum number of items waiting.
    """

    def __init__(self, items: Iterator[T], depth: int = 2) -> None:
        self._items = items
        self._made: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
        self._stopped = threading.Event()
        self._over = False
        self._thread = threading.Thread(target=self._run, name="gankit-ahead", daemon=True)
        self._thread.start()

    def __next__(self) -> T:
        if self._over:
            raise StopIteration
        item, error = self._made.get()
        if error is not None:
            self._over = True
            raise error
        return item  # type: ignore[return-value]

    def close(self) -> None:
        """Stop the thread; the item that it is computing is dropped."""
        self._over = True
        self._stopped.set()
        while self._thread.is_alive():
            try:
                self._made.get(timeout=0.05)
            except queue.Empty:
                continue

    def _run(self) -> None:
        try:
            for item in self._items:
                self._made.put((item, None))
                if self._stopped.is_set():
                    return
            self._made.put((None, StopIteration()))
        except BaseException as error:  # passed on to the consumer
            self._made.put((None, error))
        finally:
            close = getattr(
                self._items, "close", None
            )  # a generator's `close` releases what it holds open at once
            if close is not None:
                close()
