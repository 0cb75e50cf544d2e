"""Checks of metrics."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gankit.core.interfaces import Metric
from gankit.core.statistics import FeatureSet, measure
from gankit.testing.common import Subject

WIDTH = 6


def _metric(subject: Subject) -> Metric:
    metric = subject.build()
    assert isinstance(metric, Metric), f"{subject}: {type(metric).__name__} is no Metric"
    return metric


def _features(metric: Metric, seed: int, shift: float = 0.0) -> FeatureSet:
    """Rows of a normal distribution, for a metric that reads them."""
    count = max(metric.min_images, 64)
    rows = np.random.default_rng(seed).normal(shift, 1, (count, WIDTH)).astype(np.float32)
    features = FeatureSet.of(rows)
    return features if metric.needs_rows else FeatureSet(features.moments)


def check_metric_values(subject: Subject) -> None:
    """Finite numbers under the declared names, the same each time; what it is given stays as it is."""
    metric = _metric(subject)
    assert set(metric.values.values()) <= {"lower", "higher", ""}, f"{subject}: values = {metric.values}"
    real, fake = _features(metric, 0), _features(metric, 1)
    before = real.moments.scatter.copy()
    values = measure(subject.name, metric, real, fake)
    assert values.keys() == metric.values.keys(), (
        f"{subject}: compute returns {sorted(values)}, values declares {sorted(metric.values)}"
    )
    assert all(type(value) is float for value in values.values()), f"{subject}: {values} are not all floats"
    assert np.array_equal(before, real.moments.scatter), (
        f"{subject} writes into the features that it is given"
    )
    assert measure(subject.name, metric, real, fake) == values, f"{subject}: another value the second time"


def check_metric_direction(subject: Subject) -> None:
    """Images like the real ones are better than others, in the direction that `values` declares."""
    metric = _metric(subject)
    real, near, far = _features(metric, 0), _features(metric, 1), _features(metric, 2, shift=3.0)
    good, bad = measure(subject.name, metric, real, near), measure(subject.name, metric, real, far)
    for name, better in metric.values.items():
        if better:
            ahead = good[name] < bad[name] if better == "lower" else good[name] > bad[name]
            assert ahead, (
                f"{subject}: {name} is {good[name]:.4g} for features like the real ones and {bad[name]:.4g} for "
                f"others, but {better} is said to be better"
            )


CHECKS: dict[str, list[Callable[[Subject], None]]] = {"metric": [check_metric_values, check_metric_direction]}
