"""Reading a run: its state, and folders that are none."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from report_utils import lines, write_run
from runs import Result

from gankit.report import reading


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
