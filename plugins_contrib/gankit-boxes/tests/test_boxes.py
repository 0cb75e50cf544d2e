"""Boxes: the plugins keep their contracts, drawings fill their boxes, and a box is asked for on the command line."""

from __future__ import annotations

import json
import runpy
import sys

import numpy as np
import pytest
from PIL import Image, ImageColor

import gankit
import gankit.testing
from gankit.interfaces import GankitError, Label
from gankit_boxes.conditioner import BoxConditioner
from gankit_boxes.source import BACKGROUND, BoxSource


class TestConformance(gankit.testing.ConformanceSuite):
    package = "gankit-boxes"


def test_an_avatar_fills_its_box():
    source = BoxSource(size=64, count=40)
    boxes = []
    for index in range(len(source)):
        pixels = np.asarray(source.image(index)).astype(int)
        drawn = (abs(pixels - ImageColor.getrgb(BACKGROUND)) > 12).any(2)
        rows, columns = (np.flatnonzero(drawn.any(axis)) for axis in (1, 0))
        found = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        box = source.label(index).fields["box"]
        assert abs(found - 64 * np.array(box)).max() <= 2, (index, found, box)
        boxes.append(box)
    assert np.ptp(boxes, axis=0).min() > 0.3  # they are all over the picture
    assert source.label(0).texts  # and what the avatars' source says stands beside


@pytest.mark.parametrize(
    "box",
    [None, "left", [0, 0, 1], [0, 0, 1, 1.1], [0.5, 0, 0.5, 1], [0, True, 1, 1], [-0.1, 0, 1, 1], {"x": 1}],
)
def test_other_boxes_are_refused(box):
    with pytest.raises(GankitError, match=r"a box must be \[x0, y0, x1, y1\]"):
        BoxConditioner().encode([Label(fields={"box": box})])


def test_a_mirrored_box_lies_on_the_other_side():
    label = BoxConditioner().mirror(Label("bob", fields={"box": [0.1, 0.2, 0.5, 0.6], "angle": 3}))
    assert label.cls == "bob"
    assert label.fields["box"] == pytest.approx([0.5, 0.2, 0.9, 0.6])
    assert label.fields["angle"] == 3
    assert BoxConditioner().mirror(Label()) == Label()


def test_trained_and_asked_for_a_box(tmp_path, monkeypatch):
    gankit.train("boxes", tmp_path / "run", tiny=True, quiet=True)
    boxes = ([0.0, 0.1, 0.5, 0.6], [0.5, 0.4, 1.0, 1.0])
    arguments = [part for box in boxes for part in ("--label", f"box={','.join(map(str, box))}")]
    arguments += ["--seeds", "0-1", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["gankit", "sample", str(tmp_path / "run"), *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("gankit", run_name="__main__")
    assert not end.value.code
    for i, box in enumerate(boxes):
        image = Image.open(tmp_path / "out" / f"{i:03d}-seed0001.png")
        assert json.loads(image.text["gankit"])["label"] == {"box": box}
    with pytest.raises(GankitError, match="a box must be"):
        gankit.load(tmp_path / "run")(box=[0, 0, 2, 2])
