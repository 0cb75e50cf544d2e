"""A run with a log and sample grids."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_utils import grid, lines, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    log = lines(12, loss__G=lambda t: 5 - t, loss__D=1.25, sign__real=0.6, sign__fake=-0.7, time__data=0.01)
    folder = write_run(tmp_path / "a run", log)
    for i in range(3):
        grid(folder, f"{4000 * i:09d}", seed=i)
    grid(folder, "real", seed=9)
    return folder
