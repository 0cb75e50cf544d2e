"""The phases of a training step, built once from a recipe: what each computes, how often, and what it trains.

The stepper runs them (`step.py`), the forecast of memory walks through them (`footprint.py`), `--dry-run` prints them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gankit.core.config.recipe import TrainOptions
from gankit.core.interfaces import contracts
from gankit.core.interfaces.conditions import Condition, Conditioner
from gankit.core.interfaces.networks import Discriminator, Generator
from gankit.core.interfaces.training import AdversarialLoss, Augmentation, Guidance, Regularizer, StepContext
from gankit.core.runtime.random import shared_rand


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

    def modules(self) -> dict[str, nn.Module]:
        """All modules of the parts, by name."""
        modules = {"generator": self.G, "discriminator": self.D, "conditioner": self.conditioner}
        return (
            modules | self.stateful() | {f"guidance.{name}": module for name, module in self.guidance.items()}
        )

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

    def trained(self) -> dict[str, dict[str, dict[str, nn.Parameter]]]:
        """The parameters that have gradients now: side 'D' or 'G' -> option of `train` with their learning rate, such
        as 'lr_g' -> name -> parameter."""
        found: dict[str, dict[str, dict[str, nn.Parameter]]] = {"D": {}, "G": {}}
        seen: set[nn.Parameter] = set()  # a regularizer may hold a part of D
        rates = {"generator": ("G", "lr_g"), "conditioner": ("G", "lr_conditioner")}
        for root, module in self.trainable().items():
            side, rate = rates.get(root, ("D", "lr_d"))
            for name, parameter in module.named_parameters():
                if parameter.requires_grad and parameter not in seen:
                    seen.add(parameter)
                    found[side].setdefault(rate, {})[f"{root}.{name}"] = parameter
        return found


@dataclass(frozen=True)
class Phase:
    """A part of a training step: a loss, and the parameters that its gradients move.

    Args:
        name: 'D' or 'G' for the main phase of that side, else the name of a lazy regularizer.
        side: 'D' or 'G', whose parameters are trained and whose optimizer makes the step.
        interval: it runs in the steps s with s % interval == offset.
        offset: the first step in which it runs.
        parameters: the side's trained parameters by name.
        loss: micro-batch -> its mean loss, a scalar.
        terms: names of the plugins that the loss is made of.
    """

    name: str
    side: str
    interval: int
    offset: int
    parameters: Mapping[str, nn.Parameter]
    loss: Callable[[StepContext], Tensor]
    terms: tuple[str, ...]

    def due(self, step: int) -> bool:
        return step % self.interval == self.offset

    @property
    def main(self) -> bool:
        return self.name == self.side


def build_phases(losses: Losses) -> list[Phase]:
    """The phases of a step, in their order. Parameters that do not require gradients now are not trained."""
    parts, train = losses.parts, losses.train
    trained = parts.trained()
    phases = []
    for side in train.order.upper():
        every = train.d_steps if side == "G" else 1
        offset = every - 1 if train.order == "dg" else 0
        parameters = {name: p for named in trained[side].values() for name, p in named.items()}
        terms = ("adversarial", *(parts.guidance if side == "G" else ()), *losses.every_step(side))
        phases.append(Phase(side, side, every, offset, parameters, losses.adversarial, terms))
        for name, regularizer in parts.regularizers.items():
            if regularizer.side == side and regularizer.interval > 1:
                interval = every * regularizer.interval
                loss = losses.lazy(regularizer)
                phases.append(Phase(name, side, interval, offset, parameters, loss, (name,)))
    return phases


class Losses:
    """The losses of the phases of a step.

    Args:
        parts: networks and losses.
        train: options of training, whose numbers may follow schedules.
        bf16: compute in bfloat16 what `train.precision` leaves to autocast.

    Attributes:
        checking: hold what plugins return against their contracts, as in the first step.
        untrained: the weights are still the initial ones, so that values of images can be checked, too.
    """

    def __init__(self, parts: Parts, train: TrainOptions, bf16: bool) -> None:
        self.parts, self.train, self.bf16 = parts, train, bf16
        self.checking = self.untrained = False

    def adversarial(self, step: StepContext) -> Tensor:
        """Loss of a main phase, a scalar: adversarial, of G also with guidance, and the regularizers of every step.

        Networks run under autocast, losses on float32 logits."""
        D, adversarial, cond = step.D, self.parts.loss, step.cond.detach()
        of_g = step.side == "G"
        real = None
        with self._autocast(step):
            with torch.set_grad_enabled(of_g):
                images = step.features["fake"] = self._fake(step)
            features = step.features["fake features"] = D.features(step.augment(images, fake=True))
            fake = self._logits(D.score(features, cond), step)
            if not of_g or adversarial.g_needs_real:
                with torch.set_grad_enabled(not of_g):
                    features = D.features(step.augment(step.real))
                    real = self._logits(D.score(features, cond), step)
        if not of_g:
            assert real is not None
            step.features.update({"real": features, "fake logits": fake, "real logits": real})
            losses = adversarial.d_loss(real, fake)
            if self.checking:
                contracts.losses(adversarial, losses, len(step.real), "d_loss", trains=True)
            return losses.mean() + self._penalties(step)
        losses = adversarial.g_loss(fake, real)
        if self.checking:
            contracts.losses(adversarial, losses, len(step.real), "g_loss", trains=True)
        if self.train.top_k < 1:  # Sinha et al. 2020; of a micro-batch, as its scores are all that is known
            losses = losses.topk(max(1, round(self.train.top_k * len(losses))), largest=False).values
        total = losses.mean()
        for name, guidance in self.parts.guidance.items():
            if guidance.weight:
                value = self.term(
                    f"guidance/{name}", step, partial(self._guide, guidance, step, images, cond)
                )
                total = total + guidance.weight * value
        return total + self._penalties(step)

    def every_step(self, side: str) -> dict[str, Regularizer]:
        """The regularizers that are added to the main loss of a side."""
        found = self.parts.regularizers.items()
        return {name: r for name, r in found if r.side in (side, "both") and r.interval == 1}

    def lazy(self, regularizer: Regularizer) -> Callable[[StepContext], Tensor]:
        """The loss of a regularizer as a phase of its own: its penalty times its interval."""
        return lambda step: self._penalty(regularizer, step) * regularizer.interval

    def term(self, name: str, step: StepContext, compute: Callable[[], Tensor]) -> Tensor:
        """A term of a main loss, a scalar, noted in `step.terms` under its name in the log."""
        value = step.terms[name] = compute()
        return value

    def _guide(self, guidance: Guidance, step: StepContext, images: Tensor, cond: Condition) -> Tensor:
        with self._autocast(step):
            losses = guidance.loss(images.float(), cond, step.labels)
        if self.checking:
            contracts.losses(guidance, losses, len(images), "loss")
        return losses.mean()

    def _penalties(self, step: StepContext) -> Tensor:
        """Sum of the penalties of the regularizers that belong to every step of this side."""
        total = torch.zeros((), device=step.real.device)
        for name, regularizer in self.every_step(step.side).items():
            name = f"loss/{name}" + (f"/{step.side}" if regularizer.side == "both" else "")
            total = total + self.term(name, step, partial(self._penalty, regularizer, step))
        return total

    def _penalty(self, regularizer: Regularizer, step: StepContext) -> Tensor:
        """Mean penalty in the regularizer's precision. Torch's fused attention has no second derivative; its plain form
        has."""
        plain = sdpa_kernel(SDPBackend.MATH) if regularizer.second_order else contextlib.nullcontext()
        with self._autocast(step, mixed=regularizer.precision == "mixed"), plain:
            penalty = regularizer.penalty(step)
        if self.checking:
            contracts.penalty(regularizer, penalty)
        return penalty.float().mean()

    def _autocast(self, step: StepContext, *, mixed: bool = True) -> torch.autocast:
        device = (
            "cpu" if step.real.is_meta else step.real.device.type
        )  # there is no autocast on the meta device
        return torch.autocast(device, torch.bfloat16, enabled=self.bf16 and mixed)

    def _fake(self, step: StepContext) -> Tensor:
        """G's images under the conditions of the micro-batch; G's running statistics follow in D's phase."""
        G, count, update = step.G, len(step.real), step.side == "D"
        cond = step.cond if step.g_cond is None else step.g_cond
        ws = G.mapping(step.sample_z(count), cond, update_emas=update)
        if self.checking:
            contracts.ws(G, ws, count)
        if self.train.style_mixing > 0:
            # One coin and one cutoff for the batch; as in the originals the second latent keeps the condition.
            mixed = bool(shared_rand(1).item() < self.train.style_mixing)
            cutoff = 1 + int(shared_rand(1).item() * (G.num_ws - 1))
            if mixed and G.num_ws > 1:
                other = G.mapping(step.sample_z(count), cond)
                ws = torch.cat([ws[:, :cutoff], other[:, cutoff:]], dim=1)
        emas = {"update_emas": update} if G.synthesis_emas else {}
        images = G.synthesis(ws, cond, **emas)
        if self.checking:
            contracts.images(G, images, count)
            if self.untrained:
                contracts.image_range(G, images)
        return images

    def _logits(self, logits: list[Tensor], step: StepContext) -> list[Tensor]:
        if self.checking:
            contracts.logits(step.D, logits, len(step.real))
        return [x.float() for x in logits]
