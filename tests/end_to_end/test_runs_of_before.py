"""A run and a model of gankit 0.1.0: it continues, and it draws the pictures that it drew then."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from golden_utils import GOLDEN
from runs import Result
from safetensors.numpy import load_file

import gankit

FOLDER = GOLDEN / "run_0_1"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER / "run", tmp_path / "run"))


def test_it_continues(run: Path, gankit_cli: Callable[..., Result]) -> None:
    """To the bit on the kind of CPU that it began on; elsewhere Adam turns the last bits into steps of its rate."""
    recipe, data = run / "recipe.yaml", FOLDER / "data"
    done = gankit_cli("train", recipe, "--data", data, "--out", run, "--images", 40)
    assert (done.code, done.err) == (0, "")
    mine, theirs = (
        load_file(folder / "generator.safetensors")
        for folder in (run / "checkpoints" / "000000040", FOLDER / "expected")
    )
    assert mine.keys() == theirs.keys()
    for name in mine:
        np.testing.assert_allclose(mine[name], theirs[name], atol=0.02, err_msg=name)
    assert not (run / "journal.jsonl").exists()  # nobody knows what computed it until then


def test_other_op_backends_are_a_line_in_its_journal(run: Path, gankit_cli: Callable[..., Result]) -> None:
    command = ("train", run / "recipe.yaml", "--data", FOLDER / "data", "--out", run)
    gankit_cli(*command, "--images", 24)
    page = run / "checkpoints" / "000000024" / "training" / "state.json"
    state = json.loads(page.read_text())
    mine, state["op_backends"] = state["op_backends"], {"other": "package 9"}
    del state["sha256"]
    page.write_text(json.dumps(state))
    done = gankit_cli(*command, "--images", 32)
    assert (done.code, done.err) == (0, "")
    assert "operators were computed by other (package 9) until here" in done.out
    (line,) = map(json.loads, (run / "journal.jsonl").read_text().splitlines())
    assert (line["nimg"], line["event"], line["before"]) == (24, "op_backends", {"other": "package 9"})
    assert line["after"] == mine


def test_it_draws_what_it_drew(run: Path) -> None:
    pipe = gankit.load(run, device="cpu")
    drawn = [np.asarray(i) for cls in ("round", "square") for i in pipe(cls=cls, seeds=range(3), psi=0.7)]
    expected = load_file(FOLDER / "expected" / "images.safetensors")["images"]
    assert np.abs(np.stack(drawn).astype(int) - expected).max() <= 1
