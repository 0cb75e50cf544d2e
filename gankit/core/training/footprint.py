"""Estimates FLOPs and memory of every phase of a training step by running it on torch's meta device.

Meta tensors have shapes but no data, so a step of any network at any batch size runs in seconds and in no memory. The
phases are those of `training/step.py`, forward and backward, without augmentation. Memory is the peak of a phase's live
tensors, each freed after its last use; not included are work areas of convolutions, caches of allocators, and the
process itself.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from gankit.core.interfaces.conditions import Condition, CondSpec
from gankit.core.interfaces.labels import Label
from gankit.core.interfaces.training import Regularizer, StepContext
from gankit.core.runtime import random
from gankit.core.training.step import Parts
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
class Phase:
    """One phase of a step, at one micro-batch.

    Args:
        name: 'D', 'G' or the name of a lazy regularizer.
        peak: peak memory of its tensors in bytes, without weights, gradients and optimiser state.
        flops: floating-point operations for each image, two for a multiply-add; elementwise ones are not counted.
        interval: the phase runs every `interval` steps.
    """

    name: str
    peak: int
    flops: float
    interval: int = 1


@dataclass
class Footprint:
    """Estimated memory, in bytes of fp32, and FLOPs of training with micro-batches of `images`."""

    images: int
    weights: int
    gradients: int
    optimizer: int
    phases: list[Phase]
    not_counted: list[str] = field(default_factory=list)  # plugins that do not work on the meta device

    @property
    def activations(self) -> int:
        return max(phase.peak for phase in self.phases)

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations

    @property
    def flops(self) -> float:
        """FLOPs of training for each image; a phase with interval k counts 1 / k."""
        return sum(phase.flops / phase.interval for phase in self.phases)


def footprint(parts: Parts, images: int, label: Label, *, averages: int = 1, d_steps: int = 1) -> Footprint:
    """Run every phase of a training step on the meta device, where `parts` must be.

    Args:
        parts: networks and losses of a recipe; gradients and `requires_grad` of their parameters are changed.
        images: size of the micro-batch.
        label: a label such as the data has, for guidance.
        averages: number of moving averages kept of G (and of a trained conditioner).
        d_steps: D steps for one G step.

    Raises an error of NEEDS_NUMBERS if G, D or the loss reads tensor values; other plugins that do are listed in
    `not_counted`.
    """
    G, D = parts.G, parts.D
    d_side: list[nn.Module] = [D, *parts.regularizers.values()]
    trained = {"G": _trained(G, parts.conditioner), "D": _trained(*d_side)}
    result = Footprint(
        images=images,
        weights=_size(G) * (1 + averages)
        + sum(_size(m) for m in [*d_side, parts.conditioner, *parts.guidance.values()]),
        gradients=max(_bytes(side) for side in trained.values()),
        optimizer=2 * sum(_bytes(side) for side in trained.values()),
        phases=[],
    )
    if any(p.requires_grad for p in parts.conditioner.parameters()):
        result.weights += _size(parts.conditioner) * averages
    if parts.d_conditioner is not None:
        result.weights += _size(parts.d_conditioner)

    lazy = {name: r for name, r in parts.regularizers.items() if r.interval > 1}
    eager = {name: r for name, r in parts.regularizers.items() if r.interval == 1}
    step = _Step(parts, images, [label] * images, eager, result.not_counted)
    runs: list[tuple[str, str, int, Callable[[StepContext], Tensor]]] = [
        ("D", "D", 1, step.d_main),
        ("G", "G", d_steps, step.g_main),
        *(
            (name, r.side, r.interval * (d_steps if r.side == "G" else 1), lambda c, r=r: r.penalty(c).mean())
            for name, r in lazy.items()
        ),
    ]
    for name, side, interval, compute in runs:
        for parameter in [*trained["G"], *trained["D"]]:
            parameter.requires_grad_(False)
        for parameter in trained[side]:
            parameter.requires_grad_(True)
            parameter.grad = torch.empty_like(parameter)  # so that gradients are not counted as activations
        try:
            with Tally() as tally:
                compute(step.context(side)).backward()
        except NEEDS_NUMBERS:
            if name in ("D", "G"):
                raise
            result.not_counted.append(name)
            continue
        finally:
            for parameter in trained[side]:
                parameter.grad = None
        result.phases.append(Phase(name, tally.peak, tally.flops / images, interval))
    return result


def meta_condition(spec: CondSpec, count: int) -> Condition:
    """A condition of `count` images on the meta device, with TOKENS tokens each if it has tokens."""
    return Condition(
        torch.empty(count, spec.c_dim, device=META) if spec.c_dim else None,
        torch.empty(count, TOKENS, spec.token_dim, device=META) if spec.token_dim else None,
        torch.empty(count, TOKENS, dtype=torch.bool, device=META) if spec.token_dim else None,
    )


class _Step:
    """Losses of the main phases of `gankit.core.training.step`, for meta tensors."""

    def __init__(
        self,
        parts: Parts,
        images: int,
        labels: Sequence[Label],
        eager: dict[str, Regularizer],
        not_counted: list[str],
    ) -> None:
        self.parts, self.images, self.labels = parts, images, labels
        self.eager, self.not_counted = eager, not_counted

    def context(self, side: str) -> StepContext:
        G = self.parts.G
        cond = meta_condition(self.parts.conditioner.spec, self.images)
        return StepContext(
            side=side,
            G=G,
            D=self.parts.D,
            real=torch.empty(self.images, *G.image_shape, device=META),
            cond=cond,
            full_cond=cond,
            augment=lambda images: images,
            sample_z=lambda count: random.randn(count, G.z_dim, device=META),
            nimg=0,
        )

    def d_main(self, context: StepContext) -> Tensor:
        with torch.no_grad():
            fake = context.features["fake"] = self._fake(context)
        D = context.D
        context.features["fake features"] = D.features(fake)
        fake_logits = D.score(context.features["fake features"], context.cond)
        context.features["real"] = D.features(context.real)
        real_logits = D.score(context.features["real"], context.cond)
        return self.parts.loss.d_loss(real_logits, fake_logits).mean() + sum(self._penalties("D", context))

    def g_main(self, context: StepContext) -> Tensor:
        D, adversarial = context.D, self.parts.loss
        fake = context.features["fake"] = self._fake(context)
        context.features["fake features"] = D.features(fake)
        fake_logits = D.score(context.features["fake features"], context.cond)
        real_logits = None
        if adversarial.g_needs_real:
            with torch.no_grad():
                real_logits = D(context.real, context.cond)
        loss = adversarial.g_loss(fake_logits, real_logits).mean()
        for name, guidance in self.parts.guidance.items():
            try:
                loss = loss + guidance.loss(fake, Condition(), self.labels).mean()
            except (*NEEDS_NUMBERS, GankitError):  # such as an assumed class that a classifier does not know
                self.not_counted.append(name)
        return loss + sum(self._penalties("G", context))

    def _fake(self, context: StepContext) -> Tensor:
        ws = context.G.mapping(context.sample_z(self.images), context.cond)
        return context.G.synthesis(ws, context.cond)

    def _penalties(self, side: str, context: StepContext) -> Iterator[Tensor]:
        for name, regularizer in self.eager.items():
            if regularizer.side in (side, "both"):
                try:
                    yield regularizer.penalty(context).mean()
                except NEEDS_NUMBERS:
                    self.not_counted.append(name)


def _trained(*modules: nn.Module) -> list[nn.Parameter]:
    return [p for module in modules for p in module.parameters() if p.requires_grad]


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _size(module: nn.Module) -> int:
    return _bytes([*module.parameters(), *module.buffers()])
