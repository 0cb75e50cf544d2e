"""Metrics on real features against torch-fidelity, scikit-learn and scipy; too few images, options out of range.

`tests/golden/make_metrics.py` made the reference numbers.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from golden_utils import GOLDEN
from metric_cases import avatar_pixels, close, features
from safetensors import safe_open

from gankit import GankitError
from gankit.core.config import options
from gankit.evaluation.backbone import Backbone
from gankit.evaluation.metric import measure
from gankit.evaluation.moments import FeatureSet
from gankit.plugins.metrics.neighbours import nearest


def read(name: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


@pytest.fixture(scope="module")
def avatars() -> tuple[dict[str, np.ndarray], dict[str, str]]:
    tensors, note = read("avatar_features")
    return {name: tensor.float().numpy() for name, tensor in tensors.items()}, note


# ---------------------------------------------------------------------------------------------- avatar features


@pytest.mark.parametrize(
    ("spec", "keys"),
    [
        ({"name": "fd"}, ["fd"]),
        ({"name": "kid", "subsets": 20, "subset_size": 50}, ["kid", "kid_std"]),
        ({"name": "pr", "block": 64}, ["precision", "recall"]),
        ({"name": "is", "splits": 5}, ["is", "is_std"]),
    ],
)
def test_avatars_as_torch_fidelity_measures_them(avatars: Any, spec: dict[str, Any], keys: list[str]) -> None:
    features, note = avatars
    expected = json.loads(note["values"])
    output = "logits" if spec["name"] == "is" else "pooled"
    real, fake = (FeatureSet.of(features[f"{which}_{output}"]) for which in ("real", "fake"))
    values = measure(spec["name"], options.build("metric", spec), real, fake)
    for key in keys:
        assert values[key] == pytest.approx(expected[key], rel=1e-6, abs=0)


@pytest.mark.filterwarnings("ignore:Matrix is singular")
def test_avatars_as_scipy_and_scikit_learn_measure_them(avatars: Any) -> None:
    linalg = pytest.importorskip("scipy.linalg")
    neighbors = pytest.importorskip("sklearn.neighbors")
    real, fake = (avatars[0][f"{which}_pooled"].astype(np.float64) for which in ("real", "fake"))
    sets = FeatureSet.of(real.astype(np.float32)), FeatureSet.of(fake.astype(np.float32))

    # sklearn searches a tree or the rows themselves, here never a product of matrices
    tree = neighbors.NearestNeighbors(n_neighbors=5, algorithm="kd_tree").fit(real)
    reach = tree.kneighbors()[0][:, 4]
    within = neighbors.NearestNeighbors(algorithm="kd_tree").fit(fake)
    counts = np.array([len(within.radius_neighbors(row[None], r)[0][0]) for row, r in zip(real, reach)])
    values = measure("pr", options.build("metric", "pr"), *sets)
    assert values["density"] == pytest.approx(counts.sum() / (5 * len(fake)), rel=1e-6)
    assert values["coverage"] == pytest.approx((counts > 0).mean(), rel=1e-6)

    distance, place = (x[:, 0] for x in tree.kneighbors(fake, 1))
    others = tree.kneighbors(n_neighbors=1)[0][:, 0]
    values = measure("memorised", options.build("metric", "memorised"), *sets)
    assert values["authenticity"] == pytest.approx((distance > others[place]).mean(), rel=1e-6)
    assert values["nearest"] == pytest.approx(np.median(distance), rel=1e-6)
    assert values["nearest_real"] == pytest.approx(np.median(others), rel=1e-6)
    found = nearest(fake, real, 5, 64)
    expected = tree.kneighbors(fake, 5)
    assert np.allclose(np.sqrt(found[0]), expected[0], rtol=1e-6)
    assert np.array_equal(found[1], expected[1])

    s1, s2 = np.cov(real, rowvar=False, bias=True), np.cov(fake, rowvar=False, bias=True)
    delta = real.mean(0) - fake.mean(0)
    expected_fd = delta @ delta + np.trace(s1 + s2 - 2 * linalg.sqrtm(s1 @ s2).real)
    biased = options.build("metric", {"name": "fd-efficientnet", "covariance": "biased"})
    assert measure("fd", biased, *sets)["fd"] == pytest.approx(expected_fd, rel=1e-6)


def test_stored_avatar_features_are_those_of_efficientnet(avatars: Any) -> None:
    pytest.importorskip("gankit_avatars")
    network = options.build("feature", "timm-cnn")
    features, note = avatars
    assert network.identity() == json.loads(note["network"])
    backbone = Backbone(network, 64, torch.device("cpu"))
    for name, pixels in avatar_pixels(150).items():
        found = backbone.read(pixels[:8], ["pooled", "logits"])
        for output, step in (("pooled", 16), ("logits", 32)):
            stored = features[f"{name}_{output}"][:8]
            assert np.allclose(found[output][:, ::step].numpy(), stored, rtol=2e-3, atol=2e-3)


# -------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("spec", "count", "message"),
    [
        ({"name": "fd"}, 1, "'fd' needs 2 generated images or more, there are 1"),
        ({"name": "kid"}, 3, "'kid' needs 4 generated images or more"),
        ({"name": "pr"}, 5, "'pr' needs 6 generated images or more"),
        ({"name": "pr", "k": 9}, 9, "'pr' needs 10 generated images or more"),
    ],
)
def test_too_few_images(spec: dict[str, object], count: int, message: str) -> None:
    metric = options.build("metric", spec)
    with pytest.raises(GankitError, match=message):
        measure(str(spec["name"]), metric, FeatureSet.of(features(0, 50)), FeatureSet.of(features(1, count)))


@pytest.mark.parametrize(
    "spec", [{"name": "kid", "subsets": 1}, {"name": "pr", "k": 0}, {"name": "fd", "covariance": "robust"}]
)
def test_options_out_of_range(spec: dict[str, object]) -> None:
    with pytest.raises(GankitError, match=f"'{spec['name']}'"):
        options.build("metric", spec)


# ------------------------------------------------------------------------------------------------ torch-fidelity


@pytest.mark.parametrize("name", ["fd", "kid", "pr", "is"])
def test_the_numbers_of_torch_fidelity(name: str) -> None:
    """What torch-fidelity 0.4.0 printed for the same features, drawn as in the first lines here."""
    golden = json.loads((GOLDEN / "metrics.json").read_text(encoding="utf-8"))
    rng = np.random.RandomState(20)
    mix = rng.randn(24, 24)
    fake = (rng.randn(150, 24) @ mix * 0.7 + 0.2).astype(np.float32)
    real = (rng.randn(170, 24) @ mix).astype(np.float32)
    metric = options.build("metric", {"name": name, **golden.get(name, {})})
    fake = fake / 3 if name == "is" else fake  # as logits
    found = measure(name, metric, FeatureSet.of(real), FeatureSet.of(fake))
    compared = found.keys() & golden["values"].keys()
    assert len(compared) == {"fd": 1, "kid": 2, "pr": 2, "is": 2}[name]
    for key in compared:
        close(found[key], golden["values"][key])
