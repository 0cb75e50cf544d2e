"""Estimates FLOPs and memory of every phase of a training step by running it on torch's meta device.

Meta tensors have shapes but no data, so a step of any network at any batch size runs in seconds and in no memory. The
phases are those of `training/phases.py`, forward and backward, without augmentation. Memory is the peak of a phase's
live tensors, each freed after its last use; not included are work areas of convolutions, caches of allocators, and the
process itself.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from gankit.core.config.recipe import Recipe, TrainOptions
from gankit.core.interfaces.conditions import Condition, CondSpec
from gankit.core.interfaces.contracts import ContractError
from gankit.core.interfaces.labels import Label
from gankit.core.interfaces.training import Guidance, StepContext
from gankit.core.models.stored_state import stored_buffers, stored_parameters
from gankit.core.runtime import random
from gankit.core.training import optimizers
from gankit.core.training.phases import Losses, Parts, Phase, build_phases
from gankit.errors import GankitError

META = torch.device("meta")
TOKENS = 77  # assumed length of a condition's token sequence; CLIP's context length

# Errors of torch when a plugin reads values of meta tensors; NotImplementedError is a RuntimeError.
NEEDS_NUMBERS = (RuntimeError, TypeError, ValueError)


class Tally(TorchDispatchMode):
    """Context that counts FLOPs and the memory of new tensors of the operators called inside.

    Attributes:
        flops: floating-point operations of convolutions, matrix products and attention, two for a multiply-add.
        peak: largest number of bytes of tensors made inside that were alive at the same time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.now = self.peak = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func is torch.ops.aten.convolution_backward.default:
            self.flops += _conv_backward_flops(*args, **kwargs)
        elif func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **kwargs, out_val=result)
        given = {id(storage) for storage in _storages((args, kwargs))}
        for storage in _storages(result):
            if id(storage) not in given and id(storage) not in self._alive:  # neither a view nor in place
                self._add(storage)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        self._alive.add(key)
        weakref.finalize(storage, self._drop, key, size)
        self.now += size
        self.peak = max(self.peak, self.now)

    def _drop(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    """Storages of all tensors in nested arguments, without mkldnn tensors, whose memory oneDNN owns."""
    tensors = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
    return [tensor.untyped_storage() for tensor in tensors if not tensor.is_mkldnn]


def _conv_backward_flops(grad: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> int:
    """FLOPs of the backward pass of a convolution: each wanted gradient costs as much as the forward pass.

    Replaces torch's formula, which counts grouped convolutions as dense ones."""
    *_, transposed, _output_padding, _groups, wanted = rest
    places = (x if transposed else grad).shape[2:].numel()
    return 2 * len(x) * places * weight.numel() * sum(wanted[:2])


@dataclass
class PhaseCost:
    """Cost of one phase of a step, at one micro-batch.

    Args:
        phase: the phase.
        peak: peak memory of its tensors in bytes, without weights, gradients and optimizer state.
        flops: floating-point operations for each image, two for a multiply-add; elementwise ones are not counted.
    """

    phase: Phase
    peak: int
    flops: float


@dataclass
class Footprint:
    """Estimated memory, in bytes of fp32, and FLOPs of training with micro-batches of `images`."""

    images: int
    weights: int
    gradients: int
    optimizer: int
    phases: list[PhaseCost]
    not_counted: list[str] = field(default_factory=list)  # plugins that do not work on the meta device

    @property
    def activations(self) -> int:
        return max(cost.peak for cost in self.phases)

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations

    @property
    def flops(self) -> float:
        """FLOPs of training for each image; a phase with interval k counts 1 / k."""
        return sum(cost.flops / cost.phase.interval for cost in self.phases)


def footprint(parts: Parts, recipe: Recipe, images: int, label: Label) -> Footprint:
    """Run every phase of a training step on the meta device, where `parts` must be.

    Args:
        parts: networks and losses of a recipe; gradients and `requires_grad` of their parameters are changed.
        recipe: the recipe.
        images: size of the micro-batch.
        label: a label such as the data has, for guidance.

    Raises an error of NEEDS_NUMBERS if G, D or the loss reads tensor values; other plugins that do are listed in
    `not_counted`.
    """
    # without style mixing, which is a coin's decision and runs the mapping network twice at most
    train = recipe.train.model_copy(update={"style_mixing": 0.0})
    losses = _CountedLosses(parts, train, bf16=False)
    phases = build_phases(losses)
    trained = {phase.side: list(phase.parameters.values()) for phase in phases}
    averaged: list[nn.Module] = [parts.G]
    if any(p.requires_grad for p in parts.conditioner.parameters()):
        averaged.append(parts.conditioner)
    modules: list[nn.Module] = [parts.G, parts.D, parts.conditioner]
    modules += [*parts.regularizers.values(), *parts.guidance.values()]
    modules += [] if parts.d_conditioner is None else [parts.d_conditioner]
    averages = 1 + len(train.posthoc_ema)
    result = Footprint(
        images=images,
        weights=sum(map(_size, modules)) + averages * sum(map(_average_size, averaged)),
        gradients=max(_bytes(side) for side in trained.values()),
        optimizer=_optimizer_size(parts, recipe),
        phases=[],
        not_counted=losses.not_counted,
    )
    for phase in phases:
        for side, parameters in trained.items():
            for parameter in parameters:
                parameter.requires_grad_(side == phase.side)
        for parameter in trained[phase.side]:
            parameter.grad = torch.empty_like(parameter)  # so that gradients are not counted as activations
        try:
            with Tally() as tally:
                phase.loss(_context(parts, phase.side, images, label)).backward()
        except NEEDS_NUMBERS:
            if phase.main:
                raise
            result.not_counted.append(phase.name)
            continue
        finally:
            for parameter in trained[phase.side]:
                parameter.grad = None
        result.phases.append(PhaseCost(phase, tally.peak, tally.flops / images))
    return result


def meta_condition(spec: CondSpec, count: int) -> Condition:
    """A condition of `count` images on the meta device, with TOKENS tokens each if it has tokens."""
    return Condition(
        torch.empty(count, spec.c_dim, device=META) if spec.c_dim else None,
        torch.empty(count, TOKENS, spec.token_dim, device=META) if spec.token_dim else None,
        torch.empty(count, TOKENS, dtype=torch.bool, device=META) if spec.token_dim else None,
    )


class _CountedLosses(Losses):
    """Losses on the meta device; what cannot work there is left out and noted in `not_counted`."""

    def __init__(self, parts: Parts, train: TrainOptions, bf16: bool) -> None:
        super().__init__(parts, train, bf16)
        self.checking = True
        self.not_counted: list[str] = []

    def _guide(self, guidance: Guidance, step: StepContext, images: Tensor, cond: Condition) -> Tensor:
        return super()._guide(
            guidance, step, images, Condition()
        )  # which rows are hidden would be read from it

    def term(self, name: str, step: StepContext, compute: Callable[[], Tensor]) -> Tensor:
        try:
            return compute()
        except ContractError:
            raise
        except (*NEEDS_NUMBERS, GankitError):  # such as an assumed class that a classifier does not know
            self.not_counted.append(name.split("/")[1])
            return torch.zeros((), device=META)


def _context(parts: Parts, side: str, images: int, label: Label) -> StepContext:
    G, cond = parts.G, meta_condition(parts.conditioner.spec, images)
    return StepContext(
        side=side,
        G=G,
        D=parts.D,
        real=torch.empty(images, *G.image_shape, device=META),
        cond=cond,
        full_cond=cond,
        augment=lambda images, *, fake=False: images,
        sample_z=lambda count: random.randn(count, G.z_dim, device=META),
        nimg=0,
        labels=[label] * images,
    )


def _optimizer_size(parts: Parts, recipe: Recipe) -> int:
    """Bytes of the optimizers' tensors after one step, without counters of steps."""
    size = 0
    for side, named in parts.trained().items():
        optimizer = optimizers.build(recipe, side, named, parts.regularizers)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        for parameter, state in optimizer.state.items():
            parameter.grad = None
            size += _bytes([t for name, t in state.items() if name != "step"])
    return size


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _size(module: nn.Module) -> int:
    return _bytes([*module.parameters(), *module.buffers()])


def _average_size(module: nn.Module) -> int:
    """Bytes of a moving average, which shares frozen networks."""
    return _bytes([*stored_parameters(module), *stored_buffers(module)])
