"""Sums of scalars and of times between two log lines of a run."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from gankit.core.interfaces.networks import FrozenNetwork


@dataclass
class Meter:
    """Sums, counts and seconds by name since the last tick; `reset` clears them for the next one."""

    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    counts: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, name: str, total: float, count: float = 1) -> None:
        """Add `count` observations that sum to `total`."""
        self.sums[name] += total
        self.counts[name] += count

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    def means(self) -> dict[str, float]:
        return {name: self.sums[name] / self.counts[name] for name in self.sums if self.counts[name]}

    def reset(self) -> None:
        for table in (self.sums, self.counts, self.seconds):
            table.clear()

    def watch_frozen(self, module: nn.Module) -> None:
        """Register hooks that add the forward and backward time of every `FrozenNetwork` in a module to 'frozen'.

        Exact on a CPU; on a GPU, where kernels run asynchronously, it is the time to launch them.
        """
        for network in module.modules():
            if isinstance(network, FrozenNetwork):
                started: dict[str, float] = {}
                network.register_forward_pre_hook(self._enter(started))
                network.register_forward_hook(self._leave(started))

    def _enter(self, started: dict[str, float]) -> Any:
        def backward_ends(grad: torch.Tensor) -> None:
            if "backward" in started:
                self.seconds["frozen"] += time.perf_counter() - started.pop("backward")

        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            started["forward"] = time.perf_counter()
            images = inputs[0]
            if images.requires_grad and torch.is_grad_enabled():
                images = images.view_as(images)  # its gradient is ready when the network's backward is over
                images.register_hook(backward_ends)
            return (images, *inputs[1:])

        return hook

    def _leave(self, started: dict[str, float]) -> Any:
        def backward_starts(grad: torch.Tensor) -> None:
            started.setdefault("backward", time.perf_counter())

        def hook(_: nn.Module, inputs: Any, outputs: Any) -> None:
            self.seconds["frozen"] += time.perf_counter() - started["forward"]
            for tensor in outputs if isinstance(outputs, (list, tuple)) else [outputs]:
                if tensor.requires_grad:
                    tensor.register_hook(backward_starts)

        return hook
