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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from report_utils import Page, evaluation, grid, lines, page_of, write_run
from runs import Result

from gankit.report import reading, write_comparison, write_report

CHROME = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)


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


def test_a_page_that_cannot_be_written(run: Path, tmp_path: Path, gankit_cli: Callable[..., Result]) -> None:
    (tmp_path / "file").write_text("")
    done = gankit_cli("report", run, "--out", tmp_path / "file" / "page.html")
    assert done.code == 2
    assert "choose another --out" in done.message


# --------------------------------------------------------------------------------------- measured numbers


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


# ------------------------------------------------------------------------------------------------- compare


def test_compare(run: Path, tmp_path: Path, gankit_cli: Callable[..., Result]) -> None:
    other = write_run(
        tmp_path / "b", lines(4, loss__G=7.0), {"train.lr_g": 0.5, "augmentation": None, "loss": "hinge"}
    )
    grid(other, "000002000", seed=3)
    recipe = other / "recipe.yaml"
    recipe.write_text(re.sub("(generator stylegan2): .*", r"\1: gankit 9.9", recipe.read_text()))
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
    assert [key for key in keys if key.startswith("packages")] == ["packages.generator stylegan2"]
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
