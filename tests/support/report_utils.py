"""Folders that look like runs, and a reader of HTML pages."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from gankit.core.config import recipe as recipes
from gankit.core.data.contact_sheet import save_png, sheet
from gankit.report import write_report

VOID = {"meta", "img", "input", "br", "hr"}


class Page(HTMLParser):
    """Tags with attributes, the text outside of scripts, and whether every tag is closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> out of turn"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("script", "style"):
            self.scripts.append(data)
        else:
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def lines(count: int, **scalars: Any) -> list[dict[str, Any]]:
    """Log lines of a run; a scalar is a number, or a function of the share of the run."""
    start = time.time() - 86400
    named = {key.replace("__", "/"): value for key, value in scalars.items()}
    return [
        {
            "nimg": 1000 * (i + 1),
            "time": start + 20 * i,
            "speed/images_per_s": 50.0,
            **{key: value((i + 1) / count) if callable(value) else value for key, value in named.items()},
        }
        for i in range(count)
    ]


def grid(folder: Path, name: str, *, seed: int, spread: float = 1.0, tiles: int = 6) -> None:
    """A sample grid of flat tiles 8 x 8 whose colours vary by `spread`."""
    rng = np.random.default_rng(seed)
    colours = 128 + spread * (rng.uniform(0, 255, (tiles, 1, 1, 3)) - 128)
    pixels = np.broadcast_to(colours, (tiles, 8, 8, 3)).astype(np.uint8)
    save_png(sheet(list(pixels), columns=4), folder / "samples" / f"{name}.png")


def write_run(
    folder: Path, log: Iterable[Mapping[str, Any]] = (), overrides: Mapping[str, Any] | None = None
) -> Path:
    folder.mkdir(parents=True)
    recipe = recipes.read("stylegan2", {"data.size": 8, "train.images": "1M", **(overrides or {})})
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    text = "".join(json.dumps(line) + "\n" for line in log)
    if text:
        (folder / "log.jsonl").write_text(text)
    return folder


def page_of(run: Path, out: Path) -> Page:
    return Page(write_report(run, out).read_text(encoding="utf-8"))


def evaluation(nimg: int, fd: float, **extra: Any) -> dict[str, Any]:
    return {
        "metrics": {"fd": {"values": {"fd": fd}, "better": {"fd": "lower"}}},
        "generated": {"trained_images": nimg, "images": 2000, "psi": 1.0},
        "real": {"images": 2000},
        "feature": {"name": "net", "input": 64},
        **extra,
    }
