"""One training step: D, G, lazy regularisers, moving average.

Every phase accumulates gradients over micro-batches and processes so that the sum equals the gradient of the mean over
the whole batch; random draws are keyed by the images' positions (`runtime/random.py`), so that neither the split nor
the number of processes changes them.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gankit.core.config.recipe import Recipe
from gankit.core.interfaces.conditions import Condition, Conditioner
from gankit.core.interfaces.labels import Label
from gankit.core.interfaces.networks import Discriminator, Generator
from gankit.core.interfaces.training import AdversarialLoss, Augmentation, Guidance, Regularizer, StepContext
from gankit.core.models import stored_state
from gankit.core.models.posthoc_ema import PowerAverages
from gankit.core.runtime import distributed
from gankit.core.runtime.random import batch_random, randn, shared_rand
from gankit.core.training import fade_in
from gankit.core.training.freezing import freeze
from gankit.core.training.meter import Meter
from gankit.core.training.scheduling import Schedules
from gankit.errors import GankitError

ADAPT_EVERY = 4  # steps between updates of an adaptive augmentation (StyleGAN2-ADA)


@dataclass
class Parts:
    """Networks, losses and other parts of a recipe that a training step works on."""

    G: Generator
    D: Discriminator
    conditioner: Conditioner
    loss: AdversarialLoss
    regularizers: dict[str, Regularizer]
    guidance: dict[str, Guidance]
    augmentation: Augmentation | None
    d_conditioner: Conditioner | None = None  # D's own, with pretrained weights, while G's is trained

    def stateful(self) -> dict[str, nn.Module]:
        """Modules besides the networks whose parameters and buffers a checkpoint keeps."""
        modules: dict[str, nn.Module] = {f"regularizer.{k}": v for k, v in self.regularizers.items()}
        if self.augmentation is not None:
            modules["augmentation"] = self.augmentation
        return modules

    def trainable(self) -> dict[str, nn.Module]:
        """Modules with parameters to train, by the names that `train.freeze` uses."""
        modules = {"generator": self.G, "discriminator": self.D, "conditioner": self.conditioner}
        return modules | {f"regularizers.{name}": module for name, module in self.regularizers.items()}


class Stepper:
    """Runs training steps; owns the networks, their moving averages, the optimizers and the counters."""

    def __init__(
        self, parts: Parts, recipe: Recipe, device: torch.device, world: distributed.World, bf16: bool
    ) -> None:
        # a copy, whose numbers follow their schedules
        train = recipe.train.model_copy()
        self.parts, self.train, self.device, self.world, self.bf16 = parts, train, device, world, bf16
        self.schedules = Schedules(recipe, train, parts)
        self.frozen = freeze(parts.trainable(), train.freeze)
        self.G_ema = copy.deepcopy(parts.G).eval().requires_grad_(False)
        self.conditioner_params = [p for p in parts.conditioner.parameters() if p.requires_grad]
        self.conditioner_ema = (
            copy.deepcopy(parts.conditioner) if self.conditioner_params else parts.conditioner
        )
        self.averaged: dict[str, nn.Module] = {"generator": parts.G}
        if self.conditioner_params:
            self.averaged["conditioner"] = parts.conditioner
        self.posthoc = PowerAverages(train.posthoc_ema, self.averaged)
        self.g_params = [p for p in parts.G.parameters() if p.requires_grad]
        d_side: list[nn.Module] = [parts.D, *parts.regularizers.values()]
        self.d_params = [p for module in d_side for p in module.parameters() if p.requires_grad]
        for side, found in (
            ("generator", self.g_params + self.conditioner_params),
            ("discriminator", self.d_params),
        ):
            if not found:
                raise GankitError(
                    f"train.freeze leaves nothing of the {side} to train; remove a pattern from it"
                )
        self.opt_g = self._adam("G", {"lr_g": self.g_params, "lr_conditioner": self.conditioner_params})
        self.opt_d = self._adam("D", {"lr_d": self.d_params})
        self.nimg = self.step = self.bad_in_a_row = self.bad_total = 0
        self.stage_start = 0  # images at the beginning of the stage
        self.signs = torch.zeros(
            2, dtype=torch.float64
        )  # sum and number of signs of D(real) since the last update
        self.meter = Meter()
        self.meter.watch_frozen(parts.D)
        for guidance in parts.guidance.values():
            self.meter.watch_frozen(guidance)
        self.micro = min(train.micro_batch or train.batch, train.batch // world.size)

    def _adam(self, side: str, params: dict[str, list[nn.Parameter]]) -> torch.optim.Adam:
        """Adam over groups by the option that holds their learning rate, see `_set_rates`."""
        groups = [{"params": found, "rate": rate, "side": side} for rate, found in params.items() if found]
        fused = self.device.type in ("cpu", "cuda") or None
        optimizer = torch.optim.Adam(groups, eps=self.train.eps, fused=fused)
        self._set_rates(optimizer)
        return optimizer

    def _set_rates(self, optimizer: torch.optim.Optimizer) -> None:
        """Learning rates and betas of now, with the correction for a lazy regulariser (StyleGAN2 appendix B)."""
        train = self.train
        for group in optimizer.param_groups:
            side, rate = group["side"], group["rate"]
            intervals = [
                r.interval for r in self.parts.regularizers.values() if r.side == side and r.interval > 1
            ]
            c = max(intervals) / (max(intervals) + 1) if intervals else 1.0
            beta1, beta2 = (train.betas_g if side == "G" else train.betas_d) or train.betas
            factor = {"lr_g": c, "lr_d": c * train.ttur, "lr_conditioner": 1.0}[rate]
            group["lr"], group["betas"] = getattr(train, rate) * factor, (beta1**c, beta2**c)

    # ------------------------------------------------------------------------------------------------- a step

    def run(self, images: Tensor, labels: Sequence[Label], *, want_stop: Callable[[], bool] = bool) -> bool:
        """One step on this process's rows of the batch; True if any process wants to stop.

        `images` is [b, C, H, W] in [-1, 1] on the device, in the order of `labels`; `want_stop` is asked at the end.
        """
        parts, train = self.parts, self.train
        for name, value in self.schedules.apply(self.nimg, self.stage_start).items():
            self.meter.add(f"schedule/{name}", value)
        for optimizer in (self.opt_g, self.opt_d):
            self._set_rates(optimizer)
        self._alpha, self._g_fades = 1.0, False  # weight of the finest details in [0, 1]; G fades in its own
        if train.fade_kimg:
            self._alpha = min((self.nimg - self.stage_start) / (1000 * train.fade_kimg), 1.0)
            self._g_fades = parts.G.fade_in(self._alpha)
            for network in (self.G_ema, parts.D):
                network.fade_in(self._alpha)
        torch.manual_seed((self.train.seed << 20) ^ self.nimg)  # for plugins that draw from torch directly
        cond = None
        if not self.conditioner_params:
            with self.meter.timed("condition"), torch.no_grad():
                cond = parts.conditioner.encode(labels)
        if parts.d_conditioner is not None:
            with self.meter.timed("condition"), torch.no_grad():
                self._d_cond = parts.d_conditioner.encode(labels)
        # summed over processes at the end of the step: signs of D(real), their number, requests to stop
        self._reduced = torch.zeros(3, dtype=torch.float64)
        self._finite = True
        for side in train.order.upper():
            number = self.step  # of this side's steps so far
            if side == "G":
                number, d_step = divmod(self.step, train.d_steps)
                if d_step != (train.d_steps - 1 if train.order == "dg" else 0):
                    continue
            phase = self._d_main if side == "D" else self._g_main
            self._phase(side, "main", images, labels, cond, phase)
            for name, regularizer in parts.regularizers.items():
                if (
                    regularizer.side == side
                    and regularizer.interval > 1
                    and number % regularizer.interval == 0
                ):
                    self._phase(side, name, images, labels, cond, self._lazy(name, regularizer))
        self._update_ema()
        self.nimg += train.batch
        self.step += 1
        self.bad_in_a_row = 0 if self._finite else self.bad_in_a_row + 1
        self.bad_total += not self._finite
        self._reduced[2] = want_stop()
        distributed.all_sum(self._reduced)
        self.signs += self._reduced[:2]
        if parts.augmentation is not None and self.step % ADAPT_EVERY == 0 and self.signs[1] > 0:
            parts.augmentation.update(
                (self.signs[0] / self.signs[1]).item(), self.nimg, self.train.batch * ADAPT_EVERY
            )
            self.signs.zero_()
        return bool(self._reduced[2] > 0)

    def _phase(
        self,
        side: str,
        name: str,
        images: Tensor,
        labels: Sequence[Label],
        cond: Condition | None,
        compute: Callable[[StepContext, Sequence[Label]], Tensor],
    ) -> None:
        """Accumulate one phase over its micro-batches and step the optimiser of its side."""
        params = self.d_params if side == "D" else [*self.g_params, *self.conditioner_params]
        optimizer = self.opt_d if side == "D" else self.opt_g
        total, local = self.train.batch, len(labels)
        optimizer.zero_grad(set_to_none=True)
        for p in self.g_params:
            p.requires_grad_(side == "G")
        for p in self.d_params:
            p.requires_grad_(side == "D")
        state = self._running_state()
        before = [buffer.clone() for buffer in state]
        moved = [torch.zeros_like(buffer) for buffer in state]
        with self.meter.timed(side if name == "main" else name):
            for start in range(0, local, self.micro):
                for buffer, old in zip(state, before):
                    buffer.copy_(old)
                rows = slice(start, min(start + self.micro, local))
                count = rows.stop - rows.start
                key = (self.train.seed, self.nimg, side, name)
                with batch_random(*key, total=total, start=self.world.rank * local + start, count=count):
                    full_cond, micro_cond, g_cond = self._condition(cond, labels, rows, side)
                    context = StepContext(
                        side=side,
                        G=self.parts.G,
                        D=self.parts.D,
                        real=images[rows],
                        cond=micro_cond,
                        full_cond=full_cond,
                        augment=self._augment,
                        sample_z=self._sample_z,
                        nimg=self.nimg,
                        g_cond=g_cond,
                    )
                    value = compute(context, labels[rows])
                    (value * (count / total)).backward()
                for move, buffer, old in zip(moved, state, before):
                    move.add_(buffer - old, alpha=count / total)
                self.meter.add(
                    f"loss/{side}" if name == "main" else f"loss/{name}", value.item() * count, count
                )
            distributed.sum_gradients(params, moved)
            stepped = self._apply(side, params, optimizer)
            for buffer, old, move in zip(state, before, moved):
                buffer.copy_(old + move if stepped else old)

    def _running_state(self) -> list[Tensor]:
        """Floating-point buffers of the trained networks, such as running means.

        Their changes are averaged over micro-batches and processes, so that they move as if the whole batch had gone
        through at once; a step with bad gradients leaves them as they were."""
        modules = [self.parts.G, self.parts.D, *self.parts.regularizers.values()]
        buffers = [b for m in modules for b in stored_state.stored_buffers(m) if b.is_floating_point()]
        return [b for b in buffers if b.numel()]

    def _apply(self, side: str, params: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> bool:
        """Step the optimizer; False, and no step, if a gradient is not finite."""
        grads = [p.grad for p in params if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads))) if grads else torch.zeros(())
        finite = bool(norm.isfinite())
        if finite:
            optimizer.step()
            self.meter.add(f"grad_norm/{side}", norm.item())
        self._finite &= finite
        optimizer.zero_grad(set_to_none=True)
        return finite

    # ------------------------------------------------------------------------------------------------- phases

    def _condition(
        self, cond: Condition | None, labels: Sequence[Label], rows: slice, side: str
    ) -> tuple[Condition, Condition, Condition | None]:
        """Conditions of a micro-batch: without dropout and noise; as D sees it, with them; as G sees it, or None if it
        is the same. The latter two are differentiable in G's phases if the conditioner is trained."""
        with torch.set_grad_enabled(cond is None and side == "G"):
            full = self.parts.conditioner.encode(labels[rows]) if cond is None else cond[rows]
            if self.parts.d_conditioner is None:
                return full.detach(), self.parts.conditioner.augment(full), None
            d_cond, count = self._d_cond[rows], rows.stop - rows.start
            augmented = []
            for value in (d_cond, full):  # both with the same dropout and noise
                start = self.world.rank * len(labels) + rows.start
                key = (self.train.seed, self.nimg, side, "condition")
                with batch_random(*key, total=self.train.batch, start=start, count=count):
                    augmented.append(self.parts.conditioner.augment(value))
            return d_cond, augmented[0], augmented[1]

    def _sample_z(self, count: int) -> Tensor:
        return randn(count, self.parts.G.z_dim, device=self.device)

    def _augment(self, images: Tensor, *, fake: bool = False) -> Tensor:
        """Fade-in, blur and augmentation in front of D, [B, C, H, W] -> the same shape.

        Generated images (`fake`) are not faded where G fades in its own finest details."""
        train, seen = self.train, self.nimg - self.stage_start
        if not (fake and self._g_fades):
            images = fade_in.fade_in(images, self._alpha)
        images = fade_in.blur(images, train.blur_sigma * max(1 - seen / (1000 * train.blur_kimg), 0))
        return images if self.parts.augmentation is None else self.parts.augmentation(images)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def _fake(self, context: StepContext, *, update_emas: bool) -> Tensor:
        count, G = len(context.real), context.G
        cond = context.cond if context.g_cond is None else context.g_cond
        ws = G.mapping(self._sample_z(count), cond, update_emas=update_emas)
        if self.train.style_mixing > 0:
            # One coin and one cutoff for the batch; as in the originals the second latent keeps the condition.
            mixed = bool(shared_rand(1).item() < self.train.style_mixing)
            cutoff = 1 + int(shared_rand(1).item() * (G.num_ws - 1))
            if mixed and G.num_ws > 1:
                other = G.mapping(self._sample_z(count), cond)
                ws = torch.cat([ws[:, :cutoff], other[:, cutoff:]], dim=1)
        emas = {"update_emas": update_emas} if G.synthesis_emas else {}
        return G.synthesis(ws, cond, **emas)

    def _d_main(self, context: StepContext, labels: Sequence[Label]) -> Tensor:
        D = context.D
        with self._autocast():
            with torch.no_grad():
                fake = self._fake(context, update_emas=True)
            context.features["fake"] = fake
            context.features["fake features"] = D.features(self._augment(fake, fake=True))
            fake_logits = D.score(context.features["fake features"], context.cond)
            context.features["real"] = D.features(self._augment(context.real))
            real_logits = D.score(context.features["real"], context.cond)
        loss = self.parts.loss.d_loss(_floats(real_logits), _floats(fake_logits)).mean()
        loss = loss + self._eager_penalties("D", context)
        with torch.no_grad():
            signs = torch.cat([logits.float().flatten() for logits in real_logits]).sign().nan_to_num()
            self._reduced += torch.tensor([signs.sum().item(), signs.numel(), 0.0], dtype=torch.float64)
            for name, logits in (("real", real_logits), ("fake", fake_logits)):
                flat = torch.cat([x.float().flatten() for x in logits])
                self.meter.add(f"sign/{name}", flat.sign().mean().item())
                self.meter.add(f"score/{name}", flat.mean().item())
        return loss

    def _g_main(self, context: StepContext, labels: Sequence[Label]) -> Tensor:
        D = context.D
        with self._autocast():
            fake = context.features["fake"] = self._fake(context, update_emas=False)
            d_cond = context.cond.detach()
            context.features["fake features"] = D.features(self._augment(fake, fake=True))
            fake_logits = D.score(context.features["fake features"], d_cond)
            real_logits = None
            if self.parts.loss.g_needs_real:
                with torch.no_grad():
                    real_logits = _floats(D(self._augment(context.real), d_cond))
            losses = self.parts.loss.g_loss(_floats(fake_logits), real_logits)
            if (
                self.train.top_k < 1
            ):  # Sinha et al. 2020; of a micro-batch, as its scores are all that is known
                losses = losses.topk(max(1, round(self.train.top_k * len(losses))), largest=False).values
            loss = losses.mean()
            for name, guidance in self.parts.guidance.items():
                if guidance.weight:
                    value = guidance.loss(fake.float(), d_cond, labels).mean()
                    self.meter.add(f"guidance/{name}", value.item())
                    loss = loss + guidance.weight * value
        return loss + self._eager_penalties("G", context)

    def _eager_penalties(self, side: str, context: StepContext) -> Tensor:
        total = torch.zeros((), device=self.device)
        for name, regularizer in self.parts.regularizers.items():
            if regularizer.side in (side, "both") and regularizer.interval == 1:
                bf16 = self.bf16 and not regularizer.second_order
                with (
                    torch.autocast(self.device.type, torch.bfloat16, enabled=bf16),
                    _attention_for(regularizer),
                ):
                    value = regularizer.penalty(context).float().mean()
                both = f"/{side}" if regularizer.side == "both" else ""
                self.meter.add(f"loss/{name}{both}", value.item())
                total = total + value
        return total

    def _lazy(self, name: str, regularizer: Regularizer) -> Callable[[StepContext, Sequence[Label]], Tensor]:
        """A regulariser as a phase of its own; it runs in fp32, since second derivatives are delicate in bf16."""

        def compute(context: StepContext, labels: Sequence[Label]) -> Tensor:
            with _attention_for(regularizer):
                return regularizer.penalty(context).mean() * regularizer.interval

        return compute

    # ------------------------------------------------------------------------------------------ moving average

    @torch.no_grad()
    def _update_ema(self) -> None:
        """Update the moving averages; their half-life is at most `ema_rampup` of the images so far (StyleGAN2-ADA)."""
        half_life = self.train.ema_kimg * 1000
        if self.train.ema_rampup is not None:
            half_life = min(half_life, self.train.ema_rampup * self.nimg)
        beta = 0.5 ** (self.train.batch / max(half_life, 1e-8))
        pairs: list[tuple[nn.Module, nn.Module]] = [(self.G_ema, self.parts.G)]
        if self.conditioner_params:
            pairs.append((self.conditioner_ema, self.parts.conditioner))
        for average, module in pairs:
            torch._foreach_lerp_(list(average.parameters()), list(module.parameters()), 1 - beta)
            for mine, theirs in zip(average.buffers(), module.buffers()):
                mine.copy_(theirs)
        self.posthoc.update(self.averaged, self.nimg + self.train.batch, self.train.batch)


def _floats(logits: list[Tensor]) -> list[Tensor]:
    return [x.float() for x in logits]


def _attention_for(regularizer: Regularizer) -> contextlib.AbstractContextManager[None]:
    """The fused attention of torch has no second derivative; its plain form has."""
    return sdpa_kernel(SDPBackend.MATH) if regularizer.second_order else contextlib.nullcontext()
