"""Trackers: one that raises costs nothing but itself; `on_event` is one; what it returns stops the run."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import broken_plugins
import pytest
from runs import log_of, train, write_images

import gankit
from gankit.core.checkpoints import folders
from gankit.core.interfaces.training import Tracker
from gankit.core.training.trackers import Event, Listener, Trackers


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), count=8)


@pytest.mark.parametrize("kind", ["OSError", "SystemExit"])
@pytest.mark.parametrize("where", ["__init__", "on_tick", "on_images", "on_checkpoint", "close"])
def test_a_tracker_that_raises_is_left_out(tmp_path: Path, where: str, kind: str) -> None:
    told: list[str] = []

    class Other(Tracker):
        def on_tick(self, nimg: int, scalars: Any) -> None:
            told.append("tick")

    trackers = Trackers()

    def run() -> None:
        trackers.build({"mine": {"where": where, "kind": kind}}, tmp_path)
        trackers.add(Other())
        for _ in range(2):
            trackers.send("on_tick", 8, {"loss/D": 1.0})
            trackers.send("on_images", 8, "samples", tmp_path / "a.png")
            trackers.send("on_checkpoint", 8, tmp_path)
            trackers.send("close")

    with broken_plugins.registered("tracker", "Raises"), pytest.warns(RuntimeWarning) as caught:
        run()
    (warning,) = caught
    who = "tracker 'mine'" if where == "__init__" else "tracker 'mine' of package 'my-package 0.1'"
    assert str(warning.message).startswith(f"{who} is left out for the rest of this run: ")
    assert "no space left for it" in str(warning.message)
    assert "broken_plugins.py:" in str(warning.message)
    assert told == ["tick", "tick"]
    assert not trackers.stop


def test_a_run_with_a_tracker_that_raises_is_the_run_without_it(tmp_path: Path, images: Path) -> None:
    with broken_plugins.registered("tracker", "Raises"), pytest.warns(RuntimeWarning, match="left out"):
        last = train(tmp_path / "run", images, train__images=16, trackers={"mine": {}})
    assert [line["nimg"] for line in log_of(tmp_path / "run")] == [8, 16]
    assert last.name == "000000016"
    assert (tmp_path / "run" / "samples" / "000000016.png").is_file()


def test_mistakes_in_the_options_of_a_tracker_are_told_before_training(tmp_path: Path, images: Path) -> None:
    with (
        broken_plugins.registered("tracker", "Raises"),
        pytest.raises(gankit.GankitError, match="unknown option of tracker 'mine': 'wheer'"),
    ):
        train(tmp_path / "run", images, trackers={"mine": {"wheer": "close"}})


def test_on_event_hears_of_ticks_images_and_checkpoints(tmp_path: Path, images: Path) -> None:
    events: list[Event] = []
    last = learn(tmp_path / "run", images, events.append)
    kinds = [(event.kind, event.nimg) for event in events]
    assert kinds == [
        ("images", 0),
        ("tick", 8),
        ("tick", 16),
        ("checkpoint", 16),
        ("images", 16),
    ]
    tick, checkpoint, picture = events[-3:]
    assert {"loss/D", "speed/images_per_s"} <= tick.scalars.keys()
    assert tick.path is None
    assert checkpoint.path == last
    assert gankit.load(last, device="cpu")(seeds=0)
    assert picture.path == tmp_path / "run" / "samples" / "000000016.png"


def test_on_event_stops_a_run_with_a_checkpoint_and_the_run_continues_later(
    tmp_path: Path, images: Path
) -> None:
    stopped = learn(
        tmp_path / "run", images, lambda event: "stop" if event.kind == "tick" else None, number=64
    )
    assert stopped.name == "000000016"  # the step that follows the tick at 8 images
    assert folders.checkpoints(tmp_path / "run") == [stopped]
    assert learn(tmp_path / "run", images, lambda event: True, number=64).name == "000000064"


def test_on_event_that_raises_is_not_called_again(tmp_path: Path, images: Path) -> None:
    calls = []

    def raises(event: Event) -> None:
        calls.append(event)
        raise ValueError("of the notebook")

    with pytest.warns(RuntimeWarning, match=r"the function on_event .* ValueError: of the notebook"):
        learn(tmp_path / "run", images, raises)
    assert len(calls) == 1


def test_other_answers_do_not_stop() -> None:
    trackers = Trackers()
    answers = iter([None, True, 1, ["stop"], "go on"])
    trackers.add(Listener(lambda event: next(answers)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(5):
            trackers.send("on_tick", 8, {})
    assert not trackers.stop


def learn(run: Path, images: Path, on_event: Any, number: int = 16) -> Path:
    from runs import TINY

    overrides = {**TINY, "train.images": number, "trackers": {}}
    return gankit.train(
        "stylegan2", run, data=str(images), overrides=overrides, quiet=True, on_event=on_event
    )
