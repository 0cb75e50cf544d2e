"""Stages: how a page and its changes are read, what is carried over, and that runs continue to the bit between them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conditioning_utils import make_bert
from PIL import Image
from runs import TINY, Result, assert_same, start_gankit, tensors_of, tiny_set, wait_for
from safetensors.torch import load_file

import gankit
from gankit.core.checkpoints import folders
from gankit.core.config import recipe as recipes
from gankit.core.config.stages import merge
from gankit.core.training.run_folder import STATE
from gankit.core.training.step import Stepper
from gankit.errors import GankitError
from gankit.evaluation.evaluate import Session

GROW = [
    {"until": 16, "train": {"lr_d": 0.01}},
    {
        "until": 28,
        "data": {"size": 32},
        "regularizers": {"path-length": False},
        "train": {
            "batch": 4,
            "lr_g": 0.01,
            "freeze": ["generator.mapping"],
            "blur_sigma": 2.0,
            "blur_kimg": 0.02,
        },
        "schedules": {"train": {"lr_d": {"warmup": 8}}},
    },
    {"data": {"size": 32}, "regularizers": {"path-length": False}, "train": {"batch": 4, "lr_g": 0.001}},
]
OPTIONS: dict[str, Any] = {
    **TINY,
    "conditioner": "class",
    "augmentation": {"name": "ada", "p": 0.3, "kimg": 0.1},
    "regularizers": {"r1": {"interval": 2}, "path-length": {"interval": 2}},
    "train.posthoc_ema": [0.1],
    "train.posthoc_every": 8,
    "train.checkpoint_every": 4,
    "train.keep": 100,
    "stages": GROW,
}


def train(out: Path, images: Path, length: int, **overrides: Any) -> Path:
    changes = {**OPTIONS, "train.images": length, **overrides}
    return gankit.train("stylegan2", out, data=str(images), overrides=changes, quiet=True)


def at(run: Path, nimg: int) -> Path:
    return run / "checkpoints" / f"{nimg:09d}"


def numbers(run: Path) -> list[int]:
    return [int(p.name) for p in folders.checkpoints(run)]


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 px to 16 images, 32 px with a frozen mapping to 28, then all of it."""
    out = tmp_path_factory.mktemp("stages") / "run"
    train(out, images, 40)
    return out


# -------------------------------------------------------------------------------------------------- the page


@pytest.mark.parametrize(
    ("page", "changes", "expected"),
    [
        ({"a": 1, "b": {"c": 2}}, {"b": {"d": 3}}, {"a": 1, "b": {"c": 2, "d": 3}}),
        ({"a": [1]}, {"a": [2]}, {"a": [2]}),
        ({"a": {"b": 1}}, {"a": None}, {"a": None}),
        ({"g": {"name": "x", "z": 1}}, {"g": {"w": 2}}, {"g": {"name": "x", "z": 1, "w": 2}}),
        ({"g": {"name": "x", "z": 1}}, {"g": {"name": "x", "w": 2}}, {"g": {"name": "x", "z": 1, "w": 2}}),
        ({"g": {"name": "x", "z": 1}}, {"g": {"name": "y", "w": 2}}, {"g": {"name": "y", "w": 2}}),
        ({"g": {"name": "x", "z": 1}}, {"g": "y"}, {"g": {"name": "y"}}),
        ({"g": {"name": "x", "z": 1}}, {"g": "x"}, {"g": {"name": "x", "z": 1}}),
        ({"g": None}, {"g": {"name": "y"}}, {"g": {"name": "y"}}),
    ],
)
def test_merge(page: Any, changes: Any, expected: Any) -> None:
    before = json.dumps(page)
    assert merge(page, changes) == expected
    assert json.dumps(page) == before


def test_a_stage_is_the_page_with_its_changes() -> None:
    recipe = recipes.read("stylegan2", {"stages": GROW, "data.size": 16})
    assert [recipe.at_stage(i).data.size for i in range(3)] == [(16, 16), (32, 32), (32, 32)]
    assert [recipe.at_stage(i).train.lr_d for i in range(3)] == [0.01, 0.0025, 0.0025]
    assert [set(recipe.at_stage(i).regularizers) for i in range(3)] == [{"r1", "path-length"}, {"r1"}, {"r1"}]
    assert recipe.at_stage(1).stages == []
    assert recipes.parse(yaml.safe_load(recipe.to_yaml()), "again") == recipe
    other = recipes.read("stylegan2", {"stages": [{**GROW[0], "until": "12"}, *GROW[1:]], "data.size": 16})
    assert recipe.differences(other) == ["stages.0.until: 16 -> 12"]
    finer = [GROW[0], {**GROW[1], "train": {**GROW[1]["train"], "micro_batch": 2}}, GROW[2]]
    assert recipe.differences(recipes.read("stylegan2", {"stages": finer, "data.size": 16})) == []
    plain = recipes.read("stylegan2")
    assert plain.at_stage(0) is plain


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([{}], r"page: a single stage is no stage"),
        ([{"untill": 5}, {}], r"page: stages.0: unknown key 'untill'; did you mean 'until'"),
        ([{}, {}], r"page: stages.0.until = None must be the number of images"),
        ([{"until": "9 dozen"}, {}], r"page: stages.0.until: '9 dozen' is not a number of images"),
        ([{"until": 5}, {"until": 5}, {}], r"page: stages.1.until = 5 must be .*above 5"),
        ([{"until": 5}, {"until": 9}], r"page: stages.1: the last stage ends at train.images"),
        ([{"until": 5, "train": {"seed": 3}}, {}], r"stages.0: train.seed is the same in all stages"),
        ([{"until": 5}, {"data": {"path": "x"}}], r"stages.1: data.path is the same in all stages"),
        (
            [{"until": 5}, {"data": {"sise": 3}}],
            r"page: stages.1: unknown key 'data.sise'; did you mean 'data.size'",
        ),
        (
            [{"until": 5}, {"generator": "stylgan2"}],
            r"page: stages.1: unknown generator 'stylgan2'; did you mean",
        ),
        ([{"until": 5}, {"train": {"batch": 0}}], r"page: stages.1: train.batch = 0: "),
        ([{"until": 5}, {"stages": []}], r"stages.1: unknown key 'stages'"),
        ([{"until": 5}, {"patience": 2}], r"page: stages.1: the last stage ends .* leave patience away"),
        ([{"until": 5, "patience": 0}, {}], r"page: stages.0.patience = 0 must be a number of evaluations"),
        (
            [{"until": 5, "patience": 2}, {}],
            r"page: stages.0.patience needs evaluations; set evaluation.every",
        ),
        ([{"until": 5}, {"restart": ["discriminater"]}], r"stages.1.restart: unknown part .*'discriminator'"),
        ([{"until": 5}, {"restart": "generator"}], r"stages.1.restart = 'generator' must be a list of gen"),
        ([{"until": 5, "restart": ["generator"]}, {}], r"stages.0: the first stage starts everything"),
        ([{"until": 5}, 3], r"page: stages.1 = 3"),
        ({"until": 5}, r"page: stages = "),
    ],
)
def test_mistakes_in_stages_are_named(stages: Any, message: str) -> None:
    with pytest.raises(GankitError, match=message) as error:
        recipes.parse({"stages": stages}, "page")
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------------------------------------------- the run


def test_a_run_goes_through_its_stages(run: Path) -> None:
    assert numbers(run) == [8, 16, 20, 24, 28, 32, 36, 40]
    pages = [recipes.read(str(at(run, n))) for n in (16, 20, 40)]
    assert [page.data.size for page in pages] == [(16, 16), (32, 32), (32, 32)]
    assert [page.stages for page in pages] == [[], [], []]
    assert len(recipes.read(str(run)).stages) == 3
    states = [json.loads((at(run, n) / STATE).read_text()) for n in (16, 20, 28, 32)]
    assert [(s["stage"], s["stage_start"]) for s in states] == [(0, 0), (1, 16), (1, 16), (2, 28)]
    assert gankit.load(at(run, 16))(cls="round", seeds=0)[0].size == (16, 16)
    assert gankit.load(run)(cls="round", seeds=0)[0].size == (32, 32)
    assert Image.open(run / "samples" / "real.png").size == (8 * 34 + 2, 3 * 34 + 2)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["nimg"] for line in log] == [8, 16, 24, 28, 32, 40]
    assert log[2]["schedule/train.lr_d"] == pytest.approx(
        (0 + 0.0025 * 4 / 8) / 2
    )  # from the stage's beginning


@pytest.mark.parametrize(
    "stops",
    [
        pytest.param((8, 24), marks=pytest.mark.slow, id="within"),
        pytest.param((16, 28), id="between"),
        pytest.param((20, 36), marks=pytest.mark.slow, id="just after"),
    ],
)
def test_stopped_runs_continue_to_the_bit(
    stops: tuple[int, ...], run: Path, images: Path, tmp_path: Path
) -> None:
    for length in (*stops, 40):
        train(tmp_path / "parts", images, length)
    assert numbers(tmp_path / "parts") == numbers(run)
    for n in (20, 32, 40):
        assert_same(at(run, n), at(tmp_path / "parts", n))
        states = [json.loads((at(r, n) / STATE).read_text()) for r in (run, tmp_path / "parts")]
        assert states[0] == states[1]
    assert_same(run / "posthoc" / "000000040-0.1", tmp_path / "parts" / "posthoc" / "000000040-0.1")


def test_a_killed_run_continues_to_the_bit(
    run: Path, images: Path, tmp_path: Path, gankit_cli: Callable[..., Result]
) -> None:
    """The stages of `run`, of which only the last is longer."""
    out = tmp_path / "killed"
    extra = {key: value for key, value in OPTIONS.items() if key not in TINY}
    command = ("train", "stylegan2", "--data", images, "--out", out, "--workers", 0)
    options = tiny_set(**extra)
    process = start_gankit(*command, "--images", 10**6, *options)
    wait_for(lambda: 20 in numbers(out), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    killed = max(numbers(out))
    result = gankit_cli(*command, "--images", max(killed + 8, 40), *options)
    assert (result.code, result.err) == (0, "")
    assert_same(at(run, 40), at(out, 40))


def test_what_a_new_stage_starts_from(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    still = {"lr_g": 1e-12, "lr_d": 1e-12, "ema_kimg": 1e6}
    stages = [GROW[0], {**GROW[1], "train": {**GROW[1]["train"], **still}, "schedules": {}}, {**GROW[2]}]
    stages[2] = {**stages[1], "train": {"batch": 4, **still}}  # all trained again
    del stages[2]["until"]
    kept: list[Stepper] = []
    original = Stepper.run
    monkeypatch.setattr(Stepper, "run", lambda self, *a, **k: (kept.append(self), original(self, *a, **k))[1])
    train(tmp_path, images, 32, stages=stages)
    old, new, newest = (tensors_of(at(tmp_path, n)) for n in (16, 20, 32))
    fresh = 0
    for name, tensor in new.items():
        if name.endswith(("w_avg", "resample_filter", "noise_const")) or "optimizer" in name:
            continue
        if name.startswith(("generator", "training/generator")):
            average = "generator.safetensors:" + name.partition(":")[2]
            if average in old:  # both go on from the average
                assert torch.allclose(tensor, old[average], atol=1e-6), name
            else:
                assert "b32" in name
                fresh += 1
        elif name.startswith("training/discriminator") and name in old:
            assert torch.allclose(tensor, old[name], atol=1e-6), name
    assert fresh > 3
    for name, tensor in newest.items():
        if name.startswith("training/discriminator") and name.endswith("weight"):
            assert torch.allclose(tensor, new[name], atol=1e-6), name

    steppers = list(dict.fromkeys(kept))
    assert len(steppers) == 3
    grown, all_of_it = steppers[1:]
    first = all_of_it.parts.D.b16.conv0.weight  # type: ignore[union-attr, attr-defined]
    # main steps and the lazy regularizer's: moments went on from stage 2, which began anew
    assert grown.opt_d.state[grown.parts.D.b16.conv0.weight]["step"] == 3 + 2  # type: ignore[union-attr, attr-defined, index]
    assert all_of_it.opt_d.state[first]["step"] == 5 + 1
    assert grown.posthoc.start == 16
    assert all_of_it.posthoc.start == 16


def test_networks_that_begin_anew(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights and moments of D are those of a fresh one; all else goes on."""
    kept: list[Stepper] = []
    original = Stepper.run
    monkeypatch.setattr(Stepper, "run", lambda self, *a, **k: (kept.append(self), original(self, *a, **k))[1])
    still = {
        "train": {"batch": 4, "lr_g": 1e-12, "lr_d": 1e-12},
        "schedules": {},
        "restart": ["discriminator"],
    }
    train(tmp_path, images, 20, stages=[{"until": 16, "train": {"batch": 4}}, still])
    old, new = tensors_of(at(tmp_path, 16)), tensors_of(at(tmp_path, 20))
    changed = {n: not torch.allclose(t, new[n], atol=1e-6) for n, t in old.items() if n.endswith(".weight")}
    assert all(value for name, value in changed.items() if name.startswith("training/discriminator"))
    assert not any(value for name, value in changed.items() if name.startswith("training/generator"))
    last = list(dict.fromkeys(kept))[-1]
    assert last.opt_d.state[last.parts.D.b16.conv0.weight]["step"] <= 2  # type: ignore[union-attr, attr-defined, index]
    assert last.opt_g.state[last.parts.G.synthesis.b16.conv1.weight]["step"] > 2  # type: ignore[union-attr, attr-defined, index]


def test_a_stage_that_changes_nothing_changes_nothing(images: Path, tmp_path: Path) -> None:
    """Weights, average, moments, augmentation, regularizers and post-hoc averages go on as if there were no stages."""
    plain = train(tmp_path / "plain", images, 40, stages=[])
    staged = train(tmp_path / "staged", images, 40, stages=[{"until": 16}, {}])
    assert_same(plain, staged)
    slower = train(tmp_path / "slower", images, 40, stages=[{"until": 16}, {"train": {"lr_d": 0.0001}}])
    assert_same(at(tmp_path / "plain", 16), at(tmp_path / "slower", 16))
    with pytest.raises(AssertionError):
        assert_same(plain, slower, 1e-3)


def test_a_stage_ends_when_nothing_improves(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After two measurements in a row that are no better than the best of the stage, also across an interruption."""
    monkeypatch.setenv("GANKIT_CACHE", str(tmp_path / "cache"))
    values = {8: 5.0, 16: 3.0, 24: 3.0, 32: 4.0, 40: 9.0, 48: 8.0, 56: 7.0}

    def measure(self: Session) -> dict[str, dict[str, Any]]:
        return {"kid": {"values": {"kid": values[self.bench.pipe.nimg], "kid_std": 0.0}}}

    monkeypatch.setattr(Session, "measure", measure)
    options = {
        "evaluation.every": 8,
        "evaluation.num": 12,
        "evaluation.metrics": {"kid": {}},
        "evaluation.feature": {
            "name": "timm-cnn",
            "model": "test_efficientnet.r160_in1k",
            "pretrained": False,
        },
        "stages": [{"until": 80, "patience": 2}, {"data": {"size": 32}}],
    }
    train(tmp_path / "whole", images, 56, **options)
    states = [json.loads((at(tmp_path / "whole", n) / STATE).read_text()) for n in (24, 32, 40, 56)]
    assert [s["stage"] for s in states] == [0, 0, 1, 1]
    assert [s["stage_over"] for s in states] == [False, True, False, False]
    assert [s["stage_start"] for s in states] == [0, 0, 32, 32]
    for length in (24, 32, 56):
        train(tmp_path / "parts", images, length, **options)
    assert_same(at(tmp_path / "whole", 56), at(tmp_path / "parts", 56))


# --------------------------------------------------------------------------------------- StyleGAN-T's phases


def test_the_text_encoder_is_trained_after_the_generator(images: Path, tmp_path: Path) -> None:
    """StyleGAN-T: first all but the encoder; then the encoder alone, D judging by the pretrained one; then a larger
    network that keeps the encoder."""
    text = {"name": "text", "model": str(make_bert(tmp_path)), "normalize": False}
    second = {"until": 16, "conditioner": {"trainable": True}}
    second["train"] = {"freeze": ["generator"], "judge_condition": "pretrained", "lr_conditioner": 0.01}
    third = {"conditioner": {"trainable": True}, "data": {"size": 32}}
    third["train"] = {"freeze": ["conditioner"], "judge_condition": "pretrained"}
    options = {
        **{key: value for key, value in OPTIONS.items() if not key.startswith("train.posthoc")},
        "conditioner": text,
        "generator": {"name": "stylegan-t", "z_dim": 8, "channel_base": 128, "num_res_blocks": 1},
        "regularizers": {},
        "train.checkpoint_every": 8,
        "stages": [{"until": 8}, second, third],
    }

    def go(out: Path, length: int) -> None:
        changes = {**options, "train.images": length}
        gankit.train("stylegan2", out, data=str(images), overrides=changes, quiet=True)

    out = tmp_path / "run"
    go(out, 24)
    first, tuned, grown = (tensors_of(at(out, n)) for n in (8, 16, 24))
    average = "generator.safetensors:synthesis.b8.torgb.weight"
    encoder = "conditioner.safetensors:encoder.embeddings.word_embeddings.weight"
    pretrained = load_file(tmp_path / "model.safetensors")["embeddings.word_embeddings.weight"]
    assert encoder not in first
    assert torch.allclose(tuned[f"training/{average}"], first[average], atol=1e-6)  # frozen
    assert not torch.equal(tuned[f"training/{encoder}"], pretrained)
    judge = "training/discriminator.safetensors:b4.out.weight"
    assert not torch.equal(tuned[judge], first[judge])
    assert torch.equal(grown[encoder], tuned[encoder])  # kept, frozen
    assert not torch.equal(grown[f"training/{average}"], tuned[f"training/{average}"])
    assert gankit.load(out)("a square", seeds=0)[0].size == (32, 32)

    for length in (16, 24):
        go(tmp_path / "parts", length)
    assert_same(at(out, 24), at(tmp_path / "parts", 24))


def test_d_judges_by_the_pretrained_encoder(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, torch.Tensor, torch.Tensor | None]] = []
    original = Stepper._fake

    def spy(self: Stepper, context: Any, **kwargs: Any) -> torch.Tensor:
        g_cond = context.g_cond
        seen.append((context.side, context.cond.embedding, None if g_cond is None else g_cond.embedding))
        return original(self, context, **kwargs)

    monkeypatch.setattr(Stepper, "_fake", spy)
    text = {
        "name": "text",
        "model": str(make_bert(tmp_path)),
        "trainable": True,
        "noise": 0.5,
        "dropout": 0.3,
    }
    changes = {"conditioner": text, "train.lr_conditioner": 0.1, "regularizers": {}, "stages": []}
    train(tmp_path / "a", images, 16, **changes, **{"train.judge_condition": "pretrained"})
    for number, (side, judged, shown) in enumerate(seen):
        assert shown is not None
        assert shown.requires_grad is (side == "G")
        assert not judged.requires_grad
        same_rows = ((judged == 0).all(1) == (shown == 0).all(1)).all()  # nothing shown where D sees nothing
        assert same_rows
        assert torch.allclose(judged, shown, atol=1e-5) is (number == 0)  # before the encoder has moved
    seen.clear()
    train(tmp_path / "b", images, 8, **changes)
    assert all(shown is None for _, _, shown in seen)
