"""What cannot be converted is refused in one sentence, and nothing in a file is executed."""

from __future__ import annotations

import contextlib
import pickle
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pickle_utils import MARKER, PICKLES, SNAPSHOTS, mutate
from rosinality_networks import random_discriminator, random_generator
from runs import Result

from gankit.core.models import model_folder
from gankit.errors import GankitError
from gankit.interop import import_foreign
from gankit.interop.import_foreign import convert
from gankit.interop.torch_files import open_foreign

Cli = Callable[..., Result]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GANKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("name", "fragments"),
    [
        ("evil_eval_nested", ["is hostile", "builtins.eval", "nothing of it was executed"]),
        ("evil_os_system", ["is hostile", "posix.system", "nothing of it was executed"]),
        ("evil_truncated", ["is damaged", "get another copy"]),
    ],
)
@pytest.mark.parametrize("command", ["convert", "sample", "train"])
def test_hostile_files_are_refused(
    name: str, fragments: list[str], command: str, tmp_path: Path, cache: Path, images: Path, gankit_cli: Cli
) -> None:
    assert not MARKER.exists()
    file, out = PICKLES / f"{name}.pkl", tmp_path / "out"
    arguments = {
        "convert": ("convert", file, out),
        "sample": ("sample", file, "--out", out),
        "train": (
            "train",
            "stylegan2",
            "--data",
            images,
            "--init",
            file,
            "--out",
            out,
            "--set",
            "data.size=16",
        ),
    }
    done = gankit_cli(*arguments[command], *(("--device", "cpu") if command != "convert" else ()))
    assert done.code == 2
    assert all(fragment in done.message for fragment in [*fragments, str(file)])
    assert not MARKER.exists()
    assert not (out / "generator.safetensors").exists()
    assert not list((cache / "imported").glob("*")) if cache.exists() else True


class Unheard(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2))


def test_unknown_class_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file.pkl"
    file.write_bytes(pickle.dumps({"G_ema": Unheard()}))
    with pytest.raises(
        GankitError,
        match=r"unknown class 'Unheard'; known are AugmentPipe.*Discriminator \(stylegan2-ada.*Generator",
    ):
        convert(file, tmp_path / "out")
    torch.save({"some.weight": torch.zeros(2)}, tmp_path / "file.pt")
    with pytest.raises(GankitError, match="no importer knows a state dict with the names 'some"):
        convert(tmp_path / "file.pt", tmp_path / "out")
    file.write_bytes(pickle.dumps({"training_set_kwargs": {}}))
    with pytest.raises(GankitError, match=r"holds no generator \(G_ema or G\) but no network at all"):
        convert(file, tmp_path / "out")


def test_existing_folder_is_not_touched(tmp_path: Path) -> None:
    with pytest.raises(GankitError, match="exists already"):
        convert(PICKLES / "sg2_uncond.pkl", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"lrelu", b"sigmo", "activation = 'sigmo'"),
        (b"resnet", b"resnot", "resnot"),
        (b"conv_clamp", b"conv_klamp", "does not say its 'conv_clamp'"),
        (b"synthesis", b"synthesys", "Generator"),
    ],
)
def test_odd_words_are_refused(tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    data = (PICKLES / "sg2_cond.pkl").read_bytes()
    assert old in data
    (tmp_path / "file.pkl").write_bytes(data.replace(old, new))
    with pytest.raises(GankitError, match=message):
        convert(tmp_path / "file.pkl", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("module", "name", "value", "message"),
    [
        ("", "z_dim", 17, r"'mapping\.fc0\.weight' is \[16, 32\], generator 'stylegan2' needs \[16, 33\]"),
        ("", "img_resolution", 32, "does not say its 'architecture'"),
        ("", "img_resolution", 8, r"the tensor 'synthesis\.b16\..*' has no place in generator 'stylegan2'"),
        ("", "img_resolution", 2**40, "img_resolution = 1099511627776 .* is not possible"),
        ("", "img_resolution", "16", "img_resolution = '16' .* is not possible"),
        ("", "img_channels", 2, "img_channels = 2 .* is not possible"),
        ("", "c_dim", 2**30, "c_dim = 1073741824 .* is not possible"),
        ("", "c_dim", 4, r"'mapping\.embed\.weight' is \[16, 5\]"),
        ("synthesis.b16", "architecture", "skip", r"'synthesis\.b16\.skip\.\S+' has no place"),
        ("synthesis.b4.conv1", "use_noise", False, "noise_.*' has no place"),
        ("synthesis.b4.conv1", "conv_clamp", [], "conv_clamp"),
        ("mapping.fc0", "bias_gain", "x", "mapping_lr_multiplier"),
        ("mapping.fc0", "bias_gain", 0, "cannot be built"),
    ],
)
def test_arguments_and_tensors_must_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str, value: Any, message: str
) -> None:
    file = open_foreign(PICKLES / "sg2_cond.pkl")
    file.networks["G_ema"].modules[module].state[name] = value
    monkeypatch.setattr(import_foreign, "open_foreign", lambda path: file)
    with pytest.raises(GankitError, match=message):
        convert(PICKLES / "sg2_cond.pkl", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_broken_importer_keeps_nobody_from_answering(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gankit.core.config.registry import Plugin, registry

    plugin = Plugin("importer", "broken", "no_such_module:Importer", "broken-package", "1")
    monkeypatch.setitem(registry().plugins, ("importer", "broken"), plugin)
    with pytest.warns(UserWarning, match="broken-package"):
        convert(PICKLES / "sg2_uncond.pkl", tmp_path / "out")


def test_discriminator_that_does_not_fit_keeps_no_generator_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = open_foreign(PICKLES / "sg2_cond.pkl")
    del file.networks["D"].tensors["b8.conv0.weight"]
    monkeypatch.setattr(import_foreign, "open_foreign", lambda path: file)
    (note,) = convert(PICKLES / "sg2_cond.pkl", tmp_path / "model")
    assert note.startswith("D is left out: ")
    assert "the tensor 'b8.conv0.weight' is missing" in note
    assert not (tmp_path / "model" / "training").exists()


# ------------------------------------------------------------------------------------------------------- fuzz


def fuzz(seconds: float, seed: int, folder: Path) -> int:
    """Convert damaged snapshots; nothing but GankitError comes out, and what is converted loads."""
    networks = {"g_ema": random_generator(), "d": random_discriminator()}
    torch.save(networks, folder / "zip.pt")
    torch.save(networks, folder / "old.pt", _use_new_zipfile_serialization=False)
    files = [*(PICKLES / f"{name}.pkl" for name in SNAPSHOTS), folder / "zip.pt", folder / "old.pt"]
    originals = [path.read_bytes() for path in files]
    rng = random.Random(seed)
    end, count, file, out = time.monotonic() + seconds, 0, folder / "file.pkl", folder / "out"
    while time.monotonic() < end:
        file.write_bytes(mutate(rng.choice(originals), rng))
        with contextlib.suppress(GankitError):
            convert(file, out)
            model_folder.load_model(out)
            shutil.rmtree(out)
        count += 1
    assert not MARKER.exists()
    assert not out.exists()
    return count


def test_fuzz_briefly(tmp_path: Path) -> None:
    assert fuzz(6, 0, tmp_path) > 5


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_fuzz(tmp_path: Path, seed: int) -> None:
    assert fuzz(100, seed, tmp_path) > 100
