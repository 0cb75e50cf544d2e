"""The conditioning table: how well pictures show what was asked for, attribute by attribute, with examples."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gankit.report import pictures
from gankit.report.reading import Evaluation, Run, finite

EXAMPLES = 8  # pictures of an attribute
EXAMPLE_SIDE = 128


@dataclass
class Attribute:
    """A row of the conditioning table."""

    name: str
    accuracy: float
    ceiling: float | None = None
    examples: list[tuple[pictures.Picture, bool]] = field(default_factory=list)  # with whether it is right

    @property
    def fraction(self) -> float:
        """Of the ceiling; of 1 where no ceiling is known."""
        return self.accuracy / self.ceiling if self.ceiling else self.accuracy


@dataclass
class Conditioning:
    """What an evaluation found out about how pictures follow their conditions."""

    about: str
    attributes: list[Attribute]


def conditioning_of(run: Run) -> Conditioning | None:
    """The newest table of accuracies by attribute, or None. See docs/report.md for the file that it comes from."""
    for evaluation in reversed(run.evaluations):
        page = evaluation.page.get("conditioning")
        given = page.get("attributes") if isinstance(page, dict) else None
        if not isinstance(page, dict) or not isinstance(given, dict):
            continue
        examples = page.get("examples")
        rows = []
        for name, numbers in given.items():
            accuracy, ceiling = (_share(numbers, key) for key in ("accuracy", "ceiling"))
            if accuracy is not None:
                shown = _examples(
                    evaluation, run.folder, examples.get(name) if isinstance(examples, dict) else None
                )
                rows.append(Attribute(str(name), accuracy, ceiling, shown))
        if rows:
            return Conditioning(_about(page, evaluation), rows)
    return None


def _share(numbers: Any, key: str) -> float | None:
    value = finite(numbers.get(key)) if isinstance(numbers, dict) else None
    return value if value is not None and 0 <= value <= 1 else None


def _about(page: dict[str, Any], evaluation: Evaluation) -> str:
    parts = [
        f"{page['images']} images" if "images" in page else "",
        f"asked by {page['by']}" if "by" in page else "",
    ]
    if evaluation.nimg is not None:
        parts.append(f"after {evaluation.nimg:,} images of training")
    if "judge" in page:
        parts.append(f"judged by {page['judge']}")
    return ", ".join(part for part in parts if part)


def _examples(evaluation: Evaluation, folder: Path, given: Any) -> list[tuple[pictures.Picture, bool]]:
    """Pictures beside the JSON file; nothing outside of the run's folder is opened."""
    root = folder.resolve()
    found: list[tuple[pictures.Picture, bool]] = []
    for entry in given if isinstance(given, list) else []:
        if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
            continue
        path = (evaluation.path.parent / entry["image"]).resolve()
        image = pictures.open_rgb(path) if path.is_relative_to(root) and path.is_file() else None
        if image is not None and len(found) < EXAMPLES:
            asked, seen = str(entry.get("asked", "")), str(entry.get("seen", ""))
            caption = asked if asked == seen else f"{asked}, got {seen}"
            found.append((pictures.picture(image, caption, max_side=EXAMPLE_SIDE), asked == seen))
    return found
