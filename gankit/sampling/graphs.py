"""Generators as functions of tensors: what engines make fast and exporters write to files.

Both modules below are traced into one graph of torch's own operators, with a batch of any size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gankit.core.interfaces.conditions import Condition
from gankit.core.interfaces.networks import Generator
from gankit.core.runtime.precision import at_least_float32
from gankit.core.runtime.random import Supply, supplied

Noise = Literal["const", "none", "random", "input"]


def synthesize(
    generator: Generator, ws: Tensor, cond: Condition, noise_mode: str, dtype: str = "fp32"
) -> Tensor:
    """Images [B, C, H, W] in float32 for ws in float32, computed in `dtype`, 'fp32' or 'bf16'.

    In bf16, a generator that `follows_ws` gets its ws so; others draw under torch.autocast, as they train.
    """
    if dtype == "fp32":
        return generator.synthesis(ws, cond, noise_mode=noise_mode)
    if generator.follows_ws:
        return at_least_float32(generator.synthesis(ws.bfloat16(), cond, noise_mode=noise_mode))
    with torch.autocast(ws.device.type, torch.bfloat16):
        images = generator.synthesis(ws, cond, noise_mode=noise_mode)
    return at_least_float32(images)


def noise_numbers(generator: Generator, ws: Tensor, cond: Condition) -> int:
    """How many normal numbers the noise of one image takes; draws an image to find out."""
    supply = Supply()
    with torch.no_grad(), supplied(supply):
        generator.synthesis(ws[:1], cond[:1], noise_mode="random")
    return supply.used


class SynthesisGraph(nn.Module):
    """ws [B, num_ws, w_dim] and the condition's tensors -> images.

    Args:
        generator: in eval mode.
        noise: as in `synthesis`; or 'input', which takes normal numbers [B, N], layer after layer.
        dtype: what it computes in, see `synthesize`; inputs and images are float32.
    """

    def __init__(self, generator: Generator, noise: Noise = "const", dtype: str = "fp32") -> None:
        super().__init__()
        self.generator, self.noise_mode, self.dtype = generator, noise, dtype

    def forward(
        self,
        ws: Tensor,
        c: Tensor | None = None,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        cond = Condition(c, tokens, mask)
        if self.noise_mode != "input":
            return synthesize(self.generator, ws, cond, self.noise_mode, self.dtype)
        with supplied(Supply(noise)):
            return synthesize(self.generator, ws, cond, "random", self.dtype)


class SamplingGraph(nn.Module):
    """z [B, z_dim], psi [], the condition's tensors and perhaps noise -> images, truncated as `Pipeline` does.

    Args:
        generator: in eval mode.
        noise: see `SynthesisGraph`.
        latents: [K, z_dim], whose mean ws under each row's condition psi pulls towards; None for the mean that the
            network's family uses.
        center: [1, num_ws, w_dim], that mean where it does not depend on inputs.
    """

    latents: Tensor | None
    center: Tensor | None

    def __init__(
        self,
        generator: Generator,
        noise: Noise = "const",
        *,
        latents: Tensor | None = None,
        center: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.synthesis = SynthesisGraph(generator, noise)
        self.register_buffer("latents", latents)
        self.register_buffer("center", center)
        self._narrow = [_one_w(generator)] if latents is not None else []  # in a list: it shares its weights

    def forward(
        self,
        z: Tensor,
        psi: Tensor,
        c: Tensor | None = None,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        cond, mapping = Condition(c, tokens, mask), self.synthesis.generator.mapping
        if self.center is not None:
            center = self.center
        elif self.latents is not None:
            center = self._mean(z.shape[0], self.latents, cond)
        else:
            center = mapping(z, cond, truncation_psi=0.0)
        ws = torch.lerp(center, mapping(z, cond), psi)
        return self.synthesis(ws, c, tokens, mask, noise)

    def _mean(self, count: int, latents: Tensor, cond: Condition) -> Tensor:
        """[count, num_ws or 1, w_dim]: mean over the latents under the condition of each row."""

        def rows(t: Tensor) -> Tensor:  # [B, ...] -> [B K, ...]
            return t[:, None].expand(-1, len(latents), *t.shape[1:]).flatten(0, 1)

        z = latents[None].expand(count, -1, -1).flatten(0, 1)
        ws = self._narrow[0](z, cond.map(rows))
        return ws.unflatten(0, (-1, len(latents))).mean(1)


def _one_w(generator: Generator) -> Callable[..., Tensor]:
    """The mapping network without its repetition of one w for every layer, where it is known to be one."""
    mapping = generator.mapping
    if not (isinstance(mapping, nn.Module) and isinstance(getattr(mapping, "num_ws", None), int)):
        return mapping
    narrow: Any = copy.copy(mapping)  # shares parameters and sub-modules
    narrow.num_ws = 1
    return narrow


def export_program(module: nn.Module, inputs: Mapping[str, Tensor]) -> torch.export.ExportedProgram:
    """Trace a module of keyword inputs with a dynamic batch; inputs that turn out to be unused are left out.

    Args:
        module: in eval mode, of composite operators.
        inputs: an example of at least two images; axis 0 of every one with axes is the batch.
    """
    program = _export(module, inputs)
    needed: set[torch.fx.Node] = set()
    pending = [node for node in program.graph.nodes if node.op == "output"]
    while pending:
        node = pending.pop()
        if node not in needed:
            needed.add(node)
            size_only = (
                node.target is torch.ops.aten.sym_size.int
            )  # the batch, which any other input tells as well
            pending += [] if size_only else node.all_input_nodes
    names = {node.name for node in needed}
    used = {name: tensor for name, tensor in inputs.items() if name in names}
    return program if len(used) == len(inputs) else _export(module, used)


def _export(module: nn.Module, inputs: Mapping[str, Tensor]) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1)
    shapes = {name: {0: batch} if tensor.ndim else None for name, tensor in inputs.items()}
    with torch.no_grad():
        return torch.export.export(module, (), dict(inputs), dynamic_shapes=shapes, strict=False)
