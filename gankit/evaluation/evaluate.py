"""`gankit evaluate`: measures a model against a data set, and writes the numbers with all settings as JSON."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gankit._version import __version__
from gankit.core.config import options
from gankit.core.data.contact_sheet import save_png
from gankit.core.data.loader import open_source
from gankit.core.runtime import devices, distributed, tensor_files
from gankit.core.runtime.paths import cache_dir
from gankit.errors import GankitError
from gankit.evaluation.backbone import Backbone
from gankit.evaluation.image_stream import Features, Job, generated_features, real_features, unlabelled
from gankit.evaluation.metric import ImageMetric, Measure, Metric, ModelMetric, measure, reported
from gankit.evaluation.metric_context import DATA_SEED, Album, MetricContext, Progress
from gankit.evaluation.moments import FeatureSet
from gankit.sampling.pipeline import Pipeline, load

FORMAT = 2  # of the JSON file


class Session:
    """Metrics bound to a context, measured once or, during training, repeatedly.

    Args:
        context: model and data set.
        plugins: metrics by name, checked by `check_before_drawing`.

    Attributes:
        cached: True if the features of the real images were found in the cache.
    """

    def __init__(self, context: MetricContext, plugins: Mapping[str, Measure]) -> None:
        self.context, self.plugins, self.cached = context, plugins, False
        self.compared = {name: metric for name, metric in plugins.items() if isinstance(metric, Metric)}
        self.image_metrics = {
            name: metric for name, metric in plugins.items() if isinstance(metric, ImageMetric)
        }
        self.features = Features()
        self.jobs = {n: self.features.want(m, context.backbone_of(m)) for n, m in self.compared.items()}
        for single in self.image_metrics.values():
            single.to(context.pipe.device)
        self._real: dict[Job, FeatureSet] | None = None

    def real(self) -> dict[Job, FeatureSet]:
        """Features of the real images, computed or loaded at the first call."""
        if self._real is None:
            found, self.cached = (
                real_features(self.context, self.features) if self.features.real else ({}, False)
            )
            self._real = found
        return self._real

    def measure(self, pictures: Path | None = None) -> dict[str, dict[str, Any]]:
        """Metric name -> its values and the settings on which they depend; complete in the main process only.

        `pictures` is the start of the names of picture files; None writes none."""
        context = self.context
        results: dict[str, dict[str, Any]] = {}
        if self.compared or self.image_metrics:
            with tempfile.TemporaryDirectory(prefix="gankit-", ignore_cleanup_errors=True) as scratch:
                results = self._of_images(Path(scratch), pictures)
        for name, plugin in self.plugins.items():
            if isinstance(plugin, ModelMetric):
                results[name] = {"values": reported(name, plugin, plugin.probe(context))}
                if plugin.uses_feature:
                    results[name]["feature"] = context.backbone_of(plugin).facts("taps")
        return results

    def _of_images(self, scratch: Path, pictures: Path | None) -> dict[str, dict[str, Any]]:
        context, results = self.context, dict[str, dict[str, Any]]()
        real = self.real()
        fake, scores = generated_features(context, self.features, self.image_metrics, scratch)
        context.progress.end()
        for name, metric in self.compared.items() if context.world.main else ():
            job = self.jobs[name]
            backbone, output, ours = self.features.backbones[job[0]], metric.output, fake[job]
            theirs = real[job] if metric.needs_real else ours
            results[name] = {
                "values": measure(name, metric, theirs, ours),
                "feature": {
                    **backbone.facts(output),
                    "width": ours.width,
                    **_deviation(backbone, output),
                },
            }
            if pictures is not None:
                made = metric.pictures(theirs, ours, Album(context))
                results[name]["pictures"] = [_keep(image, pictures, part) for part, image in made.items()]
        for name, single in self.image_metrics.items():
            values, details = single.summarise(scores[name])
            results[name] = {"values": reported(name, single, values), "details": details, **single.facts()}
        fake.clear()  # closes the files that are about to vanish
        return results


# Long because its parameters and their documentation take half of the lines; the rest checks them and calls Session.
@devices.isolated
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
    captions: str | Path | None = None,
    dtype: str = "fp32",
    seed: int = 0,
    psi: float = 1.0,
    batch_size: int = 32,
    device: str = "auto",
    pictures: Path | None = None,
    quiet: bool = True,
) -> dict[str, Any]:
    """Measure a model with metrics.

    Args:
        model: model as `gankit.load` takes it.
        metrics: names of metric plugins.
        num: number of generated images.
        num_real: number of real images, at most all of the data set; None is `num`.
        data: data set; None is that of the model's recipe.
        feature: feature plugin of all metrics that have no feature network of their own.
        side: side of the square images given to it; None is the size that it was trained on.
        settings: options by 'feature.OPTION' and 'METRIC.OPTION'.
        captions: text file with one caption a line, with which images are drawn; None takes labels of the data set.
        dtype: dtype of the feature networks, 'fp32' or 'bf16'.
        seed: image i has latent seed + i.
        psi: truncation towards the mean of the model's family; 1 is none.
        batch_size: images at a time.
        device: 'auto', 'cpu', 'cuda' or 'mps'.
        pictures: start of the names of the picture files that some metrics make; None makes none.
        quiet: show no progress on stderr.

    Returns the page that `gankit evaluate` writes as JSON; {} in processes other than the main one.
    Raises GankitError for unknown plugins or options, values out of range, and models that cannot be measured.
    """
    start = time.monotonic()
    specs = _specs([feature, *metrics], settings or {})
    plugins: dict[str, Measure] = {name: options.build("metric", specs[name]) for name in metrics}
    if not plugins:
        raise GankitError("no metrics are named; give --metrics fd,kid,pr or some of them")
    if num < 1 or batch_size < 1 or not 0 <= seed <= 2**32 - num:
        raise GankitError(
            f"--num {num} and --batch-size {batch_size} must be at least 1, --seed {seed} in [0, 2^32 - num]"
        )
    if num_real is not None and num_real < 1:
        raise GankitError(f"--num-real {num_real} must be at least 1, or 'all'")
    if dtype not in ("fp32", "bf16"):
        raise GankitError(f"--dtype {dtype}: say fp32 or bf16")
    wishes = None if captions is None else read_captions(captions)
    world = distributed.world_from_env()
    where_to = devices.pick_device(device, world.local_rank)
    distributed.start(world, where_to)
    pipe = load(model, device=str(where_to))
    pipe.conditioner.prepare(cache_dir("text"), pipe.device)
    context = MetricContext(
        pipe,
        num=num,
        seed=seed,
        psi=psi,
        batch=batch_size,
        feature=options.check("feature", specs["feature"]),
        side=side,
        captions=wishes,
        half=dtype == "bf16" and devices.multiplies(torch.bfloat16, pipe.device),
        world=world,
        progress=Progress(not quiet and world.main and sys.stderr.isatty()),
    )
    where = _open_data(context, plugins, data)
    if context.source is not None:
        context.num_real = min(num if num_real is None else num_real, len(context.source))
    check_before_drawing(context, plugins)

    session = Session(context, plugins)
    results = session.measure(pictures)
    context.progress.end()
    if not world.main:
        return {}
    for name in plugins:
        results[name]["better"] = dict(plugins[name].values)
        checked = options.check("metric", specs[name])
        results[name]["options"] = {k: v for k, v in checked.items() if k not in ("name", "feature", "side")}
    return page_of(
        context, {name: results[name] for name in plugins}, str(model), where, session.cached, captions, start
    )


def run(model: str, **wishes: Any) -> dict[str, Any]:
    """Call `evaluate` and leave the process group afterwards, for a process that does nothing else."""
    try:
        page = evaluate(model, **wishes)
        distributed.barrier()  # all processes finish before any of them leaves the group
        return page
    finally:
        distributed.stop()


def _deviation(backbone: Backbone, output: str) -> dict[str, float]:
    """{'deviation': relative error of bfloat16 against float32 on the first batch}, or {} when running in float32."""
    return {"deviation": backbone.deviation[output]} if output in backbone.deviation else {}


def _open_data(context: MetricContext, plugins: Mapping[str, Measure], data: str | None) -> str | None:
    """Open the data set if metrics or labels need it or `data` is given; sets `context.source` and returns its path.

    Raises GankitError if a needed data set is not named, or captions are given to a model without text."""
    recipe = context.pipe.recipe
    where, source_options = (data, None) if data is not None else (recipe.data.path, recipe.data.options)
    recorded = recipe.to_page().get("packages")
    compares = [n for n, m in plugins.items() if isinstance(m, Metric) and m.needs_real]
    labels = context.captions is None and bool(context.pipe.conditioner.accepts)
    if context.captions is not None and "text" not in context.pipe.conditioner.accepts:
        raise GankitError("--captions: this model takes no text")
    if where is None and (compares or labels):
        raise GankitError("the model's recipe names no data set; say with --data what to compare with")
    if where is not None and (compares or labels or data is not None):
        context.source = open_source(where, source_options, recorded)
        return where
    return None


def check_before_drawing(context: MetricContext, plugins: Mapping[str, Measure]) -> None:
    """Raise GankitError, before any image is drawn, if a metric cannot be measured: too few images, missing labels."""
    for name, metric in plugins.items():
        sizes = [("--num", context.num)]
        if isinstance(metric, Metric) and metric.needs_real:
            sizes.append(("--num-real or the data set", context.num_real))
        for flag, have in sizes:
            if have < metric.min_images:
                raise GankitError(
                    f"metric {name!r} needs {metric.min_images} images or more, not {have} ({flag})"
                )
        metric.check(context)
        if isinstance(metric, ImageMetric) and metric.needs:
            if not context.pipe.conditioner.accepts:
                raise GankitError(
                    f"metric {name!r} judges how a model follows its conditions; this one has none"
                )
            label = context.labels([0])[0]
            if not any(label.has(field) for field in metric.needs):
                raise unlabelled(name, metric, "of the first image")


def read_captions(path: str | Path) -> list[str]:
    """Stripped non-blank lines of a text file. Raises GankitError if there are none or it cannot be read."""
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise GankitError(f"--captions {path}: {getattr(error, 'strerror', None) or error}") from None
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise GankitError(f"--captions {path}: the file holds no captions; write one a line")
    return found


def _keep(image: Any, start: Path, name: str) -> str:
    path = start.with_name(f"{start.name}-{name}.png")
    save_png(image, path)
    return path.name


def page_of(
    context: MetricContext,
    results: dict[str, dict[str, Any]],
    model: str,
    where: str | None,
    cached: bool,
    captions: str | Path | None,
    start: float,
) -> dict[str, Any]:
    pipe: Pipeline = context.pipe
    recipe = pipe.recipe
    labels: Any = "of the data set" if pipe.conditioner.accepts else "none"
    if context.captions is not None:
        digest = hashlib.sha256("\n".join(context.captions).encode()).hexdigest()
        labels = {"captions": str(captions), "of": len(context.captions), "sha256": digest}
    page: dict[str, Any] = {
        "format": FORMAT,
        "metrics": results,
        "generated": {
            "model": model,
            "recipe": recipe.name,
            "trained_images": pipe.nimg,
            "images": context.num,
            "seed": context.seed,
            "psi": context.psi,
            "center": "global",
            "noise": "random",
            "batch": context.batch,
            "labels": labels,
        },
    }
    if context.source is not None:
        page["real"] = {
            "data": where,
            "fingerprint": context.source.fingerprint(),
            "images": context.num_real,
            "of": len(context.source),
            "seed": DATA_SEED,
            "size": list(recipe.data.size),
            "channels": recipe.data.channels,
            "resize": f"lanczos, antialiased, {recipe.data.fit}",
            "cached": cached,
        }
    shared = [r["feature"] for r in results.values() if r.get("feature", {}).get("plugin") == context.feature]
    if shared:
        page["feature"] = shared[0]
    return {
        **page,
        "versions": {
            "gankit": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            **{name: importlib.metadata.version(name) for name in ("timm", "numpy", "pillow")},
        },
        "device": str(pipe.device),
        "processes": context.world.size,
        "seconds": round(time.monotonic() - start, 1),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _specs(names: Sequence[str], settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Plugin specs by name, that of the feature network as 'feature', with options set by `settings`.

    `names` are the feature plugin and then the metrics. Raises GankitError for keys that are not 'OWNER.OPTION'."""
    feature, *metrics = names
    specs: dict[str, dict[str, Any]] = {name: {"name": name} for name in metrics}
    specs["feature"] = {"name": feature}
    for key, value in settings.items():
        owner, *path = key.split(".")
        if owner not in specs or not path:
            raise GankitError(
                f"--set {key}: say OWNER.OPTION, where OWNER is one of {', '.join(sorted(specs))}"
            )
        place = specs[owner]
        for step in path[:-1]:
            inner = place.get(step, {})
            place[step] = dict(inner) if isinstance(inner, Mapping) else {"name": inner}
            place = place[step]
        place[path[-1]] = value
    return specs


def table(page: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Rows (metric, name of the value, number as text, 'lower' | 'higher' | '') of a page."""
    return [
        (name, key, f"{value:.6g}", result["better"][key])
        for name, result in page["metrics"].items()
        for key, value in result["values"].items()
    ]


def write_page(page: Mapping[str, Any], path: Path) -> None:
    with tensor_files.write_advice(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    tensor_files.write_text(path, json.dumps(page, indent=1, ensure_ascii=False))
