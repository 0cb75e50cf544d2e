"""Conformance checks of engines and exporters, on a small network with all kinds of inputs."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path

import torch
from torch import Tensor, nn

from gankit.core.interfaces import contracts
from gankit.sampling.engine import Engine, Exporter
from gankit.sampling.graphs import export_program
from gankit.testing.common import Subject, assert_close, seeded

HALF_TOLERANCE = 0.03  # bfloat16 has 8 bits, and several layers round


class Painter(nn.Module):
    """A toy network: ws [B, N, 6], c [B, 6] and noise [B, 16] -> images [B, 3, 8, 8]."""

    def __init__(self) -> None:
        super().__init__()
        with seeded():
            self.start, self.paint = nn.Linear(6, 4 * 16), nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, ws: Tensor, c: Tensor, noise: Tensor) -> Tensor:
        x = self.start(ws[:, 0] * c).unflatten(1, (4, 4, 4)) + noise.unflatten(1, (1, 4, 4))
        return self.paint(nn.functional.interpolate(nn.functional.leaky_relu(x, 0.2), scale_factor=2.0))


class HalfPainter(Painter):
    """The toy network in bfloat16 (autocast), with images in float32."""

    def forward(self, ws: Tensor, c: Tensor, noise: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(ws, c, noise).float()


def _painting(count: int) -> tuple[nn.Module, dict[str, Tensor]]:
    with seeded(count):
        ws = torch.randn(count, 1, 6).expand(-1, 5, -1)  # as mapping networks repeat it
        inputs = {"ws": ws, "c": torch.randn(count, 6), "noise": torch.randn(count, 16)}
    return Painter().eval().requires_grad_(False), inputs


def check_engine_images(subject: Subject) -> None:
    """Images equal those of the module, for the batch size of `prepare` and another one, also after `forget`."""
    engine: Engine = subject.build()
    if reason := engine.obstacle(torch.device("cpu")):
        raise unittest.SkipTest(f"{subject}: {reason}")
    painter, inputs = _painting(2)
    for _ in range(2):
        with torch.no_grad():
            draw = engine.prepare(painter, inputs)
            for count in (2, 3):
                _, given = _painting(count)
                before = {name: tensor.clone() for name, tensor in given.items()}
                images = draw(given)
                contracts.drawn(engine, images, (count, 3, 8, 8))
                assert_close(images, painter(**given), f"{subject}: images at batch size {count}")
                kept = images.clone()
                draw({name: tensor + 1 for name, tensor in given.items()})
                assert torch.equal(images, kept), (
                    f"{subject}: a later call overwrites the images of an earlier one"
                )
                for name, tensor in given.items():
                    assert torch.equal(tensor, before[name]), f"{subject}: changes its input {name!r}"
        engine.forget()


def check_engine_dtypes(subject: Subject) -> None:
    """In each declared precision, images are float32 and equal those of float32 up to rounding."""
    engine: Engine = subject.build()
    if reason := engine.obstacle(torch.device("cpu")):
        raise unittest.SkipTest(f"{subject}: {reason}")
    assert "fp32" in engine.dtypes, f"{subject}: 'fp32' is not among its dtypes {list(engine.dtypes)}"
    painter, inputs = _painting(2)
    for dtype in engine.dtypes:
        engine = subject.build()
        engine.dtype = dtype
        module = painter if dtype == "fp32" or engine.casts else HalfPainter().eval().requires_grad_(False)
        with torch.no_grad():
            images = engine.prepare(module, inputs)(inputs)
            assert images.dtype == torch.float32, f"{subject}: {dtype} images are {images.dtype}, not float32"
            assert_close(images, painter(**inputs), f"{subject}: images in {dtype}", HALF_TOLERANCE)
        engine.forget()


def check_exporter_images(subject: Subject) -> None:
    """Images of an exported file equal those of the network, for several batch sizes."""
    exporter: Exporter = subject.build()
    if reason := exporter.obstacle():
        raise unittest.SkipTest(f"{subject}: {reason}")
    assert exporter.suffix.startswith("."), (
        f"{subject}: its suffix {exporter.suffix!r} does not begin with a dot"
    )
    painter, inputs = _painting(2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"painter{exporter.suffix}"
        exporter.write(export_program(painter, inputs), path)
        assert path.is_file(), f"{subject}: wrote no {path.name}"
        draw = exporter.open(path)
        for count in (1, 3):
            _, given = _painting(count)
            images = draw({name: tensor.contiguous().numpy() for name, tensor in given.items()})
            assert_close(
                torch.as_tensor(images), painter(**given), f"{subject}: images at batch size {count}"
            )


CHECKS = {"engine": [check_engine_images, check_engine_dtypes], "exporter": [check_exporter_images]}
