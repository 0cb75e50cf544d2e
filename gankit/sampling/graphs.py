"""Generators as modules of tensor inputs that can be traced, for engines and exporters.

`SynthesisGraph` and `SamplingGraph` are traced into one graph of torch's own operators, with a dynamic batch size.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gankit.core.interfaces.conditions import Condition
from gankit.core.interfaces.networks import Generator
from gankit.core.runtime.precision import at_least_float32
from gankit.core.runtime.random import Supply, supplied
from gankit.errors import GankitError

Noise = Literal["const", "none", "random", "input"]


def synthesize(
    generator: Generator, ws: Tensor, cond: Condition, noise_mode: str, dtype: str = "fp32"
) -> Tensor:
    """Images [B, C, H, W] in float32 for ws in float32, computed in `dtype`, 'fp32' or 'bf16'.

    In bf16, a generator that `follows_ws` gets ws in bfloat16; others run under torch.autocast, as in training.
    """
    if dtype == "fp32":
        return generator.synthesis(ws, cond, noise_mode=noise_mode)
    if generator.follows_ws:
        return at_least_float32(generator.synthesis(ws.bfloat16(), cond, noise_mode=noise_mode))
    with torch.autocast(ws.device.type, torch.bfloat16):
        images = generator.synthesis(ws, cond, noise_mode=noise_mode)
    return at_least_float32(images)


def noise_numbers(generator: Generator, ws: Tensor, cond: Condition) -> int:
    """Number of normal numbers in the noise of one image, counted by drawing an image."""
    supply = Supply()
    with torch.no_grad(), supplied(supply):
        generator.synthesis(ws[:1], cond[:1], noise_mode="random")
    return supply.used


class SynthesisGraph(nn.Module):
    """Module: ws [B, num_ws, w_dim] and the condition's tensors -> images [B, C, H, W].

    Args:
        generator: generator in eval mode.
        noise: noise mode of `synthesis`, or 'input' for normal numbers [B, N] as an input, in order of the layers.
        dtype: dtype of the computation, see `synthesize`; inputs and images are float32.
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
    """Module: z [B, z_dim], psi [], the condition's tensors and, for noise 'input', noise -> images [B, C, H, W].

    The centre of truncation is `center`, else the mean of ws over `latents` under each row's condition, else the mean
    of the network's family.

    Args:
        generator: generator in eval mode.
        noise: see `SynthesisGraph`.
        latents: [K, z_dim], or None.
        center: [1, num_ws, w_dim], or None.
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
        """Mean of ws over the latents under each row's condition, [count, num_ws or 1, w_dim]."""

        def rows(t: Tensor) -> Tensor:  # [B, ...] -> [B K, ...]
            return t[:, None].expand(-1, len(latents), *t.shape[1:]).flatten(0, 1)

        z = latents[None].expand(count, -1, -1).flatten(0, 1)
        ws = self._narrow[0](z, cond.map(rows))
        return ws.unflatten(0, (-1, len(latents))).mean(1)


def _one_w(generator: Generator) -> Callable[..., Tensor]:
    """The mapping network, returning ws [B, 1, w_dim] if it merely repeats one w for all layers; else unchanged."""
    mapping = generator.mapping
    if not (isinstance(mapping, nn.Module) and isinstance(getattr(mapping, "num_ws", None), int)):
        return mapping
    narrow: Any = copy.copy(mapping)  # shares parameters and sub-modules
    narrow.num_ws = 1
    return narrow


def export_program(module: nn.Module, inputs: Mapping[str, Tensor]) -> torch.export.ExportedProgram:
    """Trace a module of keyword inputs with a dynamic batch size; unused inputs are left out of the program.

    Args:
        module: module in eval mode that uses composite operators only.
        inputs: example inputs for at least two images; axis 0 is the batch, except in scalars.

    Raises GankitError naming the line that cannot be traced.
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
            )  # only the batch size is read, which any other input has too
            pending += [] if size_only else node.all_input_nodes
    names = {node.name for node in needed}
    used = {name: tensor for name, tensor in inputs.items() if name in names}
    return program if len(used) == len(inputs) else _export(module, used)


def _export(module: nn.Module, inputs: Mapping[str, Tensor]) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1)
    shapes = {name: {0: batch} if tensor.ndim else None for name, tensor in inputs.items()}
    watch, printed = _Specialized(), io.StringIO()
    try:
        with torch.no_grad(), watch, contextlib.redirect_stderr(printed):
            program = torch.export.export(module, (), dict(inputs), dynamic_shapes=shapes, strict=False)
    except Exception as error:  # torch raises errors of many types, with pages of text
        if watch.where is None and _place(error) is None:
            sys.stderr.write(printed.getvalue())  # else only torch's print of the graph
        raise GankitError(cause(error, "tracing for export", watch.where)) from None
    sys.stderr.write(printed.getvalue())
    return program


class _Specialized(logging.Handler):
    """Context of a trace that notes where Python code has fixed the batch size: only torch's log tells when it happens,
    so the stack is read then. This was tried with torch 2.14; where another one logs otherwise, messages name the place
    in torch's exception, if there is one.

    Attributes:
        where: the innermost frame of the network's own code at that time, or None.
    """

    def __init__(self) -> None:
        super().__init__()
        self.where: traceback.FrameSummary | None = None
        self._log = logging.getLogger("torch.fx.experimental.symbolic_shapes")

    def __enter__(self) -> None:
        self._before = self._log.level, self._log.propagate, self._log.handlers
        self._log.handlers, self._log.propagate = [self], False  # and its pages are not printed
        self._log.setLevel(logging.INFO)

    def __exit__(self, *_: object) -> None:
        level, self._log.propagate, self._log.handlers = self._before
        self._log.setLevel(level)

    def emit(self, record: logging.LogRecord) -> None:
        if self.where is None and re.match(r"eval Eq\(s\d+, \d+\)", record.getMessage()):
            self.where = _own_frame(traceback.extract_stack())


def _own_frame(frames: Sequence[traceback.FrameSummary]) -> traceback.FrameSummary | None:
    """The innermost frame that is neither in torch nor in this file or a file of the log."""
    torchs = str(Path(torch.__file__).parent)
    skipped = (torchs, logging.__file__, __file__)
    return next((f for f in reversed(frames) if f.line and not f.filename.startswith(skipped)), None)


def _place(error: Exception) -> traceback.FrameSummary | None:
    """Where in the network's code a trace has failed."""
    # torch.compile runs no frames of the network, but notes where it was in its code
    return _own_frame(getattr(error, "real_stack", None) or traceback.extract_tb(error.__traceback__))


def cause(error: Exception, what: str, fixed: traceback.FrameSummary | None = None) -> str:
    """What made a trace fail, and where in the network's code, in one sentence.

    Args:
        error: the exception of torch's tracer.
        what: the trace in messages, such as 'torch.compile'.
        fixed: frame in which the batch size has become a constant, or None.
    """
    frame = fixed or _place(error)
    where = f" at {frame.filename}:{frame.lineno} `{frame.line}`" if frame else ""
    if fixed is None:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        return f"{what} failed{where} ({type(error).__name__}: {reason[:300]})"
    number = re.search(r"\blen\(([\w.]+)\)|\bint\(([\w.]+)\.(?:shape\[0\]|size\(0\))\)", fixed.line or "")
    if number:
        why = f"`{number[0]}` is a constant in a graph, write `{number[1] or number[2]}.shape[0]`"
    else:
        why = "it works for this number of images only; where it needs the number, write x.shape[0]"
    return f"{what} fixed the batch size{where}: {why}"
