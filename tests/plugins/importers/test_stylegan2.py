"""StyleGAN2's snapshots: the discriminator and the augmentation come along."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from pickle_utils import PICKLES
from safetensors.torch import load_file

from gankit.core.config import recipe as recipes
from gankit.interop import import_foreign
from gankit.interop.import_foreign import convert
from gankit.interop.torch_files import open_foreign


def test_discriminator_comes_along(tmp_path: Path) -> None:
    """All its tensors, and the same logits as the official network with the same weights gives (test_stylegan2)."""
    assert convert(PICKLES / "sg2_cond.pkl", tmp_path / "model") == []
    saved = load_file(tmp_path / "model" / "training" / "discriminator.safetensors")
    network = open_foreign(PICKLES / "sg2_cond.pkl").networks["D"]
    assert saved.keys() == network.tensors.keys()
    for key, tensor in saved.items():
        assert torch.equal(tensor, network.tensors[key].to_tensor())
    recipe = recipes.read(str(tmp_path / "model"))
    expected = {"channel_base": 192, "channel_max": 12, "conv_clamp": 256.0, "mbstd_group_size": 2}
    assert expected.items() <= {**recipe.discriminator}.items()
    assert recipe.discriminator["mapping_layers"] == 2
    convert(PICKLES / "sg2_cond.pkl", tmp_path / "slim", discriminator=False)
    assert not (tmp_path / "slim" / "training").exists()


def test_discriminator_of_another_code_base(tmp_path: Path) -> None:
    """The StyleGAN2 copy of StyleGAN3's code base has other defaults (clamp 256), which the file does not spell out."""
    network = open_foreign(PICKLES / "sg3_r.pkl").networks["D"]
    assert "conv_clamp" not in network.modules[""].kwargs
    assert import_foreign.import_network(network).spec["conv_clamp"] == 256


class AugmentPipe(torch.nn.Module):
    """Attributes and buffers as in the snapshots of StyleGAN2-ADA and its heirs."""

    def __init__(self, p: float, **options: Any) -> None:
        super().__init__()
        self.__dict__.update(options)
        self.register_buffer("p", torch.tensor(p))
        self.register_buffer("Hz_geom", torch.zeros(12))


BGC = dict.fromkeys(["xflip", "rotate90", "xint", "scale", "rotate", "aniso", "xfrac"], 1.0) | dict.fromkeys(
    ["brightness", "contrast", "lumaflip", "hue", "saturation"], 1.0
)
PUBLISHED = {"xint_max": 0.125, "scale_std": 0.2, "rotate_max": 1.0, "imgfilter_bands": [1, 1, 1, 1]}


@pytest.mark.parametrize(
    ("p", "options", "expected"),
    [
        (0.25, {**BGC, **PUBLISHED, "imgfilter": 0.0}, {"pipeline": "bgc", "multipliers": {}, "ranges": {}}),
        (0.5, {"xflip": 1, "rotate90": 1, "xint": 1}, {"pipeline": "blit", "multipliers": {}}),
        (
            0.25,
            {
                **BGC,
                "hue": 0.5,
                "rotate": 0.0,
                "cutout": 1,
                "scale_std": 0.1,
                "imgfilter_bands": [1, 0, 1, 1],
            },
            {
                "pipeline": "bgc",
                "multipliers": {"hue": 0.5, "rotate": 0.0, "cutout": 1.0},
                "ranges": {"scale": 0.1},
                "filter_bands": (1.0, 0.0, 1.0, 1.0),
            },
        ),
    ],
)
def test_augmentation_comes_along(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    p: float,
    options: dict[str, Any],
    expected: dict[str, Any],
) -> None:
    notes, recipe = convert_beside(AugmentPipe(p, **options), tmp_path, monkeypatch)
    assert notes == []
    assert {"name": "ada", "p": p, **expected}.items() <= recipe.augmentation.items()


@pytest.mark.parametrize(
    ("pipe", "note"),
    [
        (AugmentPipe(float("nan"), **BGC), r"p = nan of augment_pipe"),
        (AugmentPipe(0.5, hue=-1), r"hue = -1 of augment_pipe"),
        (AugmentPipe(0.5, imgfilter_bands=[1]), r"imgfilter_bands"),
        (torch.nn.Identity(), r"unknown class 'Identity'"),
    ],
)
def test_odd_augmentation_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pipe: torch.nn.Module, note: str
) -> None:
    (found,), recipe = convert_beside(pipe, tmp_path, monkeypatch)
    assert found.startswith("augment_pipe is left out: ")
    assert note in found
    assert recipe.augmentation is None


def convert_beside(
    pipe: torch.nn.Module, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[str], recipes.Recipe]:
    """Convert a snapshot that has `pipe` as its augmentation; the notes, and the recipe."""
    (folder / "pipe.pkl").write_bytes(pickle.dumps({"augment_pipe": pipe}))
    file = open_foreign(PICKLES / "sg2_cond.pkl")
    file.networks |= open_foreign(folder / "pipe.pkl").networks
    monkeypatch.setattr(import_foreign, "open_foreign", lambda path: file)
    notes = convert(PICKLES / "sg2_cond.pkl", folder / "model")
    return notes, recipes.read(str(folder / "model"))
