"""`gankit evaluate`: metrics of a model against a data set, with everything that the numbers depend on."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gankit
from gankit.bench import DATA_SEED, Album, Bench, Part, Progress, finite
from gankit.core import checkpoint, devices, distributed, options
from gankit.core.data import open_source
from gankit.core.extraction import Ahead, Backbone, on_white
from gankit.core.grids import save_png
from gankit.core.interfaces import ImageMetric, Measure, Metric, ModelMetric
from gankit.core.labels import Label
from gankit.core.paths import cache_dir
from gankit.core.plugins import registry
from gankit.core.statistics import Collector, FeatureSet, measure, reported
from gankit.errors import GankitError
from gankit.pipeline import Pipeline, load

FORMAT = 2  # of the JSON file and the cache

Job = tuple[str, str]  # key of a network, what is read of it


@dataclass
class Features:
    """Everything that the metrics want to know of images: for each network what is read of it, and whether rows are
    kept."""

    backbones: dict[str, Backbone] = field(default_factory=dict)
    rows: dict[Job, bool] = field(default_factory=dict)
    real: set[Job] = field(default_factory=set)

    def want(self, metric: Metric, backbone: Backbone) -> Job:
        key = repr((backbone.spec, backbone.side))
        job = (key, metric.output)
        self.backbones[key] = backbone
        self.rows[job] = self.rows.get(job, False) or metric.needs_rows
        if metric.needs_real:
            self.real.add(job)
        return job

    def read(self, images: torch.Tensor, jobs: Sequence[Job], part: Part, what: str) -> dict[Job, np.ndarray]:
        """Rows of a whole batch, of which this process has a part. Raises GankitError for one that is not finite."""
        found = {}
        for key, backbone in self.backbones.items():
            outputs = [output for network, output in jobs if network == key]
            if not outputs:
                continue
            for output, mine in backbone.read(images, outputs).items():
                rows = distributed.all_rows(mine, part.counts).cpu().numpy()
                name, way = backbone.network.name, "use another one"
                if backbone.network.own_resize is None:
                    way = f"use another --feature, or another --side than {backbone.side}"
                message = f"the feature network {name!r} gives NaN or infinity for {what} image {{}}; {way}"
                finite(rows, part, message)
                found[key, output] = rows
        return found


# ------------------------------------------------------------------------------------------------- features


def real_features(bench: Bench, features: Features) -> tuple[dict[Job, FeatureSet], bool]:
    """Features of the data set, from the cache where it has them; the second value says whether it had all."""
    found: dict[Job, FeatureSet] = {}
    keys = {job: _cache_key(bench, features.backbones[job[0]], job[1]) for job in sorted(features.real)}
    for job, key in keys.items():
        stored = FeatureSet.load(_cache_folder(key), rows=features.rows[job]) if bench.world.main else None
        if stored is not None:
            found[job] = stored
    missing: list[Job] = distributed.from_main([job for job in keys if job not in found])
    if not missing:
        return found, True
    with ExitStack() as stack:
        collectors: dict[Job, Collector] = {}
        asides: dict[Job, Path] = {}
        for job in missing if bench.world.main else []:
            asides[job] = stack.enter_context(checkpoint.FolderWriter(_cache_folder(keys[job])))
            collectors[job] = stack.enter_context(
                contextlib.closing(Collector(asides[job] / "rows.npy" if features.rows[job] else None))
            )
        say = bench.progress.of("real images", bench.num_real)
        stream = stack.enter_context(contextlib.closing(bench.real()))  # its workers run ahead
        for part, images in stream:
            for job, rows in features.read(images, missing, part, "real").items():
                if job in collectors:
                    with checkpoint.write_advice(asides[job]):
                        collectors[job].add(rows)
            say(part.first + part.total)
        for job, collector in collectors.items():
            with checkpoint.write_advice(asides[job]):
                collector.done().save(asides[job])
            checkpoint.write_text(asides[job] / "key.json", json.dumps(keys[job], indent=1))
    for job in missing if bench.world.main else []:
        stored = FeatureSet.load(_cache_folder(keys[job]), rows=features.rows[job])
        if stored is None:
            raise GankitError(
                f"what was just written to {_cache_folder(keys[job])} cannot be read; set GANKIT_CACHE to another "
                "folder"
            )
        found[job] = stored
    return found, False


def _cache_key(bench: Bench, backbone: Backbone, output: str) -> dict[str, Any]:
    """All that features of real images depend on."""
    assert bench.source is not None
    data = bench.pipe.recipe.data
    plugin = registry().get("feature", backbone.spec["name"])
    return {
        "data": bench.source.fingerprint(),
        "size": data.size,
        "channels": data.channels,
        "fit": data.fit,
        "count": bench.num_real,
        "seed": DATA_SEED,
        "format": FORMAT,
        "package": [plugin.package, plugin.version],
        **backbone.facts(output),
    }


def _cache_folder(key: Mapping[str, Any]) -> Path:
    return cache_dir("metrics") / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]


def generated_features(
    bench: Bench, features: Features, judges: Mapping[str, ImageMetric], scratch: Path
) -> tuple[dict[Job, FeatureSet], dict[str, np.ndarray]]:
    """Features of the generated images, and the scores of metrics that judge single ones, in one pass."""
    jobs = list(features.rows)
    scores: dict[str, list[np.ndarray]] = {name: [] for name in judges}
    with ExitStack() as stack:
        collectors = {}
        for number, (job, rows) in enumerate(features.rows.items()):
            file = scratch / f"{number}.npy" if rows and bench.world.main else None
            collectors[job] = stack.enter_context(contextlib.closing(Collector(file)))
        say = bench.progress.of("generated images", bench.num)
        stream = stack.enter_context(contextlib.closing(Ahead(bench.drawn())))
        for part, images, labels in stream:
            for job, found in features.read(images, jobs, part, "generated").items():
                with checkpoint.write_advice(scratch):
                    collectors[job].add(found)
            for name, judge in judges.items():
                scores[name].append(_judged(name, judge, images, labels, part))
            say(part.first + part.total)
        with checkpoint.write_advice(scratch):
            sets = {job: collector.done() for job, collector in collectors.items()}
    return sets, {name: np.concatenate(parts) for name, parts in scores.items()}


@torch.no_grad()
def _judged(
    name: str, judge: ImageMetric, images: torch.Tensor, labels: Sequence[Label], part: Part
) -> np.ndarray:
    for number, label in zip(part.numbers, labels):
        if judge.needs and not any(_has(label, kind) for kind in judge.needs):
            raise _unlabelled(name, judge, f"that generated image {number} was to follow")
    mine = judge.score(on_white(images).float() / 127.5 - 1, labels)
    rows = distributed.all_rows(mine.double(), part.counts).cpu().numpy()
    finite(
        rows, part, f"metric {name!r} gives NaN or infinity for generated image {{}}; its network is broken"
    )
    return rows


def _has(label: Label, kind: str) -> bool:
    return bool({"cls": label.cls, "tags": label.tags, "text": label.text}[kind])


def _unlabelled(name: str, judge: ImageMetric, which: str) -> GankitError:
    words = {"cls": "a class", "tags": "tags", "text": "a caption"}
    what = " or ".join(words[kind] for kind in judge.needs)
    way = "give them with --captions FILE, " if "text" in judge.needs else ""
    return GankitError(
        f"metric {name!r} needs {what} for each image, but the label {which} has none; {way}measure against a data set "
        "that has them, or leave the metric out"
    )


# -------------------------------------------------------------------------------------------------- evaluation


class Session:
    """Metrics that are measured on one bench, once or, while it trains, again and again.

    Args:
        bench: what is measured.
        plugins: metrics by name, checked by `check_before_drawing`.

    Attributes:
        cached: whether the features of the real images were found in the cache.
    """

    def __init__(self, bench: Bench, plugins: Mapping[str, Measure]) -> None:
        self.bench, self.plugins, self.cached = bench, plugins, False
        self.compared = {name: metric for name, metric in plugins.items() if isinstance(metric, Metric)}
        self.judges = {name: metric for name, metric in plugins.items() if isinstance(metric, ImageMetric)}
        self.features = Features()
        self.jobs = {n: self.features.want(m, bench.backbone_of(m)) for n, m in self.compared.items()}
        for judge in self.judges.values():
            judge.to(bench.pipe.device)
        self._real: dict[Job, FeatureSet] | None = None

    def real(self) -> dict[Job, FeatureSet]:
        """Features of the real images, taken once."""
        if self._real is None:
            found, self.cached = (
                real_features(self.bench, self.features) if self.features.real else ({}, False)
            )
            self._real = found
        return self._real

    def measure(self, pictures: Path | None = None) -> dict[str, dict[str, Any]]:
        """Metric -> its values and what they depend on; in other processes than the first, of no use."""
        bench = self.bench
        results: dict[str, dict[str, Any]] = {}
        if self.compared or self.judges:
            with tempfile.TemporaryDirectory(prefix="gankit-", ignore_cleanup_errors=True) as scratch:
                results = self._of_images(Path(scratch), pictures)
        for name, plugin in self.plugins.items():
            if isinstance(plugin, ModelMetric):
                results[name] = {"values": reported(name, plugin, plugin.probe(bench))}
                if plugin.uses_feature:
                    results[name]["feature"] = bench.backbone_of(plugin).facts("taps")
        return results

    def _of_images(self, scratch: Path, pictures: Path | None) -> dict[str, dict[str, Any]]:
        bench, results = self.bench, dict[str, dict[str, Any]]()
        real = self.real()
        fake, scores = generated_features(bench, self.features, self.judges, scratch)
        bench.progress.end()
        for name, metric in self.compared.items() if bench.world.main else ():
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
                made = metric.pictures(theirs, ours, Album(bench))
                results[name]["pictures"] = [_keep(image, pictures, part) for part, image in made.items()]
        for name, judge in self.judges.items():
            values, details = judge.summarise(scores[name])
            results[name] = {"values": reported(name, judge, values), "details": details, **judge.facts()}
        fake.clear()  # closes the files that are about to vanish
        return results


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
    """Measure a model.

    Args:
        model: what `gankit.load` takes.
        metrics: names of metric plugins.
        num: generated images.
        num_real: images of the data set, at most all of it; as many as `num` when omitted.
        data: data set; that of the model's recipe when omitted.
        feature: a feature plugin, the network of all metrics that bring none of their own.
        side: of the square images that enter it; what it was trained on when omitted.
        settings: options by 'feature.OPTION' and 'METRIC.OPTION'.
        captions: a text file, one caption a line, that images are drawn under; those of the data set when omitted.
        dtype: of the feature networks, 'fp32' or 'bf16'.
        seed: image i is drawn from seed + i.
        psi: truncation towards the mean of the model's family; 1 is none.
        batch_size: images at a time.
        device: 'auto', 'cpu', 'cuda' or 'mps'.
        pictures: start of the names of the picture files that some metrics make; None makes none.
        quiet: no progress on stderr.

    Returns the page that `gankit evaluate` writes as JSON; in other processes than the first of several, an empty one.
    Raises GankitError for anything that cannot be measured.
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
    bench = Bench(
        pipe,
        num=num,
        seed=seed,
        psi=psi,
        batch=batch_size,
        feature=options.check("feature", specs["feature"]),
        side=side,
        captions=wishes,
        half=dtype == "bf16",
        world=world,
        progress=Progress(not quiet and world.main and sys.stderr.isatty()),
    )
    where = _open_data(bench, plugins, data)
    if bench.source is not None:
        bench.num_real = min(num if num_real is None else num_real, len(bench.source))
    check_before_drawing(bench, plugins)

    session = Session(bench, plugins)
    results = session.measure(pictures)
    bench.progress.end()
    if not world.main:
        return {}
    for name in plugins:
        results[name]["better"] = dict(plugins[name].values)
        checked = options.check("metric", specs[name])
        results[name]["options"] = {k: v for k, v in checked.items() if k not in ("name", "feature", "side")}
    return page_of(
        bench, {name: results[name] for name in plugins}, str(model), where, session.cached, captions, start
    )


def run(model: str, **wishes: Any) -> dict[str, Any]:
    """`evaluate` as the only thing that this process does; takes leave of the others at the end."""
    try:
        page = evaluate(model, **wishes)
        distributed.barrier()  # while the first writes the page, the others stay, as they do in training
        return page
    finally:
        distributed.stop()


def _deviation(backbone: Backbone, output: str) -> dict[str, float]:
    """How far bfloat16 was from float32, relative, on the first batch; nothing for float32."""
    return {"deviation": backbone.deviation[output]} if output in backbone.deviation else {}


def _open_data(bench: Bench, plugins: Mapping[str, Measure], data: str | None) -> str | None:
    """Give the bench its data set, where there is one or one is needed; returns its path."""
    recipe = bench.pipe.recipe
    where, source_options = (data, None) if data is not None else (recipe.data.path, recipe.data.options)
    compares = [n for n, m in plugins.items() if isinstance(m, Metric) and m.needs_real]
    labels = bench.captions is None and bool(bench.pipe.conditioner.accepts)
    if bench.captions is not None and "text" not in bench.pipe.conditioner.accepts:
        raise GankitError("--captions: this model takes no text")
    if where is None and (compares or labels):
        raise GankitError("the model's recipe names no data set; say with --data what to compare with")
    if where is not None and (compares or labels or data is not None):
        bench.source = open_source(where, source_options)
        return where
    return None


def check_before_drawing(bench: Bench, plugins: Mapping[str, Measure]) -> None:
    """Raise GankitError for what cannot come to a good end."""
    for name, metric in plugins.items():
        sizes = [("--num", bench.num)]
        if isinstance(metric, Metric) and metric.needs_real:
            sizes.append(("--num-real or the data set", bench.num_real))
        for flag, have in sizes:
            if have < metric.min_images:
                raise GankitError(
                    f"metric {name!r} needs {metric.min_images} images or more, not {have} ({flag})"
                )
        metric.check(bench)
        if isinstance(metric, ImageMetric) and metric.needs:
            if not bench.pipe.conditioner.accepts:
                raise GankitError(
                    f"metric {name!r} judges how a model follows its conditions; this one has none"
                )
            label = bench.labels([0])[0]
            if not any(_has(label, kind) for kind in metric.needs):
                raise _unlabelled(name, metric, "of the first image")


def read_captions(path: str | Path) -> list[str]:
    """The lines of a text file that are not blank. Raises GankitError if there are none."""
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
    bench: Bench,
    results: dict[str, dict[str, Any]],
    model: str,
    where: str | None,
    cached: bool,
    captions: str | Path | None,
    start: float,
) -> dict[str, Any]:
    pipe: Pipeline = bench.pipe
    recipe = pipe.recipe
    labels: Any = "of the data set" if pipe.conditioner.accepts else "none"
    if bench.captions is not None:
        digest = hashlib.sha256("\n".join(bench.captions).encode()).hexdigest()
        labels = {"captions": str(captions), "of": len(bench.captions), "sha256": digest}
    page: dict[str, Any] = {
        "format": FORMAT,
        "metrics": results,
        "generated": {
            "model": model,
            "recipe": recipe.name,
            "trained_images": pipe.nimg,
            "images": bench.num,
            "seed": bench.seed,
            "psi": bench.psi,
            "center": "global",
            "noise": "random",
            "batch": bench.batch,
            "labels": labels,
        },
    }
    if bench.source is not None:
        page["real"] = {
            "data": where,
            "fingerprint": bench.source.fingerprint(),
            "images": bench.num_real,
            "of": len(bench.source),
            "seed": DATA_SEED,
            "size": list(recipe.data.size),
            "channels": recipe.data.channels,
            "resize": f"lanczos, antialiased, {recipe.data.fit}",
            "cached": cached,
        }
    shared = [r["feature"] for r in results.values() if r.get("feature", {}).get("plugin") == bench.feature]
    if shared:
        page["feature"] = shared[0]
    return {
        **page,
        "versions": {
            "gankit": gankit.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            **{name: importlib.metadata.version(name) for name in ("timm", "numpy", "pillow")},
        },
        "device": str(pipe.device),
        "processes": bench.world.size,
        "seconds": round(time.monotonic() - start, 1),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _specs(names: Sequence[str], settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Plugin specs of the feature network (under 'feature') and the metrics."""
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
