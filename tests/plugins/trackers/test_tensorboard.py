"""The TensorBoard tracker writes what it is told, and hides the tail of an interrupted run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gankit.plugins.trackers.tensorboard import TensorBoardTracker


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def test_scalars(tmp_path: Path) -> None:
    tracker = TensorBoardTracker(tmp_path)
    tracker.on_tick(100, {"loss/D": 0.5, "loss/G": 1.5})
    tracker.on_tick(200, {"loss/D": 0.25})
    tracker.close()
    written = events(tmp_path / "tensorboard")
    assert [(e.step, e.value) for e in written.Scalars("loss/D")] == [(100, 0.5), (200, 0.25)]
    assert [(e.step, e.value) for e in written.Scalars("loss/G")] == [(100, 1.5)]


def test_resume_hides_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    for steps in ((100, 200, 300), (200,)):
        tracker = TensorBoardTracker(tmp_path)
        for nimg in steps:
            tracker.on_tick(nimg, {"x": float(len(steps))})
        tracker.close()
    assert [(e.step, e.value) for e in events(tmp_path / "tensorboard").Scalars("x")] == [
        (100, 3.0),
        (200, 1.0),
    ]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_images(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "grid.png"
    Image.fromarray(np.full((6, 10), 200, np.uint8)).convert(mode).save(path)
    tracker = TensorBoardTracker(tmp_path, subfolder="tb")
    tracker.on_images(50, "samples", path)
    tracker.close()
    (image,) = events(tmp_path / "tb").Images("samples")
    assert (image.step, image.width, image.height) == (50, 10, 6)


def test_nothing_is_written_before_the_first_event(tmp_path: Path) -> None:
    TensorBoardTracker(tmp_path).close()
    assert list(tmp_path.iterdir()) == []
