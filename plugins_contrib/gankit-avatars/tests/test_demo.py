"""`gankit demo` writes a page that stands alone, also when called again and without a trained model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import gankit
from gankit.core.checkpoints import folders
from gankit_avatars.demo import CLASSES, PROMPTS, TAGS, demo

TINY = {
    "data.options": {"count": 3000, "cache": "off"},
    "data.size": 16,
    "generator.channel_base": 128,
    "discriminator.channel_base": 128,
    "train.batch": 4,
    "train.workers": 0,
}


@pytest.mark.slow
def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    train, load = gankit.train, gankit.load
    seeds = [0]

    def train_tiny(recipe: str, out: Path, **kwargs: Any) -> Path:
        return train(recipe, out, overrides={**TINY, "train.seed": seeds[0]}, quiet=True, **kwargs)

    def absent(name: str, **_: Any) -> gankit.Pipeline:
        raise gankit.GankitError(f"no {name} here")

    monkeypatch.setattr(gankit, "train", train_tiny)
    monkeypatch.setattr(gankit, "load", absent)
    out, page = tmp_path / "demo", tmp_path / "demo" / "index.html"
    demo(out, minutes=1e-6)
    assert "no avatars here" in page.read_text()
    assert page.resolve().as_uri() in capsys.readouterr().out
    assert page.read_text().count("<img ") == 3  # first and last grid, real images

    monkeypatch.setattr(gankit, "load", lambda name, **kwargs: load(out / "run", **kwargs))
    demo(out, minutes=1e-6)
    text = page.read_text()
    assert [int(p.name) for p in folders.checkpoints(out / "run")] == [4, 8]  # it went on
    assert text.count("<img ") == len(PROMPTS) + len(TAGS) + len(CLASSES) + 1 + 3
    assert all(prompt in text for prompt in PROMPTS)
    assert not [
        source for source in re.findall(r'(?:src|href)="([^"]*)', text) if not source.startswith("data:")
    ]

    seeds[0] = 1  # as if another version of the recipe had been installed
    demo(out, minutes=1e-6)
    assert "begins anew" in capsys.readouterr().out
    assert [int(p.name) for p in folders.checkpoints(out / "run")] == [4]

    size = page.stat().st_size
    demo(out, minutes=0)
    assert "Training on this machine" not in page.read_text()
    assert page.stat().st_size < size
