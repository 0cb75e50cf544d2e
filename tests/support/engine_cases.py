"""Compares the images of an engine with those of plain torch."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from runs import pixels

import gankit


def same_images(folder: Path, engine: Any) -> None:
    plain, fast = (gankit.load(folder, device="cpu", engine=name) for name in ("eager", engine))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # of an engine that was given up
        for wish in ({"seeds": range(3), "batch_size": 2}, {"seeds": 7, "psi": 0.5}):
            expected = pixels(plain(cls="round", noise_mode="const", **wish))
            assert abs(pixels(fast(cls="round", noise_mode="const", **wish)) - expected).max() <= 1
        ws = plain.mapping(plain.latents(range(3)), plain.conditioner.encode([plain.label(cls="square")]))
        cond = plain.conditioner.encode([plain.label(cls="square")] * 3)
        with torch.no_grad():
            expected = plain.engine(ws, cond, "const")
            drawn = fast.engine(ws, cond, "const")
            error = (drawn - expected).abs().max().item()
            assert error < 1e-4 * expected.abs().max().item()
            noisy = [fast.engine(ws, cond, "random") for _ in range(2)]
        assert (noisy[0] - noisy[1]).abs().max() > 1e-3
        assert noisy[0].isfinite().all()
    assert "eager" not in fast.engine.used
