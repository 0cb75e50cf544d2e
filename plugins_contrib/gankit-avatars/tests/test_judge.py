"""The judge as a feature network, and gankit's metric `accuracy` with it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from gankit import GankitError
from gankit.core.config import options
from gankit_avatars.judge import ANSWERS, AvatarJudge
from gankit_avatars.source import AvatarSource

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "attribute_classifier.py"


@pytest.fixture(scope="module")
def classifier() -> ModuleType:
    if not BENCHMARK.is_file():
        pytest.skip("needs the benchmarks of gankit's repository")
    spec = importlib.util.spec_from_file_location("attribute_classifier", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_accuracy_is_the_classifiers_agreement(classifier: ModuleType) -> None:
    """Tags ask the same questions as the attributes themselves, and find the same answers, right and wrong ones."""
    source = AvatarSource("", count=60, seed=9, cache="off")
    pixels = np.stack([np.asarray(source.image(i)) for i in range(60)])
    noise = np.random.default_rng(0).normal(0, 60, pixels.shape)
    pixels = (pixels + noise).clip(0, 255).astype(np.uint8)
    file = str(BENCHMARK.with_suffix(".safetensors"))
    metric = options.build(
        "metric", {"name": "accuracy", "classifier": {"name": "avatar-judge", "file": file}}
    )
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        scores = metric.score(images, [source.label(i) for i in range(60)])
    values, details = metric.summarise(scores.double().numpy())
    expected = classifier.agreement(pixels, [source.avatar(i) for i in range(60)])
    assert set(expected) == set(ANSWERS)
    for question, share in expected.items():
        assert values[f"accuracy_{question}"] == pytest.approx(share), question
    assert min(expected.values()) < 0.95  # the noise makes it err
    assert values["accuracy"] > 0.5
    assert details["glasses"]["none"]["images"] > 0


def test_missing_and_wrong_weights(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(GankitError, match="no weights for 'avatar-judge': name them with its option file"):
        AvatarJudge()
    save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(GankitError, match="does not hold the weights of 'avatar-judge'"):
        AvatarJudge(file=str(tmp_path / "x.safetensors"))
