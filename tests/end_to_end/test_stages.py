"""Runs in stages: what is left on disk, and that they continue to the bit between them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conditioning_utils import make_bert
from PIL import Image
from runs import TINY, Result, assert_same, start_gankit, tensors_of, tiny_set, wait_for
from safetensors.torch import load_file
from stages import OPTIONS, at, numbers, train

import gankit
from gankit.core.config import recipe as recipes
from gankit.core.training.phases import Losses
from gankit.core.training.run_folder import STATE
from gankit.evaluation.evaluate import Session


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 px to 16 images, 32 px with a frozen mapping to 28, then all of it."""
    out = tmp_path_factory.mktemp("stages") / "run"
    train(out, images, 40)
    return out


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


def test_a_stage_ends_when_nothing_improves(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After two measurements in a row that are no better than the best of the stage, also across an interruption."""
    monkeypatch.setenv("GANKIT_CACHE", str(tmp_path / "cache"))
    values = {8: 5.0, 16: 3.0, 24: 3.0, 32: 4.0, 40: 9.0, 48: 8.0, 56: 7.0}

    def measure(self: Session) -> dict[str, dict[str, Any]]:
        return {"kid": {"values": {"kid": values[self.context.pipe.nimg], "kid_std": 0.0}}}

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
    original = Losses._fake

    def spy(self: Losses, context: Any, **kwargs: Any) -> torch.Tensor:
        g_cond = context.g_cond
        seen.append((context.side, context.cond.embedding, None if g_cond is None else g_cond.embedding))
        return original(self, context, **kwargs)

    monkeypatch.setattr(Losses, "_fake", spy)
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
