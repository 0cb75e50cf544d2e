"""Metrics of the model itself and of single images, against their definitions."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conditioning_utils import SIDE, make_open_clip
from torch import Tensor, nn

from gankit import GankitError
from gankit.core.config import options
from gankit.core.interfaces.conditions import CondSpec
from gankit.core.interfaces.labels import Label
from gankit.core.interfaces.networks import FeatureNetwork, Tap
from gankit.core.runtime.random import rand, randn
from gankit.evaluation.metric_context import Bench
from gankit.plugins.metrics import equivariance as eq
from gankit.plugins.metrics.accuracy import Accuracy
from gankit.plugins.metrics.clip_score import CLIPScore
from gankit.plugins.metrics.path_length import (
    PathLengthW,
    PathLengthWFull,
    PathLengthZ,
    PathLengthZFull,
    slerp,
)
from gankit.plugins.metrics.perceptual import perceptual_vectors
from gankit.testing.common import seeded
from gankit.testing.metrics import Waves, toy_bench


def distance(bench: Bench, a: Tensor, b: Tensor) -> float:
    """LPIPS with weights 1 of two images [3, H, W], place by place."""
    network = bench.backbone_of(PathLengthW()).network
    total = 0.0
    for x, y in zip(network(a[None]), network(b[None])):
        places = []
        for p, q in zip(x[0].flatten(1).T.numpy().astype(float), y[0].flatten(1).T.numpy().astype(float)):
            places.append(((p / np.linalg.norm(p) - q / np.linalg.norm(q)) ** 2).sum())
        total += float(np.mean(places))
    return total


# -------------------------------------------------------------------------------------------------- path length


@pytest.mark.parametrize("kind", [PathLengthW, PathLengthWFull, PathLengthZ, PathLengthZFull])
def test_path_length_by_its_definition(kind: type[PathLengthW]) -> None:
    bench = toy_bench(6)
    generator, epsilon = bench.pipe.generator, 0.05
    found = kind(epsilon=epsilon).probe(bench)
    lengths = []
    with torch.no_grad():
        for part in bench.parts(6):
            with part.random("path"):
                latents = randn(part.count, 2, generator.z_dim).numpy()
                starts = rand(part.count, 1)[:, 0].tolist()
            for (z0, z1), t in zip(latents, starts):
                pictures = []
                for place in (t * kind.full, t * kind.full + epsilon):
                    if kind.space == "z":
                        a, b = z0 / np.linalg.norm(z0), z1 / np.linalg.norm(z1)
                        angle = math.acos(a @ b)
                        z = (math.sin((1 - place) * angle) * a + math.sin(place * angle) * b) / math.sin(
                            angle
                        )
                        ws = generator.mapping(torch.from_numpy(z * math.sqrt(8)).float()[None])
                    else:
                        w0, w1 = (generator.mapping(torch.from_numpy(z)[None]) for z in (z0, z1))
                        ws = w0 + (w1 - w0) * place
                    pictures.append(generator.synthesis(ws)[0])
                lengths.append(distance(bench, *pictures) / epsilon**2)
    kept = sorted(lengths)  # the smallest and the largest of few are the percentiles themselves
    assert found["ppl"] == pytest.approx(np.mean(kept), rel=1e-4)
    assert found["ppl_std"] == pytest.approx(np.std(kept), rel=1e-4)


def test_path_length_leaves_out_extremes(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(1000.0)
    monkeypatch.setattr(Bench, "rows", lambda *_, **__: values[::-1, None])
    # method 'lower' of 1% of 0..999 is 9, 'higher' of 99% is 990; both stay
    assert PathLengthW().probe(toy_bench())["ppl"] == np.mean(values[9:991])


def test_both_ends_of_a_step_have_the_same_noise() -> None:
    """Otherwise noise over epsilon^2 is all that there is."""
    bench = toy_bench(8)
    plain = PathLengthW(epsilon=1e-2).probe(bench)["ppl"]
    synthesis = bench.pipe.generator.synthesis

    class Noisy(nn.Module):
        def forward(self, ws: Tensor, cond: Any = None) -> Tensor:
            return synthesis(ws) + 0.02 * randn(len(ws), 3, 32, 32)

    bench.pipe.generator.synthesis = Noisy()
    assert 0.2 * plain < PathLengthW(epsilon=1e-2).probe(bench)["ppl"] < 5 * plain


def test_crop_is_the_middle_of_a_face() -> None:
    image = torch.arange(64.0).view(1, 1, 8, 8)
    assert PathLengthW(crop=True)._cropped(image)[0, 0, :, 0].tolist() == [26, 34, 42, 50]
    assert PathLengthW(crop=True)._cropped(image)[0, 0, 0].tolist() == [26, 27, 28, 29]


def test_slerp_keeps_to_the_sphere() -> None:
    a, b = torch.randn(5, 16), torch.randn(5, 16)
    for t in (0.0, 0.3, 1.0):
        assert torch.allclose(slerp(a, b, torch.full((5, 1), t)).norm(dim=1), torch.full((5,), 4.0))
    assert torch.allclose(slerp(a, b, torch.ones(5, 1)), b / b.norm(dim=1, keepdim=True) * 4, atol=1e-4)


# --------------------------------------------------------------------------------------------------- diversity


def test_diversity_is_the_mean_over_pairs() -> None:
    bench = toy_bench(12, seed=3)
    found = options.build("metric", {"name": "diversity", "images": 4}).probe(bench)
    rows = []
    with torch.no_grad():
        for prompt in range(3):
            drawn = bench.pipe.generator(bench.latents(range(prompt * 4, prompt * 4 + 4)))
            rows.append(np.mean([distance(bench, a, b) for a, b in itertools.combinations(drawn, 2)]))
    assert found["diversity"] == pytest.approx(np.mean(rows), rel=1e-4)
    assert found["diversity_se"] == pytest.approx(np.std(rows, ddof=1) / math.sqrt(3), rel=1e-4)


def test_diversity_of_a_collapsed_model_is_zero() -> None:
    bench = toy_bench(16)
    bench.psi = 0.0
    assert options.build("metric", "diversity").probe(bench)["diversity"] < 1e-6


def test_perceptual_vectors_take_any_channels() -> None:
    bench = toy_bench()
    backbone = bench.backbone_of(PathLengthW())
    grey = torch.rand(1, 1, 32, 32) * 2 - 1
    opaque = torch.cat([grey.expand(-1, 3, -1, -1), torch.ones(1, 1, 32, 32)], 1)
    clear = torch.cat([grey.expand(-1, 3, -1, -1), -torch.ones(1, 1, 32, 32)], 1)
    assert torch.allclose(perceptual_vectors(backbone, opaque), perceptual_vectors(backbone, grey))
    white = perceptual_vectors(backbone, torch.ones(1, 3, 32, 32))
    assert torch.allclose(perceptual_vectors(backbone, clear), white, atol=1e-5)


# ------------------------------------------------------------------------------------------------- equivariance


def equivariant(**highest: float) -> Bench:
    bench = toy_bench(16)
    with seeded(7):
        bench.pipe.generator = Waves((3, 64, 64), **highest).eval().requires_grad_(False)
    return bench


def test_equivariance_of_smooth_waves() -> None:
    """They are equivariant by construction; what is left is the error of the filters that move the picture."""
    bench = equivariant(highest=3.0)
    assert eq.Translation().probe(bench)["eq_t"] > 120
    assert eq.FractionalTranslation().probe(bench)["eq_t_frac"] > 70
    assert eq.Rotation().probe(bench)["eq_r"] > 90
    transform = bench.pipe.generator.synthesis.input.transform
    assert torch.equal(transform, torch.eye(3))  # is left as it was


@pytest.mark.parametrize("metric", [eq.Translation, eq.FractionalTranslation, eq.Rotation])
def test_equivariance_of_a_picture_that_stays_where_it_is(metric: type[eq.Equivariance]) -> None:
    """By the formula: 20 log10(2) - 10 log10(mean squared difference)."""
    bench = equivariant()
    generator = bench.pipe.generator

    class Still(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.input = nn.Module()
            self.input.register_buffer("transform", torch.eye(3))

        def forward(self, ws: Tensor, cond: Any = None) -> Tensor:
            generator_input.transform.copy_(torch.eye(3))
            return synthesis(ws)

    synthesis = generator.synthesis
    generator_input = synthesis.input
    generator.synthesis = Still()
    (value,) = metric().probe(bench).values()
    assert 5 < value < 35


def test_a_shift_is_a_shift() -> None:
    x = torch.arange(12.0).view(1, 1, 3, 4)
    assert eq.shift(x, 1, 0)[0, 0].tolist() == [[0, 0, 1, 2], [0, 4, 5, 6], [0, 8, 9, 10]]
    assert eq.shift(x, -1, 2)[0, 0].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [1, 2, 3, 0]]
    assert not eq.shift(x, 4, 0).any()
    # a whole distance as a fractional one, where all taps lie inside
    image = torch.rand(1, 1, 16, 16)
    moved = eq.fractional_shift(image, 2.0, -3.0)
    rows, columns = eq.covered(-3.0, 16), eq.covered(2.0, 16)
    assert (rows.start, rows.stop, columns.start, columns.stop) == (0, 11, 5, 16)
    assert torch.allclose(moved[:, :, rows, columns], eq.shift(image, 2, -3)[:, :, rows, columns], atol=1e-6)


def test_lanczos_taps_are_those_of_the_paper() -> None:
    """sinc(o - f) sinc((o - f) / 3) for o = -2..3, over their sum, at pixels i + o from the source."""
    impulse = torch.zeros(1, 1, 1, 21)
    impulse[..., 10] = 1
    moved = eq.fractional_shift(impulse, 1.25, 0.0)[0, 0, 0]
    f = 0.25
    taps = {o: np.sinc(o - f) * np.sinc((o - f) / 3) for o in range(-2, 4)}
    total = sum(taps.values())
    for o, tap in taps.items():
        assert float(moved[10 + 1 + o]) == pytest.approx(tap / total, abs=1e-6)
    assert int((moved != 0).sum()) == 6


def test_turning_the_picture_turns_it_the_right_way() -> None:
    """A quarter turn needs no filter between: rows become columns."""
    with seeded(1):
        image = torch.nn.functional.interpolate(torch.rand(1, 1, 6, 6), (48, 48), mode="bicubic")
    turned, mask = eq.rotate(image, math.pi / 2)
    inner = mask.bool()
    assert 0.3 < inner.float().mean() < 1
    # Rot(pi/2) = [[0, 1], [-1, 0]] takes the right (1, 0) to the top (0, -1)
    expected = torch.rot90(image, 1, (2, 3))
    filtered, _ = eq.limit_band(expected, math.pi / 2)
    assert (turned - filtered)[inner].abs().max() < 2e-3
    assert (turned - torch.rot90(image, -1, (2, 3)))[inner].abs().max() > 0.1


def test_other_generators_have_no_equivariance() -> None:
    bench = toy_bench()
    bench.pipe.generator.synthesis = nn.Identity()
    with pytest.raises(GankitError, match="leave eq-t, eq-t-frac and eq-r out"):
        eq.Translation().check(bench)


# -------------------------------------------------------------------------------------------------- accuracy


class Reader(FeatureNetwork):
    """Reads its logits off the first pixels of the first channel."""

    name, num_pooled = "reader", 6
    taps = [Tap(3, 1)]
    input_side, input_multiple = 8, 1

    def __init__(self, answers: dict[str, list[str | None]], count: int) -> None:
        super().__init__()
        self.answers, self.num_logits = answers, count

    def forward(self, images: Tensor) -> list[Tensor]:
        return [images]

    def pooled(self, images: Tensor) -> Tensor:
        return images[:, 0, 0, :6]

    def logits(self, images: Tensor) -> Tensor:
        return images[:, 0, 0, : self.num_logits]


def pictures(*rows: list[float]) -> Tensor:
    images = torch.zeros(len(rows), 3, 8, 8)
    for image, row in zip(images, rows):
        image[0, 0, : len(row)] = torch.tensor(row)
    return images


def test_accuracy_per_question_and_answer() -> None:
    answers = {"class": ["cat", "dog"], "colour": ["red", "blue", "", None], "smiling": ["smile"]}
    metric = Accuracy(classifier=Reader(answers, 7))  # type: ignore[arg-type]
    labels = [
        Label("cat", {"red": 1.0, "smile": 1.0}),
        Label("dog", {"blue": 1.0}),
        Label("dog", {"tall": 1.0}),  # no colour: the answer ''
        Label("cat"),  # nothing is known but the class
        Label(None, {"red": 1.0, "blue": 1.0}),  # two colours, not to be judged
    ]
    images = pictures(
        [1, 0, 0.9, 0, 0, 0, 0.5],  # all right
        [1, 0, 0, 0.9, 0, 0, 0.5],  # wrong class, right colour, smiles wrongly
        [0, 1, 0, 0, 0, 0.9, -0.5],  # 'not visible' where it should be 'none'
        [1, 0, 0.9, 0, 0, 0, 1],
        [1, 0, 0.9, 0, 0, 0, -1],
    )
    values, details = metric.summarise(metric.score(images, labels).double().numpy())
    assert values["accuracy_class"] == 3 / 4
    assert values["accuracy_colour"] == 2 / 3
    assert values["accuracy_smiling"] == 3 / 4
    assert values["accuracy"] == 8 / 11
    assert details["colour"]["red"] == {"accuracy": 1.0, "images": 1}
    assert details["colour"]["none"] == {"accuracy": 0.0, "images": 1}
    assert details["smiling"] == {
        "no smile": {"accuracy": 2 / 3, "images": 3},
        "smile": {"accuracy": 1.0, "images": 1},
    }
    assert set(values) == set(metric.values)


def test_top_1_accuracy_by_classes() -> None:
    metric = Accuracy(classifier=Reader({}, 4), classes={"cat": 2, "dog": 3})  # type: ignore[arg-type]
    labels = [Label("cat"), Label("dog"), Label("dog")]
    values, details = metric.summarise(
        metric.score(pictures([0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0]), labels).numpy()
    )
    assert values["accuracy"] == 2 / 3
    assert values["accuracy_se"] == pytest.approx(math.sqrt(2 / 3 * 1 / 3 / 3))
    assert details["class"] == {"cat": {"accuracy": 1, "images": 1}, "dog": {"accuracy": 0.5, "images": 2}}
    with pytest.raises(GankitError, match="unknown class 'bird'"):
        metric.score(pictures([0.0]), [Label("bird")])
    by_number = Accuracy(classifier=Reader({}, 4))  # type: ignore[arg-type]
    assert by_number.score(pictures([0, 1]), [Label("1")]).tolist() == [[1, 1]]
    with pytest.raises(GankitError, match="'cat' is not a number of a class of 'reader'"):
        by_number.score(pictures([0, 1]), [Label("cat")])


def test_accuracy_is_not_made_of_nan_or_nothing() -> None:
    metric = Accuracy(classifier=Reader({"class": ["cat", "dog"]}, 2))  # type: ignore[arg-type]
    assert not metric.score(pictures([math.nan, 0]), [Label("cat")]).isfinite().all()
    with pytest.raises(GankitError, match="none of the labels of 1 images answers the question 'class'"):
        metric.summarise(metric.score(pictures([1, 0]), [Label(None, {"red": 1.0})]).numpy())
    with pytest.raises(GankitError, match="unknown class 'cow'"):
        metric.score(pictures([1, 0]), [Label("cow")])
    with pytest.raises(GankitError, match="has no classifier"):
        Accuracy(classifier=Reader({}, 0))  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------- CLIP score


def test_clip_score_is_the_mean_cosine(tmp_path: Path) -> None:
    import open_clip
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    name, weights = make_open_clip(tmp_path)
    metric = CLIPScore(model=name, pretrained=str(weights))
    with seeded(2), torch.no_grad():
        images = torch.rand(3, 3, SIDE, SIDE) * 2 - 1
        labels = [Label(texts=(text,)) for text in ("a cat", "red hat", "a cat")]
        values, _ = metric.summarise(metric.score(images, labels).double().numpy())
        pixels = images * 0.5 + 0.5
        normal = torch.stack(
            [(pixels[:, i] - m) / s for i, (m, s) in enumerate(zip(OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))],
            1,
        )
        seen = metric.clip.encode_image(normal)
        said = metric.clip.encode_text(open_clip.get_tokenizer(name)(["a cat", "red hat", "a cat"]))
    a, b = seen.double().numpy(), said.double().numpy()
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert values["clip_score"] == pytest.approx(cosines.mean(), rel=1e-5)
    assert values["clip_score_se"] == pytest.approx(cosines.std(ddof=1) / math.sqrt(3), rel=1e-4)
    assert metric.facts()["feature"]["sha256"]


@pytest.mark.slow
def test_equivariance_of_stylegan3() -> None:
    """Untrained: configuration R turns, T does not, both move (sizes as a check of padding and filters)."""
    found = {}
    for name, extra in (("t", {}), ("r", {"conv_kernel": 1, "use_radial_filters": True})):
        bench = toy_bench(4)
        spec = {"name": "stylegan3", "channel_base": 4096, "channel_max": 64, **extra}
        with seeded(0):
            G = options.build("generator", spec, (3, 64, 64), CondSpec())
        bench.pipe.generator = G.eval().requires_grad_(False)
        metrics = (eq.Translation(), eq.FractionalTranslation(), eq.Rotation())
        found[name] = [value for metric in metrics for value in metric.probe(bench).values()]
    assert min(found["r"]) > 60
    assert min(found["t"][:2]) > 60
    assert found["t"][2] < 50
