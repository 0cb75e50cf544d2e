"""The yardstick of recipes (benchmarks/quality.py): budget, resuming, judging, table and curves."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_utils import Page
from repository import ROOT

pytest.importorskip("gankit_avatars", reason="the yardstick draws avatars: pip install gankit-avatars")
from gankit.core.checkpoints import folders
from gankit.core.config.registry import registry
from gankit.report import write_report

BENCHMARKS = ROOT / "benchmarks"
TINY = (
    *("data.options.count=2000", "train.batch=8", "train.workers=0", "train.tick=8", "train.precision=fp32"),
    *("generator.channel_base=64", "generator.channel_max=8", "discriminator.channel_base=64"),
    *("discriminator.channel_max=8",),
)


@pytest.fixture
def quality(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import quality

    yield quality
    for name in ("quality", "prompt_following", "attribute_classifier"):
        sys.modules.pop(name, None)


def command(results: Path, *more: object) -> list[str]:
    settings = [part for item in TINY for part in ("--set", item)]
    wish = ["avatars-tags", "--by", "tags", "--count", "30", "--every", "16", "--results", results, "--quiet"]
    return [str(part) for part in (*wish, *settings, *more)]


def test_a_budget_of_images(quality: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quality.main(command(tmp_path, "--images", 32))
    page = json.loads((tmp_path / "avatars-tags.json").read_text())
    assert [point["nimg"] for point in page["points"]] == [16, 32]
    assert page["judge"]["by"] == "tags"
    assert 0.9 < min(page["judge"]["ceiling"].values()) <= 1
    assert page["judge"]["real"]["fd"] < page["points"][-1]["fd"]
    assert page["machine"]["cores"] >= 1
    assert "| `avatars-tags` | 32 |" in capsys.readouterr().out
    for point in page["points"]:
        assert point["minutes"] > 0
        assert point["accuracy"] == pytest.approx(np.mean(list(point["attributes"].values())), abs=1e-4)
        assert set(point["attributes"]) == set(page["judge"]["ceiling"])

    # the same command with a larger budget goes on, and measures only what is new
    page["points"][0]["fd"] = 12345.0
    (tmp_path / "avatars-tags.json").write_text(json.dumps(page))
    quality.main(command(tmp_path, "--images", 48))
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines() if "measured in" in line] == ["48"]
    again = json.loads((tmp_path / "avatars-tags.json").read_text())
    assert [point["nimg"] for point in again["points"]] == [16, 32, 48]
    assert again["points"][0]["fd"] == 12345.0
    with pytest.raises(SystemExit, match="was measured otherwise"):
        quality.main(command(tmp_path, "--images", 48, "--count", 31))

    # a finished model is measured alike, without any training
    last = str(tmp_path / "avatars-tags" / "checkpoints" / "000000048")
    wish = ["--model", last, "--by", "tags", "--count", "30", "--name", "done", "--results", str(tmp_path)]
    quality.main(wish)
    assert "| `done` | 48 |  |  |" in capsys.readouterr().out
    done = json.loads((tmp_path / "done.json").read_text())["points"]
    assert [p["fd"] for p in done] == pytest.approx([again["points"][-1]["fd"]])
    quality.main(["--table", str(tmp_path / "done.json"), str(tmp_path / "avatars-tags.json"),
                  "--svg", str(tmp_path / "both.svg")])  # fmt: skip
    assert (tmp_path / "both.svg").is_file()
    with pytest.raises(SystemExit):
        quality.main(["avatars-tags", *wish])
    assert "or --model MODEL" in capsys.readouterr().err

    # the report shows the table with examples
    shown = Page(write_report(tmp_path / "avatars-tags", tmp_path / "r.html").read_text(encoding="utf-8"))
    assert len(shown.all("meter")) == len(page["judge"]["ceiling"])
    assert any(", got " in img["alt"] for img in shown.all("img"))
    assert "30 images, asked by tags, after 48 images of training" in shown.words


def test_a_budget_of_minutes(quality: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts training only: a training that takes long to set up is taken up again, one that is done is not."""
    given: list[float] = []

    def train(recipe: Any, run: Path, *, minutes: float, **_: Any) -> None:
        given.append(minutes)
        run.mkdir(exist_ok=True)
        (run / "recipe.yaml").write_text(recipe.to_yaml())
        trained = max(minutes - 2, 0.1)  # two minutes are lost
        nimg = sum(1000 for _ in given)
        with open(run / "log.jsonl", "a") as file:
            file.write(json.dumps({"nimg": nimg, "speed/images_per_s": 1000 / (60 * trained)}) + "\n")
        (run / "checkpoints" / f"{nimg:09d}").mkdir(parents=True)
        (run / "checkpoints" / f"{nimg:09d}" / "recipe.yaml").touch()

    monkeypatch.setattr(quality.gankit, "train", train)
    recipe = quality.resolve("avatars-tags", [], 1000, None)
    quality.train(recipe, tmp_path / "run", 10.0, "cpu", True)
    assert given == pytest.approx([10, 2, 1.9])
    assert quality.spent(tmp_path / "run") == pytest.approx(8.2)
    assert quality.minutes_at(tmp_path / "run") == pytest.approx({1000: 8, 2000: 8.1, 3000: 8.2})
    given.clear()
    quality.train(recipe, tmp_path / "run", 8.3, "cpu", True)
    assert given == []


def test_numbers_of_the_judge(quality: Any) -> None:
    """Other real avatars are near, avatars in grey are not, and one picture repeated has no recall."""
    judge = quality.Judge(60, "tags")
    pictures = [judge.source.image(i) for i in range(60)]
    features = quality.attribute_classifier.features

    def numbers(images: list[Any]) -> dict[str, float]:
        return judge.numbers(quality.FeatureSet.of(features(images)))

    same, grey, one = (
        numbers(pictures),
        numbers([p.convert("L") for p in pictures]),
        numbers(pictures[:1] * 60),
    )
    assert abs(same["fd"]) < 1e-3 * grey["fd"]
    assert same["precision"] == same["recall"] == 1
    assert judge.facts()["real"]["fd"] < grey["fd"]
    assert one["recall"] < 0.2 < judge.facts()["real"]["recall"]
    assert features(pictures).shape == (60, 128)


def result(name: str, fds: list[float], accuracy: float) -> dict[str, Any]:
    points = [
        {"nimg": 1000 * (i + 1), "minutes": 0.5 * (i + 1), "fd": fd, "accuracy": accuracy, "seconds": 1.0}
        | {"precision": 0.5, "recall": 0.25, "density": 0.5, "coverage": 0.5, "attributes": {"hat": accuracy}}
        for i, fd in enumerate(fds)
    ]
    judge = {"avatars": 9, "by": "text", "psi": 1.0, "seed": 909, "real": points[0]}
    return {"format": 1, "name": name, "points": points, "judge": judge}


def test_table_and_curves(quality: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, fds, accuracy in (("a<b", [9.0, 4.0], 0.5), ("c", [8.0, 5.0], 0.75)):
        (tmp_path / f"{name[0]}.json").write_text(json.dumps(result(name, fds, accuracy)))
    files = [str(tmp_path / "a.json"), str(tmp_path / "c.json")]
    quality.main(["--table", *files, "--svg", str(tmp_path / "curves.svg")])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert cells[0][:7] == ["`a<b`", "2,000", "1.0", "33.3", "0.500", "**4.00**", "**0.500**"]
    assert cells[1][:6] == ["`c`", "2,000", "1.0", "33.3", "**0.750**", "5.00"]
    tree = ElementTree.parse(tmp_path / "curves.svg")
    space = "{http://www.w3.org/2000/svg}"
    assert len(list(tree.iter(f"{space}svg"))) == 5
    assert len([p for p in tree.iter(f"{space}path") if "line" in p.get("class", "")]) == 8
    assert "a<b" in [t.text for t in tree.iter(f"{space}text")]
    other = result("d", [1.0], 0.5)
    other["judge"]["by"] = "tags"
    (tmp_path / "d.json").write_text(json.dumps(other))
    (tmp_path / "e.json").write_text("{}")
    for file, message in (
        ("d", "not judged on the same"),
        ("e", "no result of this benchmark"),
        ("f", "no result"),
    ):
        with pytest.raises(SystemExit, match=message):
            quality.main(["--table", *files, str(tmp_path / f"{file}.json")])


@pytest.mark.parametrize("arguments", [[], ["avatars"], ["avatars", "--minutes", "1", "--images", "5"]])
def test_a_command_without_a_budget(quality: Any, arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        quality.main(arguments)


def test_other_data_is_not_judged(quality: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="does not train on 'avatars:'"):
        quality.main(["stylegan2", "--images", "8", "--results", str(tmp_path)])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["avatars", "stylegan2-ada", "relativistic-r1-r2", "projected-64", "projected-96", "projected-128"],
)
def test_every_recipe_of_the_comparison_trains(name: str, quality: Any, tmp_path: Path) -> None:
    if name == "relativistic-r1-r2" and "r2" not in registry().names("regularizer"):
        pytest.skip("this gankit has no regularizer r2")
    recipe = quality.resolve(name, ["data.options.count=64", "train.workers=0", "train.tick=16"], 16, 64)
    quality.train(recipe, tmp_path / "run", None, "cpu", True)
    assert [int(p.name) for p in folders.checkpoints(tmp_path / "run")] == [16, 32, 48, 64]
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["bad_steps"] == 0
    assert all(np.isfinite(line["loss/G"]) for line in log)
