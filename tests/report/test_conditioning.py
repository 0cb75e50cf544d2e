"""How pictures follow their conditions: the table of a report."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image
from report_utils import evaluation, page_of, write_run


def test_conditioning_table(run: Path, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "secret.png")
    Image.new("RGB", (8, 8), "blue").save(run / "hat.png")
    examples = [
        {"image": "hat.png", "asked": "red hat", "seen": "blue hat"},
        {"image": "../secret.png", "asked": "a", "seen": "a"},  # outside of the run
        {"image": "missing.png", "asked": "a", "seen": "a"},
        "rubbish",
    ]
    told = {
        "by": "text",
        "images": 100,
        "attributes": {
            "hat": {"accuracy": 0.5, "ceiling": 0.8},
            "hair": {"accuracy": 1.0},
            "odd": {"accuracy": "x"},
        },
        "examples": {"hat": examples},
    }
    (run / "evaluation.json").write_text(json.dumps(evaluation(4000, 50.0, conditioning=told)))
    before = len(page_of(write_run(tmp_path / "none"), tmp_path / "n.html").all("img"))
    page = page_of(run, tmp_path / "r.html")
    assert before == 0
    assert [m["value"] for m in page.all("meter")] == ["0.6250", "1.0000"]
    assert "100 images, asked by text, after 4,000 images of training" in page.words
    captions = [img["alt"] for img in page.all("img")]
    assert "red hat, got blue hat" in captions
    assert len(captions) == 5  # three grids, the real one, one example


def test_accuracy_and_pictures_of_metrics(run: Path, tmp_path: Path) -> None:
    """What `gankit evaluate RUN --metrics accuracy,memorised --out RUN/evaluation.json` leaves is shown."""
    Image.new("RGB", (8, 8), "blue").save(run / "evaluation-nearest.png")
    answers = {"hat": {"accuracy": 0.25, "images": 4}, "bald": {"accuracy": 1.0, "images": 6}}
    accuracy = {
        "values": {"accuracy": 0.7, "accuracy_class": 0.5},
        "better": {"accuracy": "higher"},
        "details": {"class": answers, "glasses": {"none": {"accuracy": 1.0, "images": 9}}},
    }
    page = evaluation(4000, 50.0)
    page["metrics"]["accuracy"] = accuracy
    page["metrics"]["memorised"] = {"values": {}, "pictures": ["evaluation-nearest.png", "../secret.png", 3]}
    (run / "evaluation.json").write_text(json.dumps(page))
    Image.new("RGB", (8, 8), "red").save(tmp_path / "secret.png")
    shown = page_of(run, tmp_path / "r.html")
    assert [m["value"] for m in shown.all("meter")] == ["0.5000", "0.7000"]
    assert "weakest: hat 0.25" in shown.words
    assert "best accuracy 0.7" in shown.words
    captions = [img["alt"] for img in shown.all("img")]
    assert "memorised: evaluation-nearest" in captions
    assert len(captions) == 5
