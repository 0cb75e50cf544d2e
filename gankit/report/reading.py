"""Reader of a run's folder that loads no network: recipe, log, sample grids, evaluations, hardware.

Everything but the recipe may be missing or cut off: a run may have just begun, been interrupted in the middle of a
line, or been trained by an older gankit. What cannot be read is left out, never guessed.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from gankit.core.config.recipe import flatten, parse_count
from gankit.core.runtime import yaml_files
from gankit.errors import GankitError

QUIET = 10  # ticks without a log line after which a run is taken for stopped
NOT_CURVES = ("nimg", "time")


@dataclass
class Series:
    """One logged number over the run: `nimg` in images, `values` with None where it was not finite."""

    name: str
    nimg: list[int] = field(default_factory=list)
    values: list[float | None] = field(default_factory=list)

    @property
    def finite(self) -> list[float]:
        return [value for value in self.values if value is not None]

    def recent(self, share: float = 0.1) -> float | None:
        """Median of the last `share` of the finite values, at least three of them if there are as many."""
        values = self.finite
        return median(values[-max(3, round(share * len(values))) :]) if values else None

    def early(self, share: float = 0.1) -> float | None:
        """Median of the first `share` of the finite values, without the first one, which is often an outlier."""
        values = self.finite[1:] or self.finite
        return median(values[: max(3, round(share * len(values)))]) if values else None


@dataclass(frozen=True)
class Grid:
    """A sample grid that the run wrote after `nimg` images."""

    nimg: int
    path: Path


@dataclass(frozen=True)
class Evaluation:
    """A JSON page of `gankit evaluate`, of an evaluation during training, or of a conditioning benchmark."""

    path: Path
    page: Mapping[str, Any]
    nimg: int | None

    def numbers(self) -> Iterator[tuple[str, str, float, str]]:
        """Yield (metric, name of the number, value, 'lower' or 'higher' if one of them is better, else '')."""
        for metric, result in _mapping(self.page.get("metrics")).items():
            better = _mapping(_mapping(result).get("better"))
            for name, value in _mapping(_mapping(result).get("values")).items():
                if finite(value) is not None:
                    yield str(metric), str(name), float(value), str(better.get(name, ""))

    def file(self, name: Any, folder: Path) -> Path | None:
        """Path of a file beside the page, or None if it does not exist or is not within `folder`."""
        if not isinstance(name, str):
            return None
        path = (self.path.parent / name).resolve()
        return path if path.is_relative_to(folder.resolve()) and path.is_file() else None


class Run:
    """The contents of a run's folder.

    Attributes:
        folder: path of the folder.
        name: name of the folder; a page that shows several runs may set another one, to tell them apart.
        recipe: its recipe.yaml as nested dicts, as written (plugins that are not installed do not matter).
        series: logged numbers by name.
        grids: sample grids, oldest first.
        real: the grid of real images under the same conditions, or None.
        evaluations: results found in the folder, by images trained.
    """

    def __init__(self, folder: str | Path) -> None:
        """Raises GankitError if the folder holds no run."""
        self.folder = Path(folder)
        self.name = self.folder.resolve().name
        page = self.folder / "recipe.yaml"
        if not page.is_file():
            what = "holds no run (recipe.yaml is missing)" if self.folder.is_dir() else "is not a folder"
            raise GankitError(
                f"{self.folder} {what}; name the folder that `gankit train` wrote to (its --out)"
            )
        if (self.folder / "generator.safetensors").is_file() and not (self.folder / "log.jsonl").is_file():
            raise GankitError(f"{self.folder} is a model or a checkpoint, not a run; name the run's folder")
        try:
            recipe = yaml_files.load(page.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise GankitError(f"cannot read {page}: {' '.join(str(error).split())}") from None
        if not isinstance(recipe, dict):
            raise GankitError(
                f"{page} is not a recipe: expected a mapping with keys such as generator, train"
            )
        self.recipe: dict[str, Any] = recipe
        self.lines = self._log()
        self.series = self._series()
        self.grids = self._grids()
        real = self.folder / "samples" / "real.png"
        self.real = real if real.is_file() else None
        self.evaluations = self._evaluations()

    # ------------------------------------------------------------------------------------------------- facts

    @cached_property
    def flat_recipe(self) -> dict[str, Any]:
        """The recipe as dotted keys -> values."""
        return {key: value for key, value in flatten(self.recipe).items() if key != "gankit"}

    @property
    def sessions(self) -> list[tuple[int, float | None, Mapping[str, Any]]]:
        """Recorded sessions of training: images and time (or None) at the first log line, hardware."""
        return [
            (line["nimg"], finite(line.get("time")), line["machine"])
            for line in self.lines
            if isinstance(line.get("machine"), Mapping)
        ]

    @property
    def nimg(self) -> int:
        """Images trained so far, by the log and the sample grids."""
        seen = [grid.nimg for grid in self.grids] + [line["nimg"] for line in self.lines[-1:]]
        return max(seen, default=0)

    @property
    def goal(self) -> int | None:
        """Images that the recipe asks for, None if it does not say."""
        try:
            goal = parse_count(_mapping(self.recipe.get("train")).get("images"))
        except ValueError:
            return None
        return goal if isinstance(goal, int) and goal > 0 else None

    @property
    def batch(self) -> int | None:
        """Batch size of the recipe, None if it does not say."""
        batch = _mapping(self.recipe.get("train")).get("batch")
        return batch if isinstance(batch, int) and batch > 0 else None

    @property
    def loss(self) -> str:
        """Name of the adversarial loss."""
        loss = self.recipe.get("loss")
        return str(_mapping(loss).get("name", loss))

    @cached_property
    def seconds(self) -> float:
        """Seconds of training, without the pauses between sessions."""
        total, before = 0.0, 0
        for line in self.lines:
            speed = finite(line.get("speed/images_per_s"))
            if speed:
                total += (line["nimg"] - before) / speed
            before = line["nimg"]
        return total

    @property
    def state(self) -> tuple[str, str]:
        """Pair of 'finished', 'running', 'stopped' or 'starting', and a sentence about it.

        It is inferred from the age of the last log line; the folder's lock is not touched.
        """
        goal = self.goal
        if not self.lines:
            return "starting", "This run has not logged anything yet; look again after its first tick."
        if goal is not None and self.nimg >= goal:
            return "finished", f"Trained to the end: {self.nimg:,} images."
        of = f" of {goal:,}" if goal is not None else ""
        times = [t for line in self.lines if (t := finite(line.get("time"))) is not None]
        ticks = [b - a for a, b in pairwise(times[-50:])]
        age = time.time() - times[-1] if times else math.inf
        if age < QUIET * max(median(ticks) if ticks else 60, 6):
            return "running", f"{self.nimg:,}{of} images; the last log line is {max(age, 0):.0f} s old."
        return "stopped", f"Stopped at {self.nimg:,}{of} images. To go on from its last checkpoint:"

    # ------------------------------------------------------------------------------------------------- files

    def _log(self) -> list[dict[str, Any]]:
        """Log lines by rising nimg; where a resumed run wrote some again, the later ones count."""
        lines: list[dict[str, Any]] = []
        for line in _json_lines(self.folder / "log.jsonl"):
            if isinstance(line.get("nimg"), int):
                while lines and lines[-1]["nimg"] >= line["nimg"]:
                    lines.pop()
                lines.append(line)
        return lines

    def _series(self) -> dict[str, Series]:
        series: dict[str, Series] = {}
        for line in self.lines:
            for name, value in line.items():
                if name not in NOT_CURVES and (value is None or _is_number(value)):
                    one = series.setdefault(str(name), Series(str(name)))
                    one.nimg.append(line["nimg"])
                    one.values.append(finite(value))
        return dict(sorted(series.items()))

    def _grids(self) -> list[Grid]:
        found = (self.folder / "samples").glob("[0-9]*.png")
        return sorted((Grid(int(p.stem), p) for p in found if p.stem.isdigit()), key=lambda grid: grid.nimg)

    def _evaluations(self) -> list[Evaluation]:
        files = sorted({*self.folder.glob("evaluation*.json"), *self.folder.glob("evaluations/*.json")})
        found = []
        for file in files:
            try:
                page = json.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if isinstance(page, dict) and ("metrics" in page or "conditioning" in page):
                nimg = _mapping(page.get("generated")).get("trained_images")
                found.append(Evaluation(file, page, nimg if isinstance(nimg, int) else None))
        return sorted(found, key=lambda e: (e.nimg is None, e.nimg or 0))


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON lines file; cut or foreign lines are skipped."""
    if not path.is_file():
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict):
                yield line


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def finite(value: Any) -> float | None:
    """A number as float; None for anything that is not a finite number."""
    return float(value) if _is_number(value) and math.isfinite(value) else None
