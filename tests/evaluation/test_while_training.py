"""Metrics while training: they change nothing, cost what they say, keep the best, and never end a run."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from report_utils import Page
from runs import Result, assert_same, tiny_set

from gankit.core.checkpoints import folders
from gankit.evaluation.evaluate import Session
from gankit.evaluation.metric_context import BatchSlice, MetricContext, to_levels
from gankit.report import write_report

NETWORK = {"name": "timm-cnn", "model": "test_efficientnet.r160_in1k", "pretrained": False}
TRAINING = tiny_set(
    conditioner={"name": "combined", "parts": {"class": {"dropout": 0.5}, "tags": {"noise": 0.05}}},
    augmentation={"name": "ada", "pipeline": "bgc", "p": 0.3, "kimg": 0.1},
    regularizers__r1={"interval": 2},
    train__style_mixing=0.9,
    train__checkpoint_every=8,
)
MEASURED = (
    *("--set", f"evaluation.feature={json.dumps(NETWORK)}", "--set", "evaluation.num=12"),
    *(
        "--set",
        "evaluation.batch=5",
        "--set",
        'evaluation.metrics={"kid": {}, "pr": {"k": 1, "density_k": 1}}',
    ),
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def train(images: Path, tmp_path: Path, gankit_cli: Callable[..., Result]) -> Callable[..., Result]:
    def run(name: str, length: int, *more: object) -> Result:
        return gankit_cli(
            *("train", "stylegan2", "--data", images, "--out", tmp_path / name, *TRAINING),
            *("--images", length, *more),
        )

    return run


def pages(run: Path) -> dict[int, dict[str, Any]]:
    return {int(p.stem): json.loads(p.read_text()) for p in sorted((run / "evaluations").glob("*.json"))}


def kept(run: Path) -> list[int]:
    return [int(folder.name) for folder in folders.checkpoints(run)]


def test_a_run_with_evaluations_equals_one_without(
    train: Callable[..., Result], tmp_path: Path, images: Path
) -> None:
    """Also when it was interrupted, and whatever state the global random numbers of torch are in."""
    plain = train("plain", 32, "--keep", 9)
    assert (plain.code, plain.err) == (0, "")
    measured = train("measured", 32, "--keep", 9, "--eval-every", 8, *MEASURED)
    assert (measured.code, measured.err) == (0, "")
    first = train("resumed", 16, "--keep", 9, "--eval-every", 8, *MEASURED)
    (tmp_path / "resumed" / "evaluations" / "000000024.json").write_text(
        "{}"
    )  # of a process that was killed there
    again = train("resumed", 32, "--keep", 9, "--eval-every", 8, *MEASURED)
    assert (first.code, again.code) == (0, 0)
    assert (
        kept(tmp_path / "plain")
        == kept(tmp_path / "measured")
        == kept(tmp_path / "resumed")
        == [8, 16, 24, 32]
    )
    for nimg in (8, 32):
        folders = [
            tmp_path / name / "checkpoints" / f"{nimg:09d}" for name in ("plain", "measured", "resumed")
        ]
        assert_same(folders[0], folders[1])
        assert_same(folders[0], folders[2])
        states = [json.loads((folder / "training" / "state.json").read_text()) for folder in folders]
        assert states[0]["files"] == states[1]["files"] == states[2]["files"]
    assert not (tmp_path / "plain" / "evaluations").exists()
    found, resumed = pages(tmp_path / "measured"), pages(tmp_path / "resumed")
    assert list(found) == list(resumed) == [8, 16, 24, 32]
    for nimg, page in found.items():
        assert page["generated"]["trained_images"] == nimg
        assert page["metrics"] == resumed[nimg]["metrics"]
    assert (
        len({page["metrics"]["kid"]["values"]["kid"] for page in found.values()}) == 4
    )  # of a model that changes
    assert "found in the cache" in again.out
    log = [json.loads(line) for line in (tmp_path / "measured" / "log.jsonl").read_text().splitlines()]
    for line in log:
        values = found[line["nimg"]]["metrics"]["kid"]["values"]
        assert line["eval/kid"] == pytest.approx(values["kid"], rel=1e-4)
        assert 0 < line["time/eval"] < 1
    assert f"evaluated at 32 images: kid {values['kid']:.4g}" in measured.out

    words = Page(write_report(tmp_path / "resumed").read_text(encoding="utf-8")).words
    assert "best kid" in words
    assert "logging since 8 images" in words
    assert "logging since 24 images" in words  # the second process
    assert "precision fp32" in words


def test_an_evaluation_is_that_of_the_command(
    train: Callable[..., Result], tmp_path: Path, gankit_cli: Callable[..., Result]
) -> None:
    """`gankit evaluate` of the checkpoint gives the number that was measured on the way."""
    run = tmp_path / "run"
    assert train("run", 16, "--eval-every", 16, *MEASURED).code == 0
    settings = [
        s for k, v in NETWORK.items() if k != "name" for s in ("--set", f"feature.{k}={json.dumps(v)}")
    ]
    out = tmp_path / "page.json"
    done = gankit_cli(
        *("evaluate", run, "--metrics", "kid", "--num", 12, "--batch-size", 5, "--side", 32, *settings),
        *("--out", out),
    )
    assert done.code == 0, done.err
    told, measured = json.loads(out.read_text()), pages(run)[16]
    assert told["feature"]["sha256"] == measured["feature"]["sha256"]
    assert told["real"]["cached"]
    expected = told["metrics"]["kid"]["values"]["kid"]
    assert measured["metrics"]["kid"]["values"]["kid"] == pytest.approx(expected, rel=1e-4)


def test_the_best_checkpoints_are_kept(
    train: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a lower and by a higher number, over an interruption; evaluated steps get a checkpoint of their own."""
    kid = {8: 5.0, 16: 1.0, 24: 2.0, 32: 9.0, 40: 1.5, 48: 8.0}
    recall = {8: 0.1, 16: 0.2, 24: 0.9, 32: 0.3, 40: 0.1, 48: 0.1}

    def measure(self: Session) -> dict[str, dict[str, Any]]:
        nimg = self.context.pipe.nimg
        found = {"kid": {"kid": kid[nimg]}, "pr": {"precision": 0.5, "recall": recall[nimg]}}
        return {name: {"values": values} for name, values in found.items()}

    monkeypatch.setattr(Session, "measure", measure)
    keep = (
        "--eval-every",
        8,
        "--keep",
        "last:1,best:2,best:1:recall",
        "--set",
        "train.checkpoint_every=1000",
    )
    first = train("run", 32, *keep, *MEASURED)
    assert first.code == 0
    assert kept(tmp_path / "run") == [16, 24, 32]
    assert "evaluated at 16 images: kid 1 (best so far)" in first.out
    assert "evaluated at 24 images: kid 2  precision 0.5  recall 0.9 (best so far)" in first.out
    assert train("run", 48, *keep, *MEASURED).code == 0
    assert kept(tmp_path / "run") == [16, 24, 40, 48]
    again = train("run", 56, "--keep", 1)  # switched off: only the newest
    assert again.code == 0
    assert kept(tmp_path / "run") == [56]


def test_an_evaluation_that_takes_too_long_is_given_up(train: Callable[..., Result], tmp_path: Path) -> None:
    done = train("run", 16, "--eval-every", 8, *MEASURED, "--set", "evaluation.seconds=1e-6")
    assert done.code == 0
    given_up = r"no evaluation at 8 images: 5 of 12 generated images took \d+ s; lower evaluation.num"
    assert re.search(given_up, done.out), done.out
    assert "evaluated at" not in done.out
    assert pages(tmp_path / "run") == {}
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert not [key for line in log for key in line if key.startswith("eval/")]


def test_a_broken_model_gives_no_number_and_trains_on(
    train: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for NaN in the images, which is told after the first of three batches."""
    draw = MetricContext.draw

    def broken(self: MetricContext, part: BatchSlice) -> Any:
        if part.first:
            to_levels(torch.tensor([math.nan]))
        return draw(self, part)

    monkeypatch.setattr(MetricContext, "draw", broken)
    done = train("run", 16, "--eval-every", 8, *MEASURED)
    assert done.code == 0
    assert done.out.count("no evaluation at ") == 2
    assert "the generator gives NaN" in done.out
    assert kept(tmp_path / "run") == [8, 16]


def test_a_metric_that_raises_gives_no_number_and_trains_on(
    train: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises(self: MetricContext, part: BatchSlice) -> Any:
        raise ZeroDivisionError("of a package")

    monkeypatch.setattr(MetricContext, "draw", raises)
    done = train("run", 16, "--eval-every", 8, *MEASURED)
    assert done.code == 0
    place = f"{__file__}:{raises.__code__.co_firstlineno + 1}"
    for nimg in (8, 16):
        assert f"no evaluation at {nimg} images: ZeroDivisionError: of a package ({place})\n" in done.err
    assert kept(tmp_path / "run") == [8, 16]


def test_an_evaluation_that_runs_out_of_memory_says_what_to_do(
    train: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: MetricContext, part: BatchSlice) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(MetricContext, "draw", full)
    done = train("run", 16, "--eval-every", 8, *MEASURED)
    assert done.code == 0
    assert done.out.count("images: out of memory: lower evaluation.batch = ") == 2
    assert kept(tmp_path / "run") == [8, 16]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--set", 'evaluation.metrics={"pr": {"k": 30}}'), "'pr' needs"),
        (("--set", "evaluation.side=33"), "evaluation.side = 33"),
        (("--keep", "most"), "train.keep = 'most'"),
        (("--eval-every", "often"), "evaluation.every = 'often'"),
    ],
)
def test_mistakes_are_told_before_the_first_step(
    options: tuple[object, ...], message: str, train: Callable[..., Result], tmp_path: Path
) -> None:
    done = train("run", 8, "--eval-every", 8, *MEASURED, *options)
    assert done.code == 2
    assert message in done.message
    assert kept(tmp_path / "run") == []
