"""`gankit export --format`: writes a generator as a file, such as ONNX, that runs without gankit.

The file is a function of z, psi, the condition and, if exported so, noise. FILE.json beside it describes the inputs and
the meaning of each number of the condition.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gankit._version import __version__
from gankit.core.config import options
from gankit.core.interfaces.labels import Label
from gankit.core.runtime import devices, tensor_files
from gankit.errors import GankitError, unknown
from gankit.sampling.engine import Exporter
from gankit.sampling.graphs import SamplingGraph, export_program, noise_numbers
from gankit.sampling.pipeline import Pipeline, load

NOISES, CENTERS = ("const", "none", "input"), ("condition", "global")
TOLERANCE = 1 / 255  # half a grey level, for images in [-1, 1]
CHECKED_AT = ((3, 1.0), (1, 0.6))  # (batch, psi) at which a written file is compared with the model


# Long because the file is written, run and compared aside, and moved to its place only if its images are right.
@devices.isolated
def export_file(
    model: str,
    out: Path,
    format_: str,
    *,
    noise: str = "const",
    center: str = "condition",
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model's generator as a file of another framework, run the file and compare its images with the model's.

    Args:
        model: model as `gankit.load` takes it.
        out: the file; the format's suffix is added if it is missing.
        format_: exporter plugin: 'onnx', 'openvino', 'torch-export' or another one.
        noise: 'const' keeps the constant noise, 'none' leaves noise out, 'input' makes normal numbers [B, N] an input.
        center: centre of truncation, as in `Pipeline.__call__`: 'condition' is the mean under the condition, which the
            file computes itself, 'global' the mean of the network's family.
        settings: options of the exporter.

    Returns the path of the file.

    Raises GankitError if a package is missing, the file exists, the format cannot hold this network, or the images
        that the file draws are not those of the model.
    """
    if noise not in NOISES:
        raise GankitError(unknown("--noise", noise, NOISES))
    if center not in CENTERS:
        raise GankitError(unknown("--center", center, CENTERS))
    exporter: Exporter = options.build("exporter", {**(settings or {}), "name": format_})
    if reason := exporter.obstacle():
        raise GankitError(f"--format {format_}: {reason}")
    if out.suffix != exporter.suffix:
        out = out.with_name(out.name + exporter.suffix)
    sidecar = out.with_name(out.name + ".json")
    for path in (out, sidecar):
        if path.exists():
            raise GankitError(f"{path} exists already; choose another name, or remove it first")

    pipe = load(model, device="cpu")
    graph, inputs = sampling_graph(pipe, noise, center)
    program = export_program(graph, inputs)
    used = {name: inputs[name] for name in program.graph_signature.user_inputs}
    with (
        tensor_files.write_advice(out),
        tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as aside,
    ):
        written = Path(aside) / out.name
        try:
            with warnings.catch_warnings():  # converters warn about their own code
                warnings.simplefilter("ignore")
                exporter.write(program, written)
                draw = exporter.open(written)
        except OSError:
            raise
        except Exception as error:  # converters may raise anything
            raise GankitError(
                f"--format {format_} cannot hold this network ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:300]}); try another format"
            ) from error
        worst = _compare(graph, used, draw, format_)
        del draw
        page = _page(pipe, used, noise, center, worst)
        (Path(aside) / sidecar.name).write_text(
            json.dumps(page, indent=1, ensure_ascii=False), encoding="utf-8"
        )
        for file in sorted(Path(aside).iterdir()):
            os.replace(file, out.parent / file.name)
    return out


def sampling_graph(pipe: Pipeline, noise: str, center: str) -> tuple[SamplingGraph, dict[str, Tensor]]:
    """The module to export, and example inputs by name for three images under different conditions.

    Raises GankitError if `noise` is 'input' and the generator takes no noise."""
    count = 3
    cond = pipe.conditioner.encode([Label()] * count)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if cond.embedding is not None:  # rows that differ, so that mistakes show
            cond.embedding = cond.embedding + torch.rand_like(cond.embedding)
        if cond.tokens is not None:
            cond.tokens = cond.tokens + torch.rand_like(cond.tokens)
        z = torch.randn(count, pipe.generator.z_dim)
        inputs = {"z": z, "psi": torch.tensor(0.7)}
        for name, tensor in (("c", cond.embedding), ("tokens", cond.tokens), ("mask", cond.mask)):
            if tensor is not None:
                inputs[name] = tensor.contiguous()
        with torch.no_grad():
            if noise == "input":
                numbers = noise_numbers(pipe.generator, pipe.generator.mapping(z, cond), cond)
                if not numbers:
                    raise GankitError("--noise input: this generator takes no noise; leave the option away")
                inputs["noise"] = torch.randn(count, numbers)
            parts: dict[str, Tensor] = {}
            if center == "condition" and all(t is None for t in (cond.embedding, cond.tokens)):
                parts["center"] = pipe.center(cond)
            elif center == "condition":
                parts["latents"] = pipe.center_latents()
        graph = SamplingGraph(pipe.generator, noise, **parts)  # type: ignore[arg-type]
    return graph.eval(), inputs


def _compare(
    graph: SamplingGraph,
    inputs: dict[str, Tensor],
    draw: Callable[[Mapping[str, np.ndarray]], np.ndarray],
    format_: str,
) -> float:
    """Run a written file at CHECKED_AT; returns the largest absolute difference from torch's images.

    Raises GankitError if it does not run or a difference is above TOLERANCE."""
    worst = 0.0
    for count, psi in CHECKED_AT:
        rows = {
            name: tensor[:count].contiguous() if tensor.ndim else tensor for name, tensor in inputs.items()
        }
        if "psi" in rows:
            rows["psi"] = torch.tensor(psi)
        with torch.no_grad():
            expected = graph(**{"psi": torch.tensor(psi), **rows}).numpy()
        try:
            drawn = draw({name: tensor.numpy() for name, tensor in rows.items()})
        except Exception as error:
            raise GankitError(
                f"--format {format_}: the written file does not run ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:300]}); try another format"
            ) from error
        off = np.inf if drawn.shape != expected.shape else np.abs(drawn - expected).max(initial=0.0)
        if not off <= TOLERANCE * max(1.0, np.abs(expected).max(initial=0.0)):
            raise GankitError(
                f"--format {format_}: the written file draws other images than the model (off by {off:.3g} at batch "
                f"{count}, psi {psi}), so it is not kept; try another format, and please report this"
            )
        worst = max(worst, float(off))
    return worst


def _page(pipe: Pipeline, inputs: dict[str, Tensor], noise: str, center: str, worst: float) -> dict[str, Any]:
    towards = "the mean under the condition" if center == "condition" else "the mean of all images"
    meanings = {
        "z": "latents; seed s of gankit is numpy.random.RandomState(s).randn(1, z_dim)",
        "psi": f"truncation towards {towards}; 1 is the full variety",
        "c": "the condition; 'condition' says what its numbers stand for",
        "tokens": "features of the text's tokens",
        "mask": "true where 'tokens' holds a token",
        "noise": "normal numbers for the noise of each layer",
    }
    types = {torch.bool: "bool"}
    channels, height, width = pipe.generator.image_shape
    return {
        "gankit": __version__,
        "recipe": pipe.recipe.name,
        "inputs": {
            name: {
                "shape": ["batch", *tensor.shape[1:]] if tensor.ndim else [],
                "type": types.get(tensor.dtype, "float32"),
                "meaning": meanings[name],
            }
            for name, tensor in inputs.items()
        },
        "outputs": {"images": {"shape": ["batch", channels, height, width], "range": [-1, 1]}},
        "noise": noise,
        "center": center,
        "condition": [f"{kind}:{name}" for kind, name in pipe.conditioner.columns()],
        "largest_difference": worst,
    }
