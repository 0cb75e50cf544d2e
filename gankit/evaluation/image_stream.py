"""Features and scores for all metrics in one pass over the real images and one over the generated images."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gankit.core.checkpoints import folders
from gankit.core.config.registry import FILE_VERSION, Plugin, registry
from gankit.core.interfaces.labels import Label, listed, words
from gankit.core.runtime import distributed, tensor_files
from gankit.core.runtime.paths import cache_dir
from gankit.errors import GankitError
from gankit.evaluation.backbone import Ahead, Backbone, on_white
from gankit.evaluation.metric import ImageMetric, Metric
from gankit.evaluation.metric_context import DATA_SEED, BatchSlice, MetricContext, finite
from gankit.evaluation.moments import Collector, FeatureSet

FORMAT = 2  # version of the cache's format

Job = tuple[str, str]  # key of a Backbone, name of its output


@dataclass
class Features:
    """The features that metrics request.

    Attributes:
        backbones: feature networks by key.
        rows: requested outputs; the value is True if single rows are kept besides moments.
        real: the requested outputs that are computed for real images, too.
    """

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

    def read(
        self, images: torch.Tensor, jobs: Sequence[Job], part: BatchSlice, what: str
    ) -> dict[Job, np.ndarray]:
        """Features [B, N] of a whole batch, of which `images` are this process's part, by job.

        `what` names the images in messages. Raises GankitError for a row that is not finite."""
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


def real_features(context: MetricContext, features: Features) -> tuple[dict[Job, FeatureSet], bool]:
    """Features of the real images, from the cache or computed and stored there; True if the cache had all of them.

    The features are complete in the main process only."""
    found: dict[Job, FeatureSet] = {}
    keys = {job: _cache_key(context, features.backbones[job[0]], job[1]) for job in sorted(features.real)}
    for job, key in keys.items():
        stored = FeatureSet.load(_cache_folder(key), rows=features.rows[job]) if context.world.main else None
        if stored is not None:
            found[job] = stored
    missing: list[Job] = distributed.from_main([job for job in keys if job not in found])
    if not missing:
        return found, True
    with ExitStack() as stack:
        collectors: dict[Job, Collector] = {}
        asides: dict[Job, Path] = {}
        for job in missing if context.world.main else []:
            asides[job] = stack.enter_context(folders.FolderWriter(_cache_folder(keys[job])))
            collectors[job] = stack.enter_context(
                contextlib.closing(Collector(asides[job] / "rows.npy" if features.rows[job] else None))
            )
        say = context.progress.of("real images", context.num_real)
        stream = stack.enter_context(contextlib.closing(context.real()))  # its workers run ahead
        for part, images in stream:
            for job, rows in features.read(images, missing, part, "real").items():
                if job in collectors:
                    with tensor_files.write_advice(asides[job]):
                        collectors[job].add(rows)
            say(part.first + part.total)
        for job, collector in collectors.items():
            with tensor_files.write_advice(asides[job]):
                collector.done().save(asides[job])
            tensor_files.write_text(asides[job] / "key.json", json.dumps(keys[job], indent=1))
    for job in missing if context.world.main else []:
        stored = FeatureSet.load(_cache_folder(keys[job]), rows=features.rows[job])
        if stored is None:
            raise GankitError(
                f"what was just written to {_cache_folder(keys[job])} cannot be read; set GANKIT_CACHE to another "
                "folder"
            )
        found[job] = stored
    return found, False


def _cache_key(context: MetricContext, backbone: Backbone, output: str) -> dict[str, Any]:
    """Everything on which features of real images depend."""
    assert context.source is not None
    data = context.pipe.recipe.data
    plugin = registry().get("feature", backbone.spec["name"])
    return {
        "data": context.source.fingerprint(),
        "size": data.size,
        "channels": data.channels,
        "fit": data.fit,
        "count": context.num_real,
        "seed": DATA_SEED,
        "format": FORMAT,
        "package": [plugin.package, _code(plugin) or plugin.version],
        **backbone.facts(output),
    }


def _code(plugin: Plugin) -> str:
    """Hash of the file of a plugin that is not installed, since its version is always the same; '' for another."""
    if plugin.version != FILE_VERSION:
        return ""
    file = importlib.import_module(plugin.target.partition(":")[0]).__file__
    return hashlib.sha256(Path(file or "").read_bytes()).hexdigest()


def _cache_folder(key: Mapping[str, Any]) -> Path:
    return cache_dir("metrics") / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]


def generated_features(
    context: MetricContext, features: Features, image_metrics: Mapping[str, ImageMetric], scratch: Path
) -> tuple[dict[Job, FeatureSet], dict[str, np.ndarray]]:
    """Draw all images once; returns their features by job, and [num, K] scores of image metrics by name.

    `scratch` is a folder for rows of features, which are memory-mapped."""
    jobs = list(features.rows)
    scores: dict[str, list[np.ndarray]] = {name: [] for name in image_metrics}
    with ExitStack() as stack:
        collectors = {}
        for number, (job, rows) in enumerate(features.rows.items()):
            file = scratch / f"{number}.npy" if rows and context.world.main else None
            collectors[job] = stack.enter_context(contextlib.closing(Collector(file)))
        say = context.progress.of("generated images", context.num)
        stream = stack.enter_context(contextlib.closing(Ahead(context.drawn())))
        for part, images, labels in stream:
            for job, found in features.read(images, jobs, part, "generated").items():
                with tensor_files.write_advice(scratch):
                    collectors[job].add(found)
            for name, metric in image_metrics.items():
                scores[name].append(_scores(name, metric, images, labels, part))
            say(part.first + part.total)
        with tensor_files.write_advice(scratch):
            sets = {job: collector.done() for job, collector in collectors.items()}
    return sets, {name: np.concatenate(parts) for name, parts in scores.items()}


@torch.no_grad()
def _scores(
    name: str, metric: ImageMetric, images: torch.Tensor, labels: Sequence[Label], part: BatchSlice
) -> np.ndarray:
    for number, label in zip(part.numbers, labels):
        if metric.needs and not any(label.has(field) for field in metric.needs):
            raise unlabelled(name, metric, f"that generated image {number} was to follow")
    mine = metric.score(on_white(images).float() / 127.5 - 1, labels)
    rows = distributed.all_rows(mine.double(), part.counts).cpu().numpy()
    finite(
        rows, part, f"metric {name!r} gives NaN or infinity for generated image {{}}; its network is broken"
    )
    return rows


def unlabelled(name: str, metric: ImageMetric, which: str) -> GankitError:
    what = listed([words(field).one for field in metric.needs], "or")
    way = "give them with --captions FILE, " if "text" in metric.needs else ""
    return GankitError(
        f"metric {name!r} needs {what} for each image, but the label {which} has none; {way}measure against a data set "
        "that has them, or leave the metric out"
    )
