"""Protocols of the parts of a run that lie outside the core: a finder of models, an observer, sample sheets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from gankit.core.config.recipe import Recipe
from gankit.core.interfaces.data import Source
from gankit.core.interfaces.training import Tracker
from gankit.core.training.step import Stepper


class Observer(Protocol):
    """Measures the run as it goes, on the main process only."""

    def evaluate(self, want_stop: Callable[[], bool]) -> bool:
        """Measure the current weights and log the numbers; False if it was given up, which it has said itself."""

    def best_checkpoints(self) -> set[int]:
        """Images trained at the checkpoints that must be kept because they are the best so far."""

    def stalled(self, patience: int) -> bool:
        """True if `patience` measurements in a row, all of this stage, have not improved the first number."""


class SampleSheets(Protocol):
    """Draws contact sheets of a run, under the same latents and conditions each time."""

    def real(self) -> Image.Image:
        """The images that the conditions were taken from."""

    def fake(self) -> Image.Image:
        """Images that the moving average of G draws now."""


@dataclass(frozen=True)
class Attachments:
    """The parts of a run that the core does not know how to make; `gankit.api` fills them in.

    Args:
        find_model: the folder of the model that `--init` names.
        observer: makes the observer of (run folder, recipe, source, stepper, function that shows a line).
        sample_sheets: makes the sheets of (source, stepper, recipe).
        trackers: trackers besides those of the recipe.
    """

    find_model: Callable[[str | Path], Path]
    observer: Callable[[Path, Recipe, Source, Stepper, Callable[[str], None]], Observer]
    sample_sheets: Callable[[Source, Stepper, Recipe], SampleSheets]
    trackers: Sequence[Tracker] = ()
