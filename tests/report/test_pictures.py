"""Pictures of a report: variety of the samples, the film."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_utils import grid, lines, page_of, write_run

from gankit.report import health, pictures, reading


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
