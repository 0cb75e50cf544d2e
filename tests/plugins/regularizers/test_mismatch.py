"""R1, path length, mismatch and more: reference vectors of StyleGAN2's four phases, and small cases done by hand."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from golden_utils import Case, load_golden
from torch import Tensor, nn
from torch.nn import functional as F

from gankit.core.config import recipe
from gankit.core.config.options import check
from gankit.core.interfaces.conditions import Condition, CondSpec
from gankit.core.interfaces.networks import Discriminator, Generator
from gankit.core.interfaces.training import StepContext
from gankit.core.models import build
from gankit.core.runtime import random
from gankit.core.runtime.random import batch_random
from gankit.errors import GankitError
from gankit.plugins.conditioning.none import NoCondition
from gankit.plugins.discriminators.stylegan2 import StyleGAN2Discriminator
from gankit.plugins.generators.stylegan2 import StyleGAN2
from gankit.plugins.losses.non_saturating import NonSaturating
from gankit.plugins.regularizers.attributes import Attributes
from gankit.plugins.regularizers.mismatch import Mismatch
from gankit.plugins.regularizers.path_length import PathLength
from gankit.plugins.regularizers.r1 import R1
from gankit.plugins.regularizers.reconstruction import Reconstruction


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def context(**given: Any) -> StepContext:
    defaults = {
        "side": "D",
        "G": None,
        "D": None,
        "real": torch.zeros(4, 3, 8, 8),
        "cond": Condition(),
        "full_cond": Condition(),
        "augment": lambda images: images,
        "sample_z": None,
        "nimg": 0,
    }
    return StepContext(**{**defaults, **given})


# ------------------------------------------------------------------------------------------- reference vectors


class Phases:
    """G and D of a reference file, with constant noise, and the phases' cases."""

    def __init__(self, file: str) -> None:
        golden = load_golden(file)
        self.settings = golden.meta["loss"]
        self.cases = {case.name: case for case in golden.cases}
        init_g, init_d = (golden.meta["init"][name]["kwargs"] for name in ("G", "D"))
        shape = (3, init_g["img_resolution"], init_g["img_resolution"])
        cond = CondSpec(c_dim=init_g["c_dim"])
        self.G = StyleGAN2(
            shape,
            cond,
            z_dim=init_g["z_dim"],
            w_dim=init_g["w_dim"],
            mapping_layers=init_g["mapping_kwargs"]["num_layers"],
            **init_g["synthesis_kwargs"],
        )
        self.D = StyleGAN2Discriminator(
            shape,
            cond,
            channel_base=init_d["channel_base"],
            channel_max=init_d["channel_max"],
            mapping_layers=init_d.get("mapping_kwargs", {}).get("num_layers", 8),
        )
        self.G.load_state_dict(golden.state("G/"))
        self.D.load_state_dict(golden.state("D/"))
        self.G.synthesis.forward = functools.partial(self.G.synthesis.forward, noise_mode="const")

    def fake(self, case: Case) -> Tensor:
        return self.G(case.inputs["z"], Condition(case.inputs["c_gen"]), noise_mode="const")

    def check_gradients(self, case: Case, network: nn.Module, loss: Tensor) -> None:
        """`loss` is [B]; the original back-propagates its mean times the gain."""
        (loss.mean() * self.settings["gain"]).backward()
        names = [name.removeprefix("grad.") for name in case.outputs if name.startswith("grad.")]
        parameters = dict(network.named_parameters())
        assert len(names) > 10
        for name in names:
            gradient = parameters[name].grad
            case.check(f"grad.{name}", torch.zeros_like(parameters[name]) if gradient is None else gradient)


@pytest.fixture(params=["loss_sg2", "loss_sg2_cond"])
def phases(request: pytest.FixtureRequest) -> Phases:
    return Phases(request.param)


def test_g_main_matches_the_original(phases: Phases) -> None:
    case = phases.cases["Gmain"]
    logits = phases.D(phases.fake(case), Condition(case.inputs["c_gen"]))
    case.check("Loss.scores.fake", logits[0])
    loss = NonSaturating().g_loss(logits)
    case.check("Loss.G.loss", loss[:, None])
    phases.check_gradients(case, phases.G, loss)


def test_d_main_matches_the_original(phases: Phases) -> None:
    case = phases.cases["Dmain"]
    real = phases.D(case.inputs["real_img"], Condition(case.inputs["c_real"]))
    fake = phases.D(phases.fake(case).detach(), Condition(case.inputs["c_gen"]))
    case.check("Loss.scores.real", real[0])
    loss = NonSaturating().d_loss(real, fake)
    case.check("Loss.D.loss", loss[:, None])
    phases.check_gradients(case, phases.D, loss)


def test_r1_matches_the_original(phases: Phases) -> None:
    case = phases.cases["Dreg"]
    step = context(D=phases.D, real=case.inputs["real_img"], cond=Condition(case.inputs["c_real"]))
    penalty = R1(gamma=phases.settings["r1_gamma"]).penalty(step)
    case.check("Loss.D.reg", penalty)
    case.check("Loss.r1_penalty", R1(gamma=2.0).penalty(step))
    phases.check_gradients(case, phases.D, penalty)


def test_path_length_matches_the_original(phases: Phases, monkeypatch: pytest.MonkeyPatch) -> None:
    case = phases.cases["Greg"]
    noise = case.inputs["pl_randn"]
    monkeypatch.setattr(random, "randn", lambda *shape, device=None: noise)
    regularizer = PathLength(
        weight=phases.settings["pl_weight"],
        decay=phases.settings["pl_decay"],
        batch_shrink=phases.settings["pl_batch_shrink"],
    )
    regularizer.pl_mean.fill_(phases.settings["pl_mean"])
    z = case.inputs["z"]
    step = context(
        G=phases.G,
        real=torch.zeros(len(z), *phases.G.image_shape),
        cond=Condition(case.inputs["c_gen"]),
        sample_z=lambda count: z[:count],
    )
    penalty = regularizer.penalty(step)
    case.check("Loss.G.reg", penalty)
    case.check("Loss.pl_penalty", penalty / regularizer.weight)
    case.check("pl_mean_after", regularizer.pl_mean)
    phases.check_gradients(case, phases.G, penalty)


# -------------------------------------------------------------------------------------------------------- small cases


class LinearD(Discriminator):
    """Two networks: sums over the image of w * x and of -2 w * x; the condition is a bias."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(shape))
        self.calls = 0

    def features(self, images: Tensor) -> Tensor:
        self.calls += 1
        return (images * self.w).sum((1, 2, 3))

    def score(self, features: Tensor, cond: Any = None) -> list[Tensor]:
        bias = 0 if cond is None or cond.embedding is None else cond.embedding @ torch.tensor([1.0, 10, 100])
        return [(features + bias)[:, None], (-2 * features)[:, None]]


class LinearG(Generator):
    """w = scale * z for each of two levels; the image is their weighted sum, so that |J| is known for given noise."""

    z_dim = w_dim = 12
    num_ws = 2
    image_shape = (3, 2, 2)

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.seen: list[Tensor] = []

    def mapping(self, z: Tensor, cond: Any = None, **_: Any) -> Tensor:
        self.seen.append(z)
        return z[:, None].repeat(1, 2, 1)

    def synthesis(self, ws: Tensor, cond: Any = None, *, noise_mode: str = "random") -> Tensor:
        return (self.scale * (ws[:, 0] + 2 * ws[:, 1])).view(-1, 3, 2, 2)


def test_r1_is_taken_before_the_augmentation() -> None:
    D = LinearD((3, 8, 8))
    step = context(D=D, real=torch.randn(4, 3, 8, 8), augment=lambda images: 3 * images.flip(3))
    penalty = R1(gamma=0.7).penalty(step)
    expected = 0.7 / 2 * (3 * (1 - 2) * D.w).square().sum()
    torch.testing.assert_close(penalty, expected.expand(4))
    (gradient,) = torch.autograd.grad(penalty.mean(), D.w)
    torch.testing.assert_close(gradient, 0.7 * 9 * D.w.detach())


def test_path_length_by_hand() -> None:
    """J is scale * (n, 2 n) / sqrt(HW) for noise n; the mean's own gradient is part of the penalty's."""
    G = LinearG(1.5)
    regularizer = PathLength(weight=3.0, decay=0.2, batch_shrink=2)
    regularizer.pl_mean.fill_(4.0)
    step = context(G=G, real=torch.zeros(6, 3, 2, 2), sample_z=lambda count: random.randn(count, 12))
    with batch_random("step", total=6):
        penalty = regularizer.penalty(step)
    with batch_random("step", total=6):
        random.randn(6, 12)
        noise = random.randn(6, 3, 2, 2)[:3] / math.sqrt(4)
    lengths = 1.5 * noise.square().sum((1, 2, 3)).mul((1 + 4) / 2).sqrt()
    mean = 4.0 + 0.2 * (lengths.mean() - 4.0)
    assert penalty.shape == (3,)
    torch.testing.assert_close(penalty.detach(), 3 * (lengths - mean).square())
    torch.testing.assert_close(regularizer.pl_mean, mean)
    assert list(regularizer.state_dict()) == ["pl_mean"]
    (gradient,) = torch.autograd.grad(penalty.mean(), G.scale)
    expected = (2 * 3 * (lengths - mean) * (lengths - 0.2 * lengths.mean()) / 1.5).mean()
    torch.testing.assert_close(gradient, expected)


def test_path_length_uses_other_latents_in_each_micro_batch() -> None:
    G = LinearG(1.0)
    step = context(G=G, sample_z=lambda count: random.randn(count, 12))
    for start in (0, 4):
        with batch_random("step", total=8, start=start, count=4):
            PathLength().penalty(step)
    first, second = G.seen
    assert len(first) == len(second) == 2
    assert not torch.equal(first, second)


def mismatch(
    rows: Iterable[Iterable[float]], regularizer: Mismatch, **given: Any
) -> tuple[Tensor, Tensor, LinearD]:
    """Penalty of images 0.01, 0.02, ... under conditions `rows`, the D used, and the features of the images."""
    cond = torch.tensor([list(row) for row in rows], dtype=torch.float32)
    D = LinearD((1, 1, 1))
    nn.init.ones_(D.w)
    real = 0.01 * torch.arange(1, len(cond) + 1).view(-1, 1, 1, 1)
    penalty = regularizer.penalty(context(D=D, real=real, cond=Condition(cond), **given))
    return penalty, real.flatten(), D


@pytest.mark.parametrize("form", ["hinge", "softplus"])
def test_mismatch_scores_the_previous_rows_condition(form: Any) -> None:
    penalty, x, D = mismatch([[1, 0, 0], [0, 1, 0], [0, 0, 1]], Mismatch(form=form, weight=0.5))
    first, second = x + torch.tensor([100.0, 1, 10]), -2 * x
    penalise = torch.nn.functional.softplus if form == "softplus" else lambda t: (1 + t).relu()
    torch.testing.assert_close(penalty, 0.5 * (penalise(first) + penalise(second)))
    (gradient,) = torch.autograd.grad(penalty.sum(), D.w)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize(
    ("rows", "counted"),
    [
        ([[1, 0, 0], [1, 0, 0], [0, 1, 0]], [True, False, True]),  # the same class
        ([[0, 0, 0], [0, 0, 0], [0, 0, 0]], [False, False, False]),  # all hidden
        ([[1, 0, 0], [0, 0, 0], [0, 1, 0]], [True, False, False]),  # own hidden, foreign hidden
        ([[1, 0, 0], [1, 1, 0], [0, 0, 1]], [True, False, True]),  # foreign is a part of the own
        ([[1, 0, 0]], [False]),
    ],
)
def test_mismatch_leaves_out_pairs_that_fit(rows: list[list[float]], counted: list[bool]) -> None:
    penalty, _, D = mismatch(rows, Mismatch())
    assert (penalty > 0).tolist() == counted
    (gradient,) = torch.autograd.grad(penalty.sum(), D.w)
    assert gradient.isfinite().all()


def test_mismatch_compares_tokens_under_their_mask() -> None:
    tokens = torch.ones(3, 2, 4)
    tokens[:, 1] = torch.tensor([5.0, 6, 7])[:, None]  # differ, but only in the second token
    D = LinearD((1, 1, 1))
    for second, counted in ((False, [False] * 3), (True, [True] * 3)):
        mask = torch.tensor([[True, second]]).expand(3, -1)
        step = context(D=D, real=torch.zeros(3, 1, 1, 1), cond=Condition(None, tokens, mask))
        assert (Mismatch().penalty(step) > 0).tolist() == counted


def test_mismatch_reuses_the_features_of_the_main_step() -> None:
    rows = [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]
    computed, x, D = mismatch(rows, Mismatch(), augment=lambda images: 2 * images)
    assert D.calls == 1
    reused, _, D = mismatch(rows, Mismatch(), features={"real": 2 * x})
    assert D.calls == 0
    torch.testing.assert_close(reused, computed)


def test_mismatch_needs_a_condition() -> None:
    with pytest.raises(GankitError, match="conditional"):
        Mismatch().penalty(context(D=LinearD((3, 8, 8))))


@pytest.mark.parametrize(("nimg", "left"), [(0, 1.0), (500, 0.75), (2000, 0.0), (9000, 0.0)])
def test_reconstruction_fades_out(nimg: int, left: float) -> None:
    fake = torch.rand(4, 3, 8, 8, requires_grad=True)
    step = context(real=torch.rand(4, 3, 8, 8), nimg=nimg, features={"fake": fake})
    penalty = Reconstruction(weight=8.0, until_kimg=2.0).penalty(step)
    torch.testing.assert_close(penalty, 8.0 * left * (fake - step.real).abs().mean((1, 2, 3)))
    assert penalty.requires_grad == (left > 0)  # afterwards it costs nothing


@pytest.mark.parametrize(("nimg", "weight"), [(0, 8.0), (1000, 5.0), (2000, 2.0), (9000, 2.0)])
def test_reconstruction_can_stay(nimg: int, weight: float) -> None:
    fake = torch.rand(4, 3, 8, 8, requires_grad=True)
    step = context(real=torch.rand(4, 3, 8, 8), nimg=nimg, features={"fake": fake})
    penalty = Reconstruction(weight=8.0, until_kimg=2.0, final_weight=2.0).penalty(step)
    torch.testing.assert_close(penalty, weight * (fake - step.real).abs().mean((1, 2, 3)))


# ------------------------------------------------------------------------------------------------- attributes


class Columns(NoCondition):
    """A conditioner of a class, two tags, and a number that is neither."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = CondSpec(c_dim=4)

    def columns(self) -> list[tuple[str, str]]:
        return [("cls", "cat"), ("text", "0"), ("tags", "red"), ("tags", "big")]


def attributes(**given: Any) -> tuple[Attributes, LinearD, Tensor]:
    """The regularizer with a reader of images that gives each attribute the feature as its logit, D, and images."""
    D = LinearD((1, 1, 1))
    nn.init.ones_(D.w)
    regularizer = Attributes(**given)
    regularizer.set_up(D, Columns(), (1, 1, 1))
    nn.init.ones_(regularizer.of_images.weight)
    return regularizer, D, torch.tensor([-1.0, 0.5, 2.0]).view(-1, 1, 1, 1)


class Reads(nn.Module):
    """A reader of conditions that gives each attribute the same logits, whatever the condition."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)


FULL = torch.tensor([[1.0, 7, 0, 0.5], [0, -7, 1, 0], [1, 0, 0, 1]])  # column 1 is no attribute


def test_attributes_teach_d_and_both_readers() -> None:
    regularizer, D, real = attributes(weight_d=0.5)
    regularizer.of_conditions = Reads(3.0, -3.0, 0.0)  # type: ignore[assignment]
    given = Condition(torch.zeros(3, 4))
    step = context(D=D, real=real, cond=given, full_cond=Condition(FULL), augment=lambda x: 2 * x)
    penalty = regularizer.penalty(step)

    def nats(logit: float, truth: float) -> float:
        return math.log1p(math.exp(-logit if truth else logit))

    wanted = [(1, 0, 1), (0, 1, 0), (1, 0, 1)]  # a weight of 0.5 is there, too
    by_hand = [
        sum(0.5 * nats(2 * x, t) + nats(r, t) for t, r in zip(truth, (3, -3, 0)))
        for x, truth in zip(real.flatten().tolist(), wanted)
    ]
    torch.testing.assert_close(penalty, torch.tensor(by_hand))
    trained = [D.w, regularizer.of_images.weight, *regularizer.of_conditions.parameters()]
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(penalty.sum(), trained))

    D.calls = 0
    step.features["real"] = D.w.flatten() * 2 * real.flatten()
    torch.testing.assert_close(regularizer.penalty(step), penalty)
    assert D.calls == 0


def test_attributes_ask_g_only_for_what_it_was_told() -> None:
    regularizer, D, real = attributes(weight_g=0.5, certainty=0.9)
    regularizer.of_conditions = Reads(3.0, -3.0, 1.0)  # type: ignore[assignment]
    fakes = real.clone().requires_grad_()
    step = context(side="G", D=D, real=real, cond=Condition(FULL), full_cond=Condition(FULL))
    step.features["fake features"] = D.features(fakes)
    penalty = regularizer.penalty(step)
    x = fakes.detach().flatten()
    # sure and right: the first attribute of images 0 and 2, the absence of the second there; never the third
    told = F.softplus(-x) + F.softplus(x)
    torch.testing.assert_close(penalty, 0.5 * torch.stack([told[0], torch.tensor(0.0), told[2]]))
    (gradient,) = torch.autograd.grad(penalty.sum(), fakes)
    assert (gradient.flatten() != 0).tolist() == [True, False, True]


def test_attributes_need_classes_or_tags() -> None:
    with pytest.raises(GankitError, match="classes or tags"):
        Attributes().set_up(LinearD((1, 1, 1)), NoCondition(), (1, 1, 1))
    with pytest.raises(GankitError, match="certainty"):
        Attributes(certainty=0.5)


@pytest.mark.parametrize(
    ("regularizer", "wrong"),
    [
        (Attributes, {"weight_d": -1.0}),
        (Attributes, {"weight_g": -0.1}),
        (Attributes, {"hidden": 0}),
        (Reconstruction, {"until_kimg": 0.0}),
        (Reconstruction, {"final_weight": -1.0}),
    ],
)
def test_options_out_of_range_are_named(regularizer: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(GankitError, match=next(iter(wrong))):
        regularizer(**wrong)


def test_options() -> None:
    assert check("regularizer", {"name": "r1", "gamma": 4})["gamma"] == 4.0
    with pytest.raises(GankitError, match="form"):
        check("regularizer", {"name": "mismatch", "form": "logistic"})
    with pytest.raises(GankitError, match="did you mean 'decay'"):
        check("regularizer", {"name": "path-length", "deca": 0.1})


def test_one_for_both_networks_cannot_be_lazy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lazy step would belong to neither optimiser, and never run."""
    monkeypatch.setattr(Reconstruction, "side", "both")
    monkeypatch.setattr(Reconstruction, "interval", 4)
    page = recipe.read("stylegan2", {"regularizers": {"reconstruction": {}}, "data.size": 8})
    with pytest.raises(GankitError, match=r"'reconstruction' acts on both .* interval 4.*must be 1"):
        build.build_regularizer(page, "reconstruction", LinearD((1, 1, 1)), NoCondition())
