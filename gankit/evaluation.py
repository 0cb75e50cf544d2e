"""`gankit evaluate`: metrics of a model against a data set, with everything that the numbers depend on."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import gankit
from gankit.core import checkpoint, options
from gankit.core.data import Batches, open_source
from gankit.core.images import to_uint8
from gankit.core.interfaces import FeatureNetwork, Metric, Source
from gankit.core.labels import Label
from gankit.core.paths import cache_dir
from gankit.core.random import batch_random
from gankit.core.statistics import FeatureSet, measure
from gankit.errors import GankitError
from gankit.pipeline import Pipeline, load

FORMAT = 1  # of the JSON file
RESIZE = "bicubic, antialiased, float32, stretched to a square"
DATA_SEED = 0  # of the choice of real images, the same for every evaluation so that they are cached
DEFAULT_SIDE = 224


@dataclass(frozen=True)
class Backbone:
    """A feature network and how images enter it."""

    network: FeatureNetwork
    side: int
    device: torch.device

    @torch.no_grad()
    def features(self, images: Tensor) -> np.ndarray:
        """uint8 [B, 1 | 3 | 4, H, W] -> [B, num_pooled] float32."""
        pixels = on_white(images.to(self.device)).float() / 127.5 - 1
        return self.network.pooled(resize(pixels, self.side)).float().cpu().numpy()

    def facts(self) -> dict[str, Any]:
        return {
            **self.network.identity(),
            "width": self.network.num_pooled,
            "input": self.side,
            "resize": RESIZE,
        }


def on_white(images: Tensor) -> Tensor:
    """uint8 [B, 1 | 3 | 4, H, W] -> RGB; grey is repeated, transparent parts become white."""
    if images.shape[1] == 4:
        alpha = images[:, 3:].int()
        return ((images[:, :3].int() * alpha + 255 * (255 - alpha) + 127) // 255).to(torch.uint8)
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def resize(images: Tensor, side: int) -> Tensor:
    """Bring images [B, C, H, W] to [B, C, side, side] with Pillow's bicubic filter, without rounding to levels between:
    of the usual filters only antialiased ones do not shift Frechet distances (Parmar et al., On Aliased Resizing and
    Surprising Subtleties in GAN Evaluation, CVPR 2022)."""
    if images.shape[2:] == (side, side):
        return images
    return F.interpolate(images, (side, side), mode="bicubic", antialias=True, align_corners=False)


# ------------------------------------------------------------------------------------------------- features


def checked(batches: Iterator[tuple[Tensor, int]], backbone: Backbone, what: str) -> Iterator[np.ndarray]:
    """Features of (images, number of the first of them). Raises GankitError for one that is not finite."""
    for images, first in batches:
        features = backbone.features(images)
        bad = ~np.isfinite(features).all(1)
        if bad.any():
            raise GankitError(
                f"the feature network {backbone.network.name!r} gives NaN or infinity for {what} image "
                f"{first + int(bad.argmax())}; use another --feature, or another --side than {backbone.side}"
            )
        yield features


def real_images(
    source: Source, pipe: Pipeline, count: int, batch: int, say: Any
) -> Iterator[tuple[Tensor, int]]:
    """A random choice of `count` images without repetition, as training sees them but never mirrored."""
    data = pipe.recipe.data
    batches = Batches(source, data.size, channels=data.channels, fit=data.fit, batch=batch, seed=DATA_SEED)
    try:
        for first in range(0, count, batch):
            loaded = next(batches)
            for name, reason in loaded.skipped:
                warnings.warn(
                    f"{name} cannot be read ({reason}); the next image stands in for it", stacklevel=2
                )
            say(first)
            yield loaded.images[: count - first], first
    finally:
        batches.close()


@torch.no_grad()
def generated_images(
    pipe: Pipeline, source: Source, count: int, batch: int, seed: int, psi: float, say: Any
) -> Iterator[tuple[Tensor, int]]:
    """Image i is drawn from seed + i, with fresh per-pixel noise, under the label of a random image of the data set."""
    for first in range(0, count, batch):
        rows = min(batch, count - first)
        z = pipe.latents(range(seed + first, seed + first + rows))
        labels = [Label()] * rows
        if pipe.conditioner.accepts:
            labels = [_random_label(source, seed, first + row) for row in range(rows)]
        cond = pipe.conditioner.encode(labels)
        with batch_random("evaluate", seed, first, total=rows):
            images = pipe.generator(z, cond, truncation_psi=psi)
        if not bool(images.isfinite().all()):
            raise GankitError(
                "the generator gives NaN or infinity; the model is broken, take an earlier checkpoint"
            )
        say(first)
        yield torch.from_numpy(to_uint8(images)).permute(0, 3, 1, 2), first


def _random_label(source: Source, seed: int, number: int) -> Label:
    """That of a random image of the data set with one of its captions; depends on seed and number only."""
    rng = np.random.Generator(np.random.PCG64([seed, number]))
    label = source.label(int(rng.integers(len(source))))
    return replace(label, texts=(label.texts[rng.integers(len(label.texts))],)) if label.texts else label


def real_features(
    source: Source, pipe: Pipeline, backbone: Backbone, count: int, batch: int, rows: bool, say: Any
) -> tuple[FeatureSet, bool]:
    """Features of the data set, from the cache if it has them; the second value says whether it had."""
    data = pipe.recipe.data
    key = {
        "data": source.fingerprint(),
        "size": data.size,
        "channels": data.channels,
        "fit": data.fit,
        "count": count,
        "seed": DATA_SEED,
        "format": FORMAT,
        **backbone.facts(),
    }
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    folder = cache_dir("metrics") / name
    found = FeatureSet.load(folder, rows=rows)
    if found is not None:
        return found, True
    images = real_images(source, pipe, count, batch, say)
    with checkpoint.FolderWriter(folder) as aside:
        file = aside / "rows.npy" if rows else None
        stream = checked(images, backbone, "real")
        FeatureSet.collect(stream, count, backbone.network.num_pooled, file).save(aside)
        checkpoint.write_text(aside / "key.json", json.dumps(key, indent=1))
    found = FeatureSet.load(folder, rows=rows)
    if found is None:
        raise GankitError(
            f"what was just written to {folder} cannot be read; set GANKIT_CACHE to another folder"
        )
    return found, False


# -------------------------------------------------------------------------------------------------- evaluation


def evaluate(
    model: str,
    *,
    metrics: Sequence[str],
    num: int = 10_000,
    num_real: int | None = None,
    data: str | None = None,
    feature: str = "timm-cnn",
    side: int | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    psi: float = 1.0,
    batch_size: int = 32,
    device: str = "auto",
    quiet: bool = True,
) -> dict[str, Any]:
    """Measure a model.

    Args:
        model: what `gankit.load` takes.
        metrics: names of metric plugins.
        num: generated images.
        num_real: images of the data set, at most all of it; as many as `num` when omitted.
        data: data set; that of the model's recipe when omitted.
        feature: a feature plugin, the network whose pooled features are compared.
        side: of the square images that enter it; what it was trained on when omitted.
        settings: options by 'feature.OPTION' and 'METRIC.OPTION'.
        seed: image i is drawn from seed + i.
        psi: truncation towards the mean of the model's family; 1 is none.
        batch_size: images at a time.
        device: 'auto', 'cpu', 'cuda' or 'mps'.
        quiet: no progress on stderr.

    Returns the page that `gankit evaluate` writes as JSON. Raises GankitError for anything that cannot be measured.
    """
    start = time.monotonic()
    specs = _specs([feature, *metrics], settings or {})
    plugins: dict[str, Metric] = {name: options.build("metric", specs[name]) for name in metrics}
    if not plugins:
        raise GankitError("no metrics are named; give --metrics fd,kid,pr or some of them")
    if num < 1 or batch_size < 1 or not 0 <= seed <= 2**32 - num:
        raise GankitError(
            f"--num {num} and --batch-size {batch_size} must be at least 1, --seed {seed} in [0, 2^32 - num]"
        )
    if num_real is not None and num_real < 1:
        raise GankitError(f"--num-real {num_real} must be at least 1, or 'all'")
    pipe = load(model, device=device)
    where, source_options = (
        (data, None) if data is not None else (pipe.recipe.data.path, pipe.recipe.data.options)
    )
    if where is None:
        raise GankitError("the model's recipe names no data set; say with --data what to compare with")
    source = open_source(where, source_options)
    count = min(num if num_real is None else num_real, len(source))
    for name, metric in plugins.items():  # before the first image is drawn
        for flag, have in (("--num", num), ("--num-real or the data set", count)):
            if have < metric.min_images:
                raise GankitError(
                    f"metric {name!r} needs {metric.min_images} images or more, not {have} ({flag})"
                )
    network: FeatureNetwork = options.build("feature", specs["feature"])
    backbone = Backbone(network.to(pipe.device), _side(network, side), pipe.device)
    rows = any(metric.needs_rows for metric in plugins.values())
    say = _Progress(not quiet and sys.stderr.isatty())
    with tempfile.TemporaryDirectory(prefix="gankit-") as scratch:
        real, cached = real_features(source, pipe, backbone, count, batch_size, rows, say.of("real", count))
        images = generated_images(pipe, source, num, batch_size, seed, psi, say.of("generated", num))
        file = Path(scratch) / "rows.npy" if rows else None
        fake = FeatureSet.collect(checked(images, backbone, "generated"), num, network.num_pooled, file)
        say.end()
        results = {
            name: {
                "values": measure(name, metric, real, fake),
                "better": dict(metric.values),
                "options": {k: v for k, v in options.check("metric", specs[name]).items() if k != "name"},
            }
            for name, metric in plugins.items()
        }
        del fake  # closes the file that is about to vanish
    recipe = pipe.recipe
    return {
        "format": FORMAT,
        "metrics": results,
        "generated": {
            "model": str(model),
            "recipe": recipe.name,
            "trained_images": pipe.nimg,
            "images": num,
            "seed": seed,
            "psi": psi,
            "center": "global",
            "noise": "random",
            "batch": batch_size,
            "labels": "of the data set" if pipe.conditioner.accepts else "none",
        },
        "real": {
            "data": where,
            "fingerprint": source.fingerprint(),
            "images": count,
            "of": len(source),
            "seed": DATA_SEED,
            "size": list(recipe.data.size),
            "channels": recipe.data.channels,
            "resize": f"lanczos, antialiased, {recipe.data.fit}",
            "cached": cached,
        },
        "feature": {
            **backbone.facts(),
            "plugin": options.check("feature", specs["feature"]),
            "dtype": "float32",
        },
        "versions": {
            "gankit": gankit.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            **{name: importlib.metadata.version(name) for name in ("timm", "numpy", "pillow")},
        },
        "device": str(pipe.device),
        "seconds": round(time.monotonic() - start, 1),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _specs(names: Sequence[str], settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Plugin specs of the feature network (under 'feature') and the metrics."""
    feature, *metrics = names
    specs: dict[str, dict[str, Any]] = {name: {"name": name} for name in metrics}
    specs["feature"] = {"name": feature}
    for key, value in settings.items():
        owner, dot, option = key.partition(".")
        if owner not in specs or not dot:
            raise GankitError(
                f"--set {key}: say OWNER.OPTION, where OWNER is one of {', '.join(sorted(specs))}"
            )
        specs[owner][option] = value
    return specs


def _side(network: FeatureNetwork, wanted: int | None) -> int:
    multiple = network.input_multiple
    if wanted is None:
        return math.ceil((network.input_side or DEFAULT_SIDE) / multiple) * multiple
    if wanted < 1 or wanted % multiple:
        raise GankitError(f"--side {wanted}: {network.name!r} takes multiples of {multiple}")
    return wanted


class _Progress:
    """One line on stderr."""

    def __init__(self, enabled: bool) -> None:
        self.enabled, self.start = enabled, 0.0

    def of(self, what: str, total: int) -> Any:
        self.start = time.monotonic()

        def say(done: int) -> None:
            if self.enabled:
                speed = done / max(time.monotonic() - self.start, 1e-9)
                left = f", {(total - done) / speed:.0f} s left" if done else ""
                print(
                    f"\r{what} images: {done:,} of {total:,}{left}\x1b[K", end="", file=sys.stderr, flush=True
                )

        return say

    def end(self) -> None:
        if self.enabled:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def table(page: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """(metric, value, number, which is better) of each number of a page."""
    return [
        (name, key, f"{value:.6g}", result["better"][key])
        for name, result in page["metrics"].items()
        for key, value in result["values"].items()
    ]


def write_page(page: Mapping[str, Any], path: Path) -> None:
    with checkpoint.write_advice(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_text(path, json.dumps(page, indent=1, ensure_ascii=False))
