"""The engine 'eager': sampling with plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from gankit.sampling.engine import Engine


class Eager(Engine):
    """Plain torch: no set-up, works everywhere."""

    draws_noise = True
    dtypes = ("fp32", "bf16")

    def prepare(
        self, module: nn.Module, inputs: Mapping[str, Tensor]
    ) -> Callable[[Mapping[str, Tensor]], Tensor]:
        return lambda inputs: module(**inputs)
