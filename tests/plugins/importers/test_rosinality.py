"""State dicts of rosinality's stylegan2-pytorch become models: same images, same scores, and refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rosinality_networks import (
    W,
    random_discriminator,
    random_generator,
    reference_logits,
    reference_mapping,
    reference_synthesis,
)
from torch import Tensor

import gankit
from gankit.core.models import build, model_folder
from gankit.errors import GankitError
from gankit.interop.import_foreign import convert

SIZE = 32


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("layout", ["training", "converted", "old", "bare"])
def test_generator_draws_the_same_images(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GANKIT_CACHE", str(tmp_path / "cache"))
    state = random_generator(old=layout == "old")
    z = torch.randn(3, W)
    mean = reference_mapping(state, torch.randn(200_000, W)).mean(0)
    content = {
        "training": {"g": random_generator(5), "d": random_discriminator(), "g_ema": state, "args": None},
        "converted": {"g_ema": state, "latent_avg": mean},
        "old": {"g_ema": state},
        "bare": state,
    }[layout]
    path = tmp_path / "model.pt"
    torch.save(content, path, _use_new_zipfile_serialization=layout != "old")
    pipe = gankit.load(path, device="cpu")
    with torch.no_grad():
        w = pipe.generator.mapping(z)[:, 0]
        expected = reference_mapping(state, z)
        assert torch.allclose(w, expected, atol=1e-5)
        images = pipe.generator(z, noise_mode="const")
        reference = reference_synthesis(state, expected)
    assert images.shape == (3, 3, SIZE, SIZE)
    assert (images - reference).abs().max() <= 1e-4 * reference.abs().max()
    assert reference.std() > 0.1
    tolerance = 1e-6 if layout == "converted" else 0.05 * mean.abs().max().item()
    assert torch.allclose(pipe.generator.mapping.w_avg, mean, atol=tolerance)


def test_discriminator_scores_the_same(tmp_path: Path) -> None:
    state = random_discriminator()
    torch.save({"g_ema": random_generator(), "d": state}, tmp_path / "model.pt")
    convert(tmp_path / "model.pt", tmp_path / "model")
    model = model_folder.load_model(tmp_path / "model")
    D = build.build_discriminator(model.recipe, model.conditioner)
    D.load_state_dict(
        gankit.core.runtime.tensor_files.load_tensors(tmp_path / "model/training/discriminator.safetensors")[
            0
        ]
    )
    x = torch.randn(8, 3, SIZE, SIZE)
    (logits,), expected = D(x), reference_logits(state, x)
    assert expected.std() > 0.01
    assert (logits - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("convs.1.noise.weight", None, r"has no tensor 'convs\.1\.noise\.weight'"),
        ("to_rgb1.bias", torch.zeros(4), "'synthesis.b4.torgb.bias'"),
        ("style.2.weight", torch.zeros(3), "no tensor of 2 dimensions 'style.2.weight'"),
        ("style.2.weight", torch.zeros(3, 3), "layers of odd shapes"),
        ("conv1.conv.weight", torch.zeros(2, 10, 10, 3, 3), r"is \[2, 10, 10, 3, 3\] and should be like"),
    ],
)
def test_incomplete_files_are_refused(tmp_path: Path, name: str, change: Tensor | None, message: str) -> None:
    state = random_generator()
    del state[name]
    if change is not None:
        state[name] = change
    torch.save({"g_ema": state}, tmp_path / "model.pt")
    with pytest.raises(GankitError, match=message):
        convert(tmp_path / "model.pt", tmp_path / "model")


def test_other_architecture_is_told_apart(tmp_path: Path) -> None:
    torch.save(
        {"GAN": {"S.net.0.weight": torch.zeros(2), "G.x": torch.zeros(1)}, "version": "1"},
        tmp_path / "model.pt",
    )
    with pytest.raises(GankitError, match="lucidrains"):
        convert(tmp_path / "model.pt", tmp_path / "model")
