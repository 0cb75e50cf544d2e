"""One training step: the phases that are due, then the moving averages.

Every phase accumulates gradients over micro-batches and processes so that the sum equals the gradient of the mean over
the whole batch; random draws are keyed by the images' positions (`runtime/random.py`), so that neither the split nor
the number of processes changes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from gankit.core.config.recipe import Recipe
from gankit.core.interfaces import contracts
from gankit.core.interfaces.conditions import Condition, Conditioner
from gankit.core.interfaces.labels import Label
from gankit.core.interfaces.networks import Generator
from gankit.core.interfaces.training import StepContext
from gankit.core.models.moving_average import MovingAverage, half_life
from gankit.core.models.posthoc_ema import power_function
from gankit.core.models.stored_state import load_stored, stored_buffers, stored_state
from gankit.core.runtime import distributed
from gankit.core.runtime.random import batch_random, randn
from gankit.core.training import fade_in, optimizers
from gankit.core.training.freezing import freeze
from gankit.core.training.meter import Meter
from gankit.core.training.phases import Losses, Parts, Phase, build_phases
from gankit.core.training.scheduling import Schedules
from gankit.errors import GankitError

ADAPT_EVERY = 4  # steps between updates of an adaptive augmentation (StyleGAN2-ADA)


@dataclass
class _Step:
    """A step in progress, of this process's rows of the batch."""

    images: Tensor
    labels: Sequence[Label]
    cond: Condition | None  # None while the conditioner is trained: each phase encodes the labels anew
    d_cond: Condition | None  # of D's own conditioner, if it has one
    fade: float = 1.0  # weight of the finest details in [0, 1]
    g_fades: bool = False  # G fades its own finest details in
    finite: bool = True
    # summed over processes at the end: signs of D(real), their number, requests to stop
    reduced: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))


class Stepper:
    """Runs training steps; owns the networks, their moving averages, the optimizers and the counters.

    Attributes:
        phases: the phases of a step in their order.
        optimizers: 'G' and 'D' -> torch optimizer.
        ema: the moving average of G, and of the conditioner if it is trained, which samples are drawn from.
        averages: all moving averages by name: 'ema', 'posthoc-LENGTH'.
        nimg: images trained so far; stage_start: those at the beginning of the stage.
        step: steps so far; bad_total, bad_in_a_row: those whose gradients were not finite.
        signs: sum and number of the signs of D(real) since the augmentation was last adapted.
    """

    def __init__(
        self, parts: Parts, recipe: Recipe, device: torch.device, world: distributed.World, bf16: bool
    ) -> None:
        # a copy, whose numbers follow their schedules
        train = recipe.train.model_copy()
        self.parts, self.train, self.device, self.world, self.bf16 = parts, train, device, world, bf16
        self.schedules = Schedules(recipe, train, parts)
        self.frozen = freeze(parts.trainable(), train.freeze)
        trained = parts.trained()
        for side, name in (("G", "generator"), ("D", "discriminator")):
            if not trained[side]:
                raise GankitError(
                    f"train.freeze leaves nothing of the {name} to train; remove a pattern from it"
                )
        self.losses = Losses(parts, train, bf16)
        self.losses.checking = True  # until the first step is over
        self.phases = build_phases(self.losses)
        self.optimizers = {
            side: optimizers.build(recipe, side, trained[side], parts.regularizers) for side in ("G", "D")
        }
        averaged: dict[str, nn.Module] = {"generator": parts.G}
        self.trains_conditioner = "lr_conditioner" in trained["G"]
        if self.trains_conditioner:
            averaged["conditioner"] = parts.conditioner
        self.ema = MovingAverage(averaged, half_life(train))
        self.averages = {"ema": self.ema} | {
            f"posthoc-{length:g}": MovingAverage(averaged, power_function(length))
            for length in train.posthoc_ema
        }
        self.nimg = self.step = self.bad_in_a_row = self.bad_total = self.stage_start = 0
        self.signs = torch.zeros(2, dtype=torch.float64)
        self.meter = Meter()
        self.meter.watch_frozen(parts.D)
        for guidance in parts.guidance.values():
            self.meter.watch_frozen(guidance)
        self.micro = min(train.micro_batch or train.batch, train.batch // world.size)

    @property
    def G_ema(self) -> Generator:
        return cast(Generator, self.ema.networks["generator"])

    @property
    def conditioner_ema(self) -> Conditioner:
        return cast(Conditioner, self.ema.networks.get("conditioner", self.parts.conditioner))

    # --------------------------------------------------------------------------------------------------- state

    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint keeps besides the averages, by name."""
        modules = {"generator": self.parts.G, "discriminator": self.parts.D, **self.parts.stateful()}
        if stored_state(self.parts.conditioner):  # trained now, or in an earlier stage
            modules["conditioner"] = self.parts.conditioner
        return {name: module for name, module in modules.items() if module.state_dict()}

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes as training goes on: counters, and tensors by name of modules, averages, optimizers.

        The numbers that schedules have set are among it for those who look; each step sets them anew."""
        return {
            "nimg": self.nimg,
            "step": self.step,
            "bad_total": self.bad_total,
            "stage_start": self.stage_start,
            "signs": self.signs.clone(),
            "modules": {name: stored_state(module) for name, module in self.modules().items()},
            "averages": {name: average.state_dict() for name, average in self.averages.items()},
            "optimizers": {side: optimizers.state_of(o) for side, o in self.optimizers.items()},
            "schedules": self.schedules.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any], origin: str = "the state") -> None:
        """Load what `state_dict` of a stepper of the same recipe returned.

        Raises GankitError, naming `origin`, if names or shapes differ."""
        for name, module in self.modules().items():
            load_stored(module, state["modules"][name], f"{origin}, {name},")
        for name, average in self.averages.items():
            average.load_state_dict(state["averages"][name], origin)
        for side, optimizer in self.optimizers.items():
            optimizers.load_state(optimizer, state["optimizers"][side], f"{origin}, optimizer of {side},")
        self.nimg, self.step, self.bad_total = state["nimg"], state["step"], state["bad_total"]
        self.stage_start, self.signs = state["stage_start"], state["signs"].clone()
        self.schedules.load_state_dict(state["schedules"])

    # ------------------------------------------------------------------------------------------------- a step

    def run(self, images: Tensor, labels: Sequence[Label], *, want_stop: Callable[[], bool] = bool) -> bool:
        """One step on this process's rows of the batch; True if any process wants to stop.

        `images` is [b, C, H, W] in [-1, 1] on the device, in the order of `labels`; `want_stop` is asked at the end.
        """
        self.losses.untrained = not self.nimg
        watched = self.parts.modules().values() if self.losses.checking else ()
        with contracts.feature_networks(watched):
            step = self._begin(images, labels)
            for phase in self.phases:
                if phase.due(self.step):
                    self._run_phase(phase, step)
                    self.losses.untrained = False
        self.losses.checking = False
        self.nimg += self.train.batch
        self.step += 1
        for average in self.averages.values():
            average.update(self.nimg, self.train.batch)
        self.bad_in_a_row = 0 if step.finite else self.bad_in_a_row + 1
        self.bad_total += not step.finite
        step.reduced[2] = want_stop()
        distributed.all_sum(step.reduced)
        self.signs += step.reduced[:2]
        augmentation = self.parts.augmentation
        if augmentation is not None and self.step % ADAPT_EVERY == 0 and self.signs[1] > 0:
            mean_sign = (self.signs[0] / self.signs[1]).item()
            augmentation.update(mean_sign, self.nimg, self.train.batch * ADAPT_EVERY)
            self.signs.zero_()
        return bool(step.reduced[2] > 0)

    def _begin(self, images: Tensor, labels: Sequence[Label]) -> _Step:
        """Set what follows schedules, and encode the labels."""
        parts, train = self.parts, self.train
        for name, value in self.schedules.apply(self.nimg, self.stage_start).items():
            self.meter.add(f"schedule/{name}", value)
        for side, optimizer in self.optimizers.items():
            optimizers.set_rates(optimizer, train, side, parts.regularizers)
        torch.manual_seed((train.seed << 20) ^ self.nimg)  # for plugins that draw from torch directly
        cond = d_cond = None
        if not self.trains_conditioner or parts.d_conditioner is not None:
            with self.meter.timed("condition"), torch.no_grad():
                if not self.trains_conditioner:
                    cond = parts.conditioner.encode(labels)
                if parts.d_conditioner is not None:
                    d_cond = parts.d_conditioner.encode(labels)
        if self.losses.checking:
            for conditioner, encoded in ((parts.conditioner, cond), (parts.d_conditioner, d_cond)):
                if conditioner is not None and encoded is not None:
                    contracts.condition(conditioner, encoded, len(labels))
        step = _Step(images, labels, cond, d_cond)
        if train.fade_kimg:
            step.fade = min((self.nimg - self.stage_start) / (1000 * train.fade_kimg), 1.0)
            step.g_fades = parts.G.fade_in(step.fade)
            for network in (self.G_ema, parts.D):
                network.fade_in(step.fade)
        return step

    def _run_phase(self, phase: Phase, step: _Step) -> None:
        """Accumulate one phase over its micro-batches and step the optimizer of its side."""
        total, local = self.train.batch, len(step.labels)
        self.optimizers[phase.side].zero_grad(set_to_none=True)
        for other in self.phases:
            if other.main:
                for p in other.parameters.values():
                    p.requires_grad_(other.side == phase.side)
        state = self._running_state()
        before = [buffer.clone() for buffer in state]
        moved = [torch.zeros_like(buffer) for buffer in state]
        with self.meter.timed(phase.name):
            for start in range(0, local, self.micro):
                for buffer, old in zip(state, before):
                    buffer.copy_(old)
                rows = slice(start, min(start + self.micro, local))
                count = rows.stop - rows.start
                key = (self.train.seed, self.nimg, phase.side, "main" if phase.main else phase.name)
                with batch_random(*key, total=total, start=self.world.rank * local + start, count=count):
                    context = self._context(phase, step, rows)
                    value = phase.loss(context)
                    (value * (count / total)).backward()
                for move, buffer, old in zip(moved, state, before):
                    move.add_(buffer - old, alpha=count / total)
                self.meter.add(f"loss/{phase.name}", value.item() * count, count)
                self._observe(context, step)
            distributed.sum_gradients(list(phase.parameters.values()), moved)
            stepped = self._apply(phase)
            step.finite &= stepped
            for buffer, old, move in zip(state, before, moved):
                buffer.copy_(old + move if stepped else old)

    def _running_state(self) -> list[Tensor]:
        """Floating-point buffers of the trained networks, such as running means.

        Their changes are averaged over micro-batches and processes, so that they move as if the whole batch had gone
        through at once; a step with bad gradients leaves them as they were."""
        modules = [self.parts.G, self.parts.D, *self.parts.regularizers.values()]
        buffers = [b for m in modules for b in stored_buffers(m) if b.is_floating_point()]
        return [b for b in buffers if b.numel()]

    def _apply(self, phase: Phase) -> bool:
        """Step the optimizer; False, and no step, if a gradient is not finite."""
        optimizer = self.optimizers[phase.side]
        grads = [p.grad for p in phase.parameters.values() if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads))) if grads else torch.zeros(())
        finite = bool(norm.isfinite())
        if finite:
            if self.losses.checking:
                optimizers.first_step(optimizer)
            else:
                optimizer.step()
            self.meter.add(f"grad_norm/{phase.side}", norm.item())
        optimizer.zero_grad(set_to_none=True)
        return finite

    def _observe(self, context: StepContext, step: _Step) -> None:
        """Log the terms of a main loss, and in D's phase its logits, whose signs steer adaptive augmentations."""
        for name, value in context.terms.items():
            self.meter.add(name, value.item())
        for name in ("real", "fake"):
            if f"{name} logits" in context.features:
                flat = torch.cat([x.detach().flatten() for x in context.features[f"{name} logits"]])
                self.meter.add(f"sign/{name}", flat.sign().mean().item())
                self.meter.add(f"score/{name}", flat.mean().item())
                if name == "real":
                    signs = flat.sign().nan_to_num()
                    step.reduced[0] += signs.sum().item()
                    step.reduced[1] += signs.numel()

    # ----------------------------------------------------------------------------------------- a micro-batch

    def _context(self, phase: Phase, step: _Step, rows: slice) -> StepContext:
        full_cond, cond, g_cond = self._condition(step, rows, phase.side)
        return StepContext(
            side=phase.side,
            G=self.parts.G,
            D=self.parts.D,
            real=step.images[rows],
            cond=cond,
            full_cond=full_cond,
            augment=partial(self._augment, step),
            sample_z=self._sample_z,
            nimg=self.nimg,
            g_cond=g_cond,
            labels=step.labels[rows],
        )

    def _condition(
        self, step: _Step, rows: slice, side: str
    ) -> tuple[Condition, Condition, Condition | None]:
        """Conditions of a micro-batch: without dropout and noise; as D sees it, with them; as G sees it, or None if it
        is the same. The latter two are differentiable in G's phases if the conditioner is trained."""
        conditioner, local = self.parts.conditioner, len(step.labels)
        with torch.set_grad_enabled(step.cond is None and side == "G"):
            count = rows.stop - rows.start
            full = conditioner.encode(step.labels[rows]) if step.cond is None else step.cond[rows]
            if self.losses.checking:
                contracts.condition(conditioner, full, count)
            if step.d_cond is None:
                augmented = conditioner.augment(full)
                if self.losses.checking:
                    contracts.condition(conditioner, augmented, count, "augment")
                return full.detach(), augmented, None
            d_cond = step.d_cond[rows]
            both = []
            for value in (d_cond, full):  # with the same dropout and noise
                start = self.world.rank * local + rows.start
                key = (self.train.seed, self.nimg, side, "condition")
                with batch_random(*key, total=self.train.batch, start=start, count=count):
                    both.append(conditioner.augment(value))
            return d_cond, both[0], both[1]

    def _sample_z(self, count: int) -> Tensor:
        return randn(count, self.parts.G.z_dim, device=self.device)

    def _augment(self, step: _Step, images: Tensor, *, fake: bool = False) -> Tensor:
        """Fade-in, blur and augmentation in front of D, [B, C, H, W] -> the same shape.

        Generated images (`fake`) are not faded where G fades in its own finest details."""
        train, seen = self.train, self.nimg - self.stage_start
        if not (fake and step.g_fades):
            images = fade_in.fade_in(images, step.fade)
        images = fade_in.blur(images, train.blur_sigma * max(1 - seen / (1000 * train.blur_kimg), 0))
        augmentation = self.parts.augmentation
        if augmentation is None:
            return images
        augmented: Tensor = augmentation(images)
        if self.losses.checking:
            contracts.augmented(augmentation, augmented, images)
            if self.losses.untrained:
                contracts.image_range(augmentation, augmented)
        return augmented
