"""`gankit report` and `gankit compare`: what is on the page, for runs in every state, and that it is safe to open."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from report_utils import Page, grid, lines, write_run
from runs import Result

from gankit.report import charts, health, pictures, reading, write_comparison, write_report

CHROME = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    log = lines(12, loss__G=lambda t: 5 - t, loss__D=1.25, sign__real=0.6, sign__fake=-0.7, time__data=0.01)
    folder = write_run(tmp_path / "a run", log)
    for i in range(3):
        grid(folder, f"{4000 * i:09d}", seed=i)
    grid(folder, "real", seed=9)
    return folder


def page_of(run: Path, out: Path) -> Page:
    return Page(write_report(run, out).read_text(encoding="utf-8"))


def assert_self_contained(text: str) -> None:
    page = Page(text)
    for _, attributes in page.tags:
        for key, value in attributes.items():
            if key in ("src", "href", "srcset", "poster", "data", "action"):
                assert value.startswith("data:"), value[:80]
    assert not [tag for tag, _ in page.tags if tag in ("link", "iframe", "object", "base", "form")]
    code = "\n".join(page.scripts)
    assert not re.search(r"https?:|@import|url\(|fetch\(|XMLHttpRequest|WebSocket|import\(", code)
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; ")
    assert policy.endswith(f"script-src 'sha256-{digest}'")


def test_report(run: Path, tmp_path: Path, gankit_cli: Callable[..., Result]) -> None:
    done = gankit_cli("report", run)
    assert (done.code, done.out) == (0, f"wrote {run / 'report.html'}\n")
    text = (run / "report.html").read_text(encoding="utf-8")
    assert_self_contained(text)
    page = Page(text)
    assert "12k of 1M" in page.words
    assert "images per second 50" in page.words
    assert "4 min 00 s" in page.words  # 12,000 images at 50 a second
    slides = [a for a in page.all("div") if a.get("class") == "slide"]
    assert [s["data-nimg"] for s in slides] == ["0", "4000", "8000"]
    assert len(page.all("img")) == 4  # and the real ones
    sources = [img["src"] for img in page.all("img")]
    shown = Image.open(io.BytesIO(base64.b64decode(sources[1].partition(",")[2])))
    with Image.open(run / "samples" / "000004000.png") as original:
        difference = np.asarray(shown.convert("RGB"), int) - np.asarray(original.convert("RGB"), int)
    assert abs(difference).mean() < 8  # lossy, but that grid
    data = [json.loads(s) for s in page.scripts if s.startswith("{")]
    losses = next(
        d for d in data if [c["y"][0] for c in d["curves"]] == [pytest.approx(5 - 1 / 12, rel=1e-3), 1.25]
    )
    assert losses["curves"][0]["x"] == [1000 * (i + 1) for i in range(12)]
    assert "generator:" in page.words  # the recipe


@pytest.mark.skipif(CHROME is None, reason="no Chromium or Chrome on this machine: apt install chromium")
def test_in_a_browser(run: Path, tmp_path: Path) -> None:
    """It draws, its script runs under its own policy, and nothing is refused or asked of the network."""
    other = write_run(tmp_path / "other", lines(5, loss__G=1.0))
    pages = [write_report(run, tmp_path / "r.html"), write_comparison([run, other], tmp_path / "c.html")]
    for file in pages:
        common = [
            str(CHROME),
            *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"),
            *(
                f"--user-data-dir={tmp_path / 'profile'}",
                "--window-size=900,1400",
                "--virtual-time-budget=2000",
            ),
        ]
        shot = tmp_path / "shot.png"
        options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 120}
        drawn = subprocess.run([*common, f"--screenshot={shot}", file.as_uri()], **options)
        assert shot.is_file(), drawn.stderr
        assert "CONSOLE" not in drawn.stderr, drawn.stderr
        pixels = np.asarray(Image.open(shot).convert("RGB"))
        assert pixels.shape == (1400, 900, 3)
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100
        dom = subprocess.run([*common, "--dump-dom", file.as_uri()], **options).stdout
        assert 'class="card viewer live"' in dom  # the script ran
        assert (
            '<div class="slide on" data-caption="8,000 images"' in dom
        )  # the slider stands at the newest grid
        assert dom.count('class="slide on"') == 1
        shot.unlink()


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    evil = '</script><script>alert(1)</script><img src="https://x.test/a.png" onerror=alert(1)>\'"&'
    run = write_run(
        tmp_path / "run",
        lines(3, **{f"loss/{evil}": 1.0}),
        {"name": evil, "description": evil, "data.path": evil},
    )
    attribute = {"attributes": {evil: {"accuracy": 0.5}}, "by": evil, "judge": evil}
    page = {"metrics": {evil: {"values": {evil: 1.0}, "better": {evil: "lower"}}}, "conditioning": attribute}
    page["generated"] = {"trained_images": 3000, "images": evil, "psi": evil}
    page["feature"] = {"name": evil, "input": evil}
    (run / "evaluation.json").write_text(json.dumps(page))
    line = {"nimg": 4000, "time": 1.5, "machine": {"device": evil, evil: 1}}
    (run / "log.jsonl").write_text((run / "log.jsonl").read_text() + json.dumps(line))
    for file in (
        write_report(run, tmp_path / "r.html"),
        write_comparison([run, write_run(tmp_path / "b", lines(2))], tmp_path / "c.html"),
    ):
        text = file.read_text(encoding="utf-8")
        assert_self_contained(text)
        parsed = Page(text)
        assert not parsed.all("img")
        assert not [a for _, a in parsed.tags if any(key.startswith("on") for key in a)]
        assert evil in "".join(parsed.text)


def test_a_run_that_has_just_begun(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run"), tmp_path / "r.html")
    assert "has not logged anything yet" in page.words
    assert "no sample grids yet" in page.words


def test_an_interrupted_run(run: Path, tmp_path: Path) -> None:
    """A cut line, lines written twice, numbers that were not finite, foreign lines, a damaged picture."""
    log = lines(6, loss__G=2.0)
    log[3]["loss/G"] = None
    again = [{**line, "loss/G": 3.0} for line in log[4:]]
    text = "".join(json.dumps(line) + "\n" for line in [*log, *again])
    (run / "log.jsonl").write_text(text + '[1]\n{"nimg": "x"}\n{"nimg": 7000, "loss/G": 1')
    (run / "samples" / "000008000.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    found = reading.Run(run)
    assert found.series["loss/G"].values == [2.0, 2.0, 2.0, None, 3.0, 3.0]
    assert found.nimg == 8000
    assert found.state[0] == "stopped"
    page = page_of(run, tmp_path / "r.html")
    assert "gankit train --resume" in page.words
    assert len([a for a in page.all("div") if a.get("class") == "slide"]) == 2
    curve = next(
        d for s in page.scripts if s.startswith("{") and (d := json.loads(s))["curves"][0]["y"][3] is None
    )
    assert curve["curves"][0]["y"] == [2, 2, 2, None, 3, 3]


def test_states(tmp_path: Path) -> None:
    log = lines(4)
    assert reading.Run(write_run(tmp_path / "done", log, {"train.images": 4000})).state[0] == "finished"
    assert reading.Run(write_run(tmp_path / "stopped", log)).state[0] == "stopped"
    for i, line in enumerate(log):
        line["time"] = time.time() - 20 * (4 - i)
    assert reading.Run(write_run(tmp_path / "going", log)).state[0] == "running"


@pytest.mark.parametrize("what", ["missing", "empty", "file", "checkpoint", "broken", "list"])
def test_a_folder_that_is_no_run(what: str, tmp_path: Path, gankit_cli: Callable[..., Result]) -> None:
    folder = tmp_path / "x"
    if what == "file":
        folder.write_text("")
    elif what != "missing":
        folder.mkdir()
    if what == "checkpoint":
        (folder / "generator.safetensors").write_text("")
    texts = {"checkpoint": "name: a", "broken": "a: [", "list": "- a"}
    if what in texts:
        (folder / "recipe.yaml").write_text(texts[what])
    done = gankit_cli("report", folder)
    assert done.code == 2
    assert str(folder) in done.message
    assert not folder.is_dir() or not (folder / "report.html").exists()


def test_a_page_that_cannot_be_written(run: Path, tmp_path: Path, gankit_cli: Callable[..., Result]) -> None:
    (tmp_path / "file").write_text("")
    done = gankit_cli("report", run, "--out", tmp_path / "file" / "page.html")
    assert done.code == 2
    assert "choose another --out" in done.message


# --------------------------------------------------------------------------------------------------- health


@pytest.mark.parametrize(
    ("log", "overrides", "title", "status", "words"),
    [
        ({"sign__real": 0.6}, {}, "D on real images", "good", "healthy"),
        ({"sign__real": 0.97}, {"augmentation": None}, "D on real images", "watch", "add augmentation"),
        ({"sign__real": 0.97}, {}, "D on real images", "watch", "raise regularizers.r1.gamma"),
        ({"sign__real": 0.01}, {}, "D on real images", "watch", "hardly tells"),
        ({"sign__fake": 0.4}, {}, "D on generated images", "watch", "for real"),
        ({"score__real": 1.0, "score__fake": -1.0}, {}, "Scores, real minus generated", "good", "steady"),
        (
            {"score__real": lambda t: 9 * t, "score__fake": 0.0},
            {},
            "Scores, real minus generated",
            "watch",
            "widening",
        ),
        ({"score__real": -1.0, "score__fake": 0.0}, {}, "Scores, real minus generated", "watch", "lost"),
        ({"grad_norm__G": 3.0}, {}, "Gradients of G", "good", "explosion"),
        ({"grad_norm__G": lambda t: 10 ** (4 * t)}, {}, "Gradients of G", "bad", "train.lr_g"),
        ({"grad_norm__D": lambda t: 10 ** (-4 * t)}, {}, "Gradients of D", "watch", "vanished"),
        ({"bad_steps": 0.0}, {}, "Skipped steps", "good", "finite"),
        ({"bad_steps": 1.0}, {}, "Skipped steps", "watch", "rare"),
        ({"bad_steps": 300.0}, {}, "Skipped steps", "bad", "precision=fp32"),
        ({"loss__G": lambda t: None if t == 1 else 1.0}, {}, "Numbers", "bad", "not finite"),
        ({"augment__p": 0.3}, {}, "ADA's p", "good", "overfitting"),
        ({"augment__p": 0.95}, {}, "ADA's p", "watch", "leak"),
        ({"time__data": 0.01}, {}, "Time spent waiting for data", "good", "hardly"),
        ({"time__data": 0.1}, {}, "Time spent waiting for data", "watch", "--workers"),
        ({"time__data": 0.5}, {}, "Time spent waiting for data", "bad", "--workers"),
        ({}, {}, "Speed", "good", "Steady"),
        ({"speed__images_per_s": lambda t: 90 if t < 0.7 else 20}, {}, "Speed", "watch", "slower"),
        ({"diversity": lambda t: 1 - 0.9 * t}, {}, "diversity", "watch", "fallen"),
        ({"diversity": 0.4}, {}, "diversity", "good", "variety"),
    ],
)
def test_health(
    log: dict[str, Any], overrides: dict[str, Any], title: str, status: str, words: str, tmp_path: Path
) -> None:
    run = reading.Run(write_run(tmp_path / "run", lines(60, **log), overrides))
    check = next(check for check in health.checks(run) if check.title == title)
    assert check.status == status
    assert words in check.advice
    assert check.advice.endswith(".")


def test_signs_of_a_relativistic_loss_mean_nothing(tmp_path: Path) -> None:
    log = lines(60, sign__real=1.0, sign__fake=1.0, score__real=3.0, score__fake=2.0)
    run = reading.Run(write_run(tmp_path / "run", log, {"loss": "relativistic"}))
    assert [c.title for c in health.checks(run)] == ["Scores, real minus generated", "Speed"]


@pytest.mark.parametrize(("spread", "status"), [(1.0, "good"), (0.4, "watch"), (0.05, "bad")])
def test_variety_of_the_samples(spread: float, status: str, tmp_path: Path) -> None:
    """Flat tiles with colours u * spread differ by spread times what tiles with colours u differ by."""
    run = write_run(tmp_path / "run", lines(9))
    grid(run, "real", seed=1)
    for i in range(3):
        grid(run, f"{1000 * i:09d}", seed=1, spread=spread)
    found = reading.Run(run)
    series = pictures.variety(found)
    assert series is not None
    assert series.values == [pytest.approx(spread, rel=0.03)] * 3
    found.series[series.name] = series
    assert health.checks(found)[0 if status != "good" else -1].status == status


# --------------------------------------------------------------------------------------- measured numbers


def evaluation(nimg: int, fd: float, **extra: Any) -> dict[str, Any]:
    return {
        "metrics": {"fd": {"values": {"fd": fd}, "better": {"fd": "lower"}}},
        "generated": {"trained_images": nimg, "images": 2000, "psi": 1.0},
        "real": {"images": 2000},
        "feature": {"name": "net", "input": 64},
        **extra,
    }


def test_evaluations(run: Path, tmp_path: Path) -> None:
    (run / "evaluations").mkdir()
    for nimg, fd in ((4000, 90.5), (8000, 40.25), (12000, 45.0)):
        (run / "evaluations" / f"{nimg:09d}.json").write_text(json.dumps(evaluation(nimg, fd)))
    (run / "evaluations" / "cut.json").write_text("{")
    (run / "evaluation.json").write_text(json.dumps({"metrics": {"fd": {"values": {"fd": math.nan}}}}))
    page = page_of(run, tmp_path / "r.html")
    assert "best fd 40.25 at 8,000" in page.words
    assert "fd (2000 generated, 2000 real, net at 64 px)" in page.words
    assert "nan" not in page.words.lower()
    data = [json.loads(s) for s in page.scripts if s.startswith("{")]
    assert {"x": [4000, 8000, 12000], "y": [90.5, 40.25, 45.0]} in [d["curves"][0] for d in data]


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


# ------------------------------------------------------------------------------------------------- compare


def test_compare(run: Path, tmp_path: Path, gankit_cli: Callable[..., Result]) -> None:
    other = write_run(
        tmp_path / "b", lines(4, loss__G=7.0), {"train.lr_g": 0.5, "augmentation": None, "loss": "hinge"}
    )
    grid(other, "000002000", seed=3)
    out = tmp_path / "deep" / "c.html"
    assert gankit_cli("compare", run, other, "--out", out).code == 0
    text = out.read_text(encoding="utf-8")
    assert_self_contained(text)
    page = Page(text)
    table = text[text.index("What differs") : text.index("other keys are equal")]
    keys = re.findall(r'<th scope="row"><code>(.*?)</code></th>', table)
    assert "train.lr_g" in keys
    assert "loss.name" in keys
    assert "train.lr_d" not in keys
    assert re.search(r"<td><code>0.0025</code></td><td class=\"odd\"><code>0.5</code></td>", table)
    data = [json.loads(s) for s in page.scripts if s.startswith("{")]
    both = next(d for d in data if len(d["curves"]) == 2 and d["curves"][1]["y"] == [7, 7, 7, 7])
    assert len(both["curves"][0]["y"]) == 12
    assert len(page.all("img")) == 4


def test_compare_wants_two_runs(run: Path, tmp_path: Path, gankit_cli: Callable[..., Result]) -> None:
    for runs in ([run], [run] * 9):
        done = gankit_cli("compare", *runs, "--out", tmp_path / "c.html")
        assert done.code == 2
        assert "2 to 8 runs" in done.message
    done = gankit_cli("compare", run, tmp_path / "none", "--out", tmp_path / "c.html")
    assert "none is not a folder" in done.message
    assert not (tmp_path / "c.html").exists()


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / place / "run", lines(2, loss__G=1.0)) for place in "ab"]
    page = Page(write_comparison(runs, tmp_path / "c.html").read_text(encoding="utf-8"))
    # title, heading, table, samples, two charts, health
    assert [page.words.count(str(run)) for run in runs] == [7, 7]
    assert "Nothing: all" in page.words


# ------------------------------------------------------------------------------------------ size, charts, film


def test_the_page_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many grids as fit are shown, spread over the run, the last one always."""
    monkeypatch.setattr("gankit.report.page.MAX_BYTES", 200_000)
    run = write_run(tmp_path / "run", lines(3))
    rng = np.random.default_rng(0)
    (run / "samples").mkdir()
    for i in range(30):
        noise = rng.integers(0, 256, (160, 160, 3)).astype(np.uint8)
        Image.fromarray(noise).save(run / "samples" / f"{i:09d}.png")
    page = page_of(run, tmp_path / "r.html")
    shown = [int(a["data-nimg"]) for a in page.all("div") if a.get("class") == "slide"]
    assert shown[0] == 0
    assert shown[-1] == 29
    assert 2 <= len(shown) < 30
    assert sum(len(img["src"]) for img in page.all("img")) <= 100_000


def test_thin_and_smooth() -> None:
    points: list[charts.Point] = [(i, float(i % 2)) for i in range(1200)]
    points[:4] = [(i, None) for i in range(4)]
    thinned = charts.thin(points)
    assert len(thinned) == charts.POINTS
    assert thinned[0] == (3, None)
    assert thinned[-1] == (1199, 0.5)
    assert charts.smooth([(0, 1.0), (1, None), (2, 3.0)], 1) == [(0, 1.0), (1, None), (2, 3.0)]
    assert charts.smooth([(0, 1.0), (1, 5.0), (2, 3.0)], 1) == [(0, 3.0), (1, 3.0), (2, 4.0)]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (-0.31, 0.19, [-0.3, -0.2, -0.1, 0, 0.1]),
        (0, 1e6, [0, 2e5, 4e5, 6e5, 8e5, 1e6]),
    ],
)
def test_ticks(low: float, high: float, expected: list[float]) -> None:
    assert charts.ticks(low, high, 5) == pytest.approx(expected)


@pytest.mark.parametrize(
    "values", [[0.0], [1.0, 1.0], [1e-9, 1e9], [-5.0, None, 3.0], [None, 2.0], [1e30, -1e30]]
)
def test_charts_of_odd_numbers(values: list[float | None]) -> None:
    series = reading.Series("x", list(range(len(values))), values)
    made = charts.chart("x", [charts.Curve.of(series, "x", 0)])
    assert made is not None
    numbers = [float(n) for n in re.findall(r'(?:[xy][12]?|cx|cy)="(-?[\d.]+)"', made.svg)]
    assert "nan" not in made.svg
    assert all(-1 <= n <= charts.WIDTH for n in numbers)
    assert charts.chart("x", [charts.Curve.of(reading.Series("x", [1], [None]), "x", 0)]) is None


def test_without_pyav_the_page_says_how_to_get_it(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)  # its import fails
    page = page_of(run, tmp_path / "r.html")
    assert "pip install 'gankit[video]'" in page.words
    assert not page.all("video")


def test_film(run: Path, tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'gankit[video]'")
    page = page_of(run, tmp_path / "r.html")
    (video,) = page.all("video")
    kind, _, data = video["src"].partition(";base64,")
    assert kind == "data:video/webm"
    with av.open(io.BytesIO(base64.b64decode(data))) as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(frames) == 3 + pictures.VIDEO_FPS  # the last one stays for a second
    for i in range(3):
        with Image.open(run / "samples" / f"{4000 * i:09d}.png") as original:
            expected = np.asarray(original.convert("RGB"), float)
        height, width = expected.shape[:2]
        shown = frames[i][frames[i].shape[0] - height :, :width].astype(float)
        assert abs(shown - expected).mean() < 12
