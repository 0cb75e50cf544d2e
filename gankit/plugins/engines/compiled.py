"""The engine 'compile': sampling with torch.compile."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from gankit.core.runtime.paths import cache_dir
from gankit.sampling.engine import Engine

GRAPHS = 256  # limit for a process, over all models, batch sizes and noise modes


class Compiled(Engine):
    """torch.compile for each batch size. The first compilation takes a minute or more; its results are kept in gankit's
    cache folder (unless TORCHINDUCTOR_CACHE_DIR names another) and shorten that of later processes.

    Args:
        backend: backend of torch.compile.
        mode: mode of torch.compile, such as 'max-autotune'; None is its default.
    """

    conformance = {"backend": "aot_eager"}  # captures the graph without compiling it
    fixed_batch = True
    draws_noise = True
    dtypes = ("fp32", "bf16")

    def __init__(self, *, backend: str = "inductor", mode: str | None = None) -> None:
        self.backend, self.mode = backend, mode

    def obstacle(self, device: torch.device) -> str | None:
        if self.backend == "inductor" and device.type == "cpu":
            compilers = [os.environ.get("CXX", ""), "g++", "clang++", "c++", "cl"]
            if not any(name and shutil.which(name) for name in compilers):
                return (
                    "torch.compile needs a C++ compiler on a CPU, and there is none; install g++ or clang++"
                )
        return None

    def prepare(
        self, module: nn.Module, inputs: Mapping[str, Tensor]
    ) -> Callable[[Mapping[str, Tensor]], Tensor]:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir("inductor")))
        compiled = torch.compile(module, fullgraph=True, dynamic=False, backend=self.backend, mode=self.mode)

        def draw(inputs: Mapping[str, Tensor]) -> Tensor:
            # torch counts all modules of a class together, and allows them eight graphs
            with torch._dynamo.config.patch(recompile_limit=GRAPHS):
                return compiled(**inputs)  # type: ignore[no-any-return]

        return draw

    def forget(self) -> None:
        torch.compiler.reset()
