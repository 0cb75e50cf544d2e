"""Conformance checks of losses, regularizers, optimizers, guidance, augmentations and trackers."""

from __future__ import annotations

import copy
import itertools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from gankit.core.interfaces import contracts
from gankit.core.interfaces.conditions import Cond, Condition, Conditioner, CondSpec, embedding_of
from gankit.core.interfaces.labels import Label, Vocabulary
from gankit.core.interfaces.networks import Discriminator, Generator
from gankit.core.interfaces.training import (
    Augmentation,
    Optimizer,
    Regularizer,
    StepContext,
    Tracker,
)
from gankit.core.runtime.random import batch_random, randn
from gankit.core.training import optimizers
from gankit.testing.common import (
    BATCH,
    C_DIM,
    Subject,
    assert_close,
    assert_finite,
    assert_keyed,
    condition,
    perturb,
    seeded,
)

SHAPE = (3, 16, 16)
LABELS = [
    Label("cat", {"fur": 1.0, "red": 0.5}, ("a red cat",)),
    Label("dog", {"fur": 1.0}, ("a dog", "a furry dog")),
    Label("cat", {"blue": 1.0}, ("a blue cat",)),
    Label("bird", {"red": 1.0}, ("a red bird",)),
]


# ---------------------------------------------------------------------------------------------------- loss


def _logits(offset: float = 0.0) -> list[Tensor]:
    """Logits [B, 1] and [B, 5] of two feature networks, all near `offset`."""
    with seeded(3):
        return [0.1 * torch.randn(BATCH, count) + offset for count in (1, 5)]


def check_loss_shapes(subject: Subject) -> None:
    """d_loss and g_loss are finite, [B], with a gradient to the logits."""
    loss = subject.build()
    logits = [x.requires_grad_(True) for x in _logits()]
    real = _logits(0.2) if loss.g_needs_real else None
    for what, value in (
        ("d_loss", loss.d_loss(logits, _logits(-0.2))),
        ("d_loss", loss.d_loss(_logits(0.2), logits)),
        ("g_loss", loss.g_loss(logits, real)),
    ):
        contracts.losses(loss, value, BATCH, what)
        assert_finite(value, f"{subject}: {what}")
        gradients = torch.autograd.grad(value.sum(), logits, retain_graph=True)
        for gradient in gradients:
            assert_finite(gradient, f"{subject}: the gradient of {what}")
            assert gradient.abs().sum() > 0, f"{subject}: {what} ignores the logits of a network"


def check_loss_direction(subject: Subject) -> None:
    """d_loss falls with larger real and smaller generated logits, g_loss with larger generated ones.

    Least squares losses rise again beyond their targets: those of D are 0 or -1 for generated and 1 for real images,
    that of G is 1 or 0."""
    loss = subject.build()
    low, middle, high = _logits(0.25), _logits(0.5), _logits(0.75)
    start = loss.d_loss(middle, middle).mean()
    assert loss.d_loss(high, middle).mean() < start, f"{subject}: larger real logits do not please D"
    assert loss.d_loss(middle, low).mean() < start, f"{subject}: smaller fake logits do not please D"
    real = middle if loss.g_needs_real else None
    assert loss.g_loss(_logits(-0.5), real).mean() < loss.g_loss(_logits(-0.75), real).mean(), (
        f"{subject}: larger fake logits do not please G"
    )


# --------------------------------------------------------------------------------------------- regularizer


class _TinyGenerator(Generator):
    """A smooth toy generator with noise and a condition: all that a regularizer may differentiate."""

    z_dim, w_dim, num_ws, image_shape = 8, 8, 2, SHAPE

    def __init__(self) -> None:
        super().__init__()
        self.to_w = nn.Linear(self.z_dim + C_DIM, self.w_dim)
        self.to_image = nn.Linear(self.w_dim, 3 * 16 * 16)

    def mapping(
        self,
        z: Tensor,
        cond: Cond = None,
        *,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        update_emas: bool = False,
    ) -> Tensor:
        c = embedding_of(cond)
        c = z.new_zeros(len(z), C_DIM) if c is None else c
        return torch.tanh(self.to_w(torch.cat([z, c], 1)))[:, None].repeat(1, self.num_ws, 1)

    def synthesis(self, ws: Tensor, cond: Cond = None, *, noise_mode: str = "random") -> Tensor:
        images = torch.tanh(self.to_image(ws.prod(1))).view(-1, *SHAPE)
        return images + 0.01 * randn(*images.shape) if noise_mode == "random" else images


class _TinyDiscriminator(Discriminator):
    """A smooth toy discriminator with a projected condition."""

    def __init__(self) -> None:
        super().__init__()
        self.convolve = nn.Conv2d(3, 8, 4, stride=4)
        self.out = nn.Linear(8, 1)
        self.embed = nn.Linear(C_DIM, 8)

    def features(self, images: Tensor) -> Tensor:
        return nn.functional.softplus(self.convolve(images)).mean((2, 3))

    def score(self, features: Tensor, cond: Cond = None) -> list[Tensor]:
        logits = self.out(features)
        c = embedding_of(cond)
        return [logits if c is None else logits + (features * self.embed(c)).sum(1, keepdim=True)]


class _TinyConditioner(Conditioner):
    """A toy conditioner that only names its columns: two classes, two tags and one of another kind."""

    spec = CondSpec(C_DIM)

    def set_vocabulary(self, vocabulary: Vocabulary) -> None: ...

    def vocabulary(self) -> Vocabulary:
        return Vocabulary()

    def encode(self, labels: Sequence[Label]) -> Condition:
        return condition(self.spec, len(labels))

    def columns(self) -> list[tuple[str, str]]:
        return [("cls", "0"), ("cls", "1"), ("tags", "0"), ("tags", "1"), ("other", "0")]


def _build(subject: Subject) -> Regularizer:
    """The regularizer, set up for the toy discriminator and conditioner."""
    regularizer: Regularizer = subject.build()
    with seeded():
        regularizer.set_up(_TinyDiscriminator(), _TinyConditioner(), SHAPE)
    return regularizer


def _sides(regularizer: Regularizer) -> tuple[str, ...]:
    """The networks that a regularizer acts on, 'D' and 'G'."""
    return ("D", "G") if regularizer.side == "both" else (regularizer.side,)


def _context(side: str) -> StepContext:
    """A step on toy networks, as the trainer prepares it for a side."""
    with seeded(4):
        G, D, real = _TinyGenerator(), _TinyDiscriminator(), torch.rand(BATCH, *SHAPE) * 2 - 1
    G.requires_grad_(side == "G")
    D.requires_grad_(side == "D")
    cond = condition(CondSpec(C_DIM))
    return StepContext(
        side=side,
        G=G,
        D=D,
        real=real,
        cond=cond,
        full_cond=cond,
        augment=lambda images: images,
        sample_z=lambda count: randn(count, G.z_dim),
        nimg=0,
        labels=LABELS[:BATCH],
    )


def _penalty(regularizer: Regularizer, context: StepContext) -> Tensor:
    with batch_random("penalty", total=BATCH):
        return regularizer.penalty(context)


def check_regularizer_penalty(subject: Subject) -> None:
    """The penalty is finite with gradients to its own side, in a step of its own and within the main step, in bfloat16
    where its precision is 'mixed'."""
    regularizer = _build(subject)
    side = regularizer.side
    assert side != "both" or regularizer.interval == 1, f"{subject}: with side 'both' the interval must be 1"
    halves = (False, True) if regularizer.precision == "mixed" else (False,)
    for side, main, half in itertools.product(_sides(regularizer), (False, True), halves):
        context = _context(side)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            if main:
                fake = context.G(context.sample_z(BATCH), context.cond)
                context.features["fake"] = fake if side == "G" else fake.detach()
                context.features["fake features"] = context.D.features(context.features["fake"])
            if main and side == "D":
                context.features["real"] = context.D.features(context.real)
                for name, seen in (("real", "real"), ("fake", "fake features")):
                    scores = context.D.score(context.features[seen], context.cond)
                    context.features[f"{name} logits"] = [x.float() for x in scores]
            value = _penalty(regularizer, context)
        contracts.penalty(regularizer, value)
        assert_finite(value, f"{subject}: penalty")
        value.mean().backward()
        network = context.D if side == "D" else context.G
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        assert gradients, f"{subject}: no gradient reaches {side}"
        for gradient in gradients:
            assert_finite(gradient, f"{subject}: a gradient")
        assert any(g.abs().max() > 0 for g in gradients), f"{subject}: all gradients of {side} are zero"


def check_regularizer_state(subject: Subject) -> None:
    """All that it remembers is in its state: a restored copy computes the same."""
    regularizer = _build(subject)
    perturb(regularizer)
    sides = _sides(regularizer)
    for side in sides:
        _penalty(regularizer, _context(side))
    other = _build(subject)
    other.load_state_dict(copy.deepcopy(regularizer.state_dict()))
    for side in sides:
        values = [_penalty(r, _context(side)) for r in (regularizer, other)]
        assert_close(values[1], values[0], f"{subject}: penalty of one that was restored", 1e-6)


# ----------------------------------------------------------------------------------------------- optimizer


class _Problem:
    """Parameters of all shapes whose optimum is 1, in the groups in which an optimizer gets them."""

    def __init__(self, subject: Subject, rate: float = 0.01) -> None:
        plugin = subject.build()
        assert isinstance(plugin, Optimizer), f"{subject}: {type(plugin).__name__} is no Optimizer"
        shapes = {"matrix": (4, 6), "kernel": (4, 3, 3, 3), "bias": (4,), "scalar": ()}
        with seeded(5):
            self.named = {name: nn.Parameter(0.1 * torch.randn(shape)) for name, shape in shapes.items()}
        rates = {"matrix": "lr_g", "kernel": "lr_conditioner", "bias": "lr_g", "scalar": "lr_g"}
        parameters = {
            option: {name: p for name, p in self.named.items() if rates[name] == option}
            for option in ("lr_g", "lr_conditioner")
        }
        options = {"lr": rate, "betas": (0.5, 0.9), "eps": 1e-8}
        self.optimizer = plugin.make(
            [{"params": [*named.items()], "rate": name, **options} for name, named in parameters.items()]
        )
        contracts.torch_optimizer(plugin, self.optimizer, parameters)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def step(self, times: int) -> _Problem:
        for _ in range(times):
            self.optimizer.zero_grad()
            torch.stack([(p - 1).square().mean() for p in self.named.values()]).sum().backward()
            optimizers.first_step(self.optimizer)
        return self


def check_optimizer_steps(subject: Subject) -> None:
    """Every parameter comes nearer to its optimum, and none moves where the learning rate is 0."""
    start, moved, still = _Problem(subject), _Problem(subject).step(8), _Problem(subject, rate=0.0).step(3)
    for name, parameter in start.named.items():
        assert torch.equal(still.named[name], parameter), f"{subject}: {name} moves with a learning rate of 0"
        before, after = ((p.detach() - 1).square().mean() for p in (parameter, moved.named[name]))
        assert after < before, f"{subject}: eight steps do not bring the {name} nearer to its optimum"


def check_optimizer_state(subject: Subject) -> None:
    """All that it remembers is in its state: one that is restored takes the same step."""
    first, restored = _Problem(subject).step(3), _Problem(subject)
    with torch.no_grad():
        for name, parameter in restored.named.items():
            parameter.copy_(first.named[name])
    optimizers.load_state(restored.optimizer, optimizers.state_of(first.optimizer), str(subject))
    first.step(2)
    restored.step(2)
    for name, parameter in first.named.items():
        assert_close(restored.named[name], parameter, f"{subject}: {name} of one that was restored", 1e-6)


# ------------------------------------------------------------------------------------------------ guidance


def check_guidance_loss(subject: Subject) -> None:
    """The loss is finite, [B], with a gradient to the images."""
    guidance = subject.build()
    assert float(guidance.weight) >= 0, f"{subject}: weight is {guidance.weight!r}"
    trained = [name for name, p in guidance.named_parameters() if p.requires_grad]
    assert not trained, f"{subject}: {trained[:3]} are trained; a guidance's networks are frozen"
    with seeded(4):
        images = torch.rand(BATCH, 3, 32, 32) * 2 - 1
    images.requires_grad_(True)
    with batch_random("guidance", total=BATCH):
        value = guidance.loss(images, condition(CondSpec(C_DIM)), LABELS)
    contracts.losses(guidance, value, BATCH, "loss")
    assert_finite(value, f"{subject}: loss")
    value.sum().backward()
    assert images.grad is not None, f"{subject}: no gradient reaches the images"
    assert_finite(images.grad, f"{subject}: the gradient of the images")
    assert images.grad.abs().max() > 0, f"{subject}: the gradient of the images is zero"
    with torch.no_grad(), batch_random("guidance", total=BATCH):
        nothing = guidance.loss(images, Condition(), [Label()] * BATCH)
    assert_finite(nothing, f"{subject}: loss of images without labels")


# -------------------------------------------------------------------------------------------- augmentation


def _each_shape(subject: Subject, check: Callable[[Augmentation, Tensor], None]) -> None:
    """Run `check` on the augmentation and random images for each declared number of channels and two sizes."""
    for count in subject.target.channels:
        for size in ((16, 16), (32, 16)):
            shape = (count, *size)
            augmentation = subject.build(shape)
            with seeded(4):
                check(augmentation, torch.rand(BATCH, *shape) * 2 - 1)


def check_augmentation_shapes(subject: Subject) -> None:
    """Images keep their shape and range, for all channel counts that it declares."""

    def check(augmentation: Augmentation, images: Tensor) -> None:
        before = images.clone()
        result = augmentation(images)
        contracts.augmented(augmentation, result, images)
        contracts.image_range(augmentation, result)
        assert_finite(result, f"{subject}: augmented images")
        assert torch.equal(images, before), f"{subject} writes into the images that it is given"

    _each_shape(subject, check)


def check_augmentation_gradients(subject: Subject) -> None:
    """Augmented images are twice differentiable, as R1 on them needs."""

    def check(augmentation: Augmentation, images: Tensor) -> None:
        images.requires_grad_(True)
        with batch_random("augment", total=BATCH):
            value = augmentation(images).square().sum()
        (gradient,) = torch.autograd.grad(value, images, create_graph=True)
        assert_finite(gradient, f"{subject}: the gradient")
        gradient.square().sum().backward()
        assert images.grad is not None, f"{subject} is not twice differentiable"
        assert_finite(images.grad, f"{subject}: the second derivative")
        assert images.grad.abs().max() > 0, f"{subject}: the second derivative is zero"

    _each_shape(subject, check)


def check_augmentation_random(subject: Subject) -> None:
    """An image's augmentation depends only on its place in the run, not on the other images."""
    _each_shape(
        subject,
        lambda augmentation, images: assert_keyed(lambda rows: augmentation(images[rows]), f"{subject}"),
    )


def check_augmentation_state(subject: Subject) -> None:
    """All that `update` changes is in the state."""
    augmentation = subject.build(SHAPE)
    for nimg in (64, 128, 192):
        augmentation.update(0.9, nimg, 64)
    other = subject.build(SHAPE)
    other.load_state_dict(copy.deepcopy(augmentation.state_dict()))
    with seeded(4):
        images = torch.rand(BATCH, *SHAPE)
    results = []
    for each in (augmentation, other):
        with batch_random("augment", total=BATCH):
            results.append(each(images))
    assert_close(results[1], results[0], f"{subject}: images of one that was restored", 1e-6)


# ------------------------------------------------------------------------------------------------- tracker


def check_tracker_events(subject: Subject) -> None:
    """The tracker accepts scalars, sample grids (RGB, grey, RGBA) and checkpoints in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        tracker: Tracker = subject.build(run)
        tracker.on_tick(1000, {"loss/D": 1.5, "sign/real": -0.25})
        for mode in ("RGB", "L", "RGBA"):
            path = run / f"{mode}.png"
            Image.new(mode, (8, 8)).save(path)
            tracker.on_images(1000, "samples", path)
        tracker.on_checkpoint(1000, run)
        tracker.on_tick(2000, {"loss/D": 1.25})
        tracker.close()


CHECKS: dict[str, list[Callable[[Subject], None]]] = {
    "loss": [check_loss_shapes, check_loss_direction],
    "regularizer": [check_regularizer_penalty, check_regularizer_state],
    "optimizer": [check_optimizer_steps, check_optimizer_state],
    "guidance": [check_guidance_loss],
    "augmentation": [
        check_augmentation_shapes,
        check_augmentation_gradients,
        check_augmentation_random,
        check_augmentation_state,
    ],
    "tracker": [check_tracker_events],
}
