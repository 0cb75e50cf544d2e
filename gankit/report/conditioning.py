"""The conditioning table of a report: accuracy of generated images for each attribute, with examples."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gankit.report import pictures
from gankit.report.reading import Evaluation, Run, finite

EXAMPLES = 8  # pictures of an attribute
EXAMPLE_SIDE = 128
WEAKEST = 3  # answers that are named


@dataclass
class Attribute:
    """A row of the conditioning table."""

    name: str
    accuracy: float
    ceiling: float | None = None
    note: str = ""
    examples: list[tuple[pictures.Picture, bool]] = field(default_factory=list)  # picture, is right

    @property
    def fraction(self) -> float:
        """Accuracy relative to the ceiling, or to 1 if no ceiling is known."""
        return self.accuracy / self.ceiling if self.ceiling else self.accuracy


@dataclass
class Conditioning:
    """Condition-following results of one evaluation: its setting and the accuracy of each attribute."""

    about: str
    attributes: list[Attribute]


def conditioning_of(run: Run) -> Conditioning | None:
    """The newest table of accuracies by attribute, or None. See docs/report.md for the files that it comes from."""
    for evaluation in reversed(run.evaluations):
        measured = _of_metric(evaluation)
        if measured is not None:
            return measured
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
                rows.append(Attribute(str(name), accuracy, ceiling, examples=shown))
        if rows:
            return Conditioning(_about(page, evaluation), rows)
    return None


def _of_metric(evaluation: Evaluation) -> Conditioning | None:
    """The table that the metric 'accuracy' gives: a row for each question, with the answers that are missed most."""
    metrics = evaluation.page.get("metrics")
    found = metrics.get("accuracy") if isinstance(metrics, dict) else None
    details = found.get("details") if isinstance(found, dict) else None
    values = found.get("values") if isinstance(found, dict) else None
    if not isinstance(details, dict) or not isinstance(values, dict):
        return None
    rows = []
    for question, answers in details.items():
        accuracy = _share(values, f"accuracy_{question}" if f"accuracy_{question}" in values else "accuracy")
        if accuracy is None or not isinstance(answers, dict):
            continue
        shares = [
            (share, str(name)) for name, n in answers.items() if (share := _share(n, "accuracy")) is not None
        ]
        weakest = ", ".join(f"{name} {share:.2f}" for share, name in sorted(shares)[:WEAKEST] if share < 1)
        rows.append(Attribute(str(question), accuracy, note=f"weakest: {weakest}" if weakest else ""))
    generated = evaluation.page.get("generated")
    images = generated.get("images") if isinstance(generated, dict) else None
    about = _about({"images": images, "judge": "the classifier of metric 'accuracy'"}, evaluation)
    return Conditioning(about, rows) if rows else None


def _share(numbers: Any, key: str) -> float | None:
    """The number `key` of a mapping if it is in [0, 1], else None."""
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
    found: list[tuple[pictures.Picture, bool]] = []
    for entry in given if isinstance(given, list) else []:
        if not isinstance(entry, dict):
            continue
        path = evaluation.file(entry.get("image"), folder)
        image = pictures.open_rgb(path) if path is not None else None
        if image is not None and len(found) < EXAMPLES:
            asked, seen = str(entry.get("asked", "")), str(entry.get("seen", ""))
            caption = asked if asked == seen else f"{asked}, got {seen}"
            found.append((pictures.picture(image, caption, max_side=EXAMPLE_SIDE), asked == seen))
    return found
