"""Models by path, folder and hub repo, among them snapshots, which are converted once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pickle_utils import PICKLES, check_images
from runs import Result

import gankit
from gankit.core.models import model_folder
from gankit.errors import GankitError
from gankit.interop import find_model
from gankit.interop.import_foreign import convert

Cli = Callable[..., Result]
KNOWN = ("sg2_uncond", "sg2_cond", "sg3_t", "sg3_r", "sgxl_stem", "sgxl_superres", "sgt")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GANKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.filterwarnings("ignore:D is left out")
@pytest.mark.parametrize("name", KNOWN)
def test_load_opens_a_snapshot(name: str, cache: Path) -> None:
    pipe = gankit.load(PICKLES / f"{name}.pkl", device="cpu")
    check_images(model_folder.Model(pipe.recipe, pipe.conditioner, pipe.generator), name)
    (folder,) = (cache / "imported").iterdir()
    stamp = (folder / "generator.safetensors").stat().st_mtime_ns
    gankit.load(str(PICKLES / f"{name}.pkl"), device="cpu")
    assert (folder / "generator.safetensors").stat().st_mtime_ns == stamp  # not converted again


def test_folder_with_a_snapshot(tmp_path: Path, cache: Path, gankit_cli: Cli) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copy(PICKLES / "sg2_uncond.pkl", folder)
    (folder / "readme.txt").write_text("hello")
    assert gankit.load(folder, device="cpu").recipe.name == "sg2_uncond"
    assert gankit_cli("convert", folder, tmp_path / "model").code == 0
    shutil.copy(PICKLES / "sg2_cond.pkl", folder)
    with pytest.raises(
        GankitError, match=r"holds 2 networks; name one of them: .*sg2_cond\.pkl, .*sg2_uncond\.pkl"
    ):
        gankit.load(folder, device="cpu")
    done = gankit_cli("convert", tmp_path / "model", tmp_path / "again")
    assert "neither a pickle or torch file" in done.message


class Hub:
    """A hub with one repo, or what its cache holds without a network."""

    def __init__(self, folder: Path, files: list[str]) -> None:
        self.folder, self.files = folder, files
        self.downloads: list[str] = []

    def snapshot_download(self, hub_id: str, **_: Any) -> str:
        return str(self.folder)

    def list_repo_files(self, hub_id: str) -> list[str]:
        return self.files

    def hf_hub_download(self, hub_id: str, file: str) -> str:
        self.downloads.append(file)
        return str(PICKLES / file)

    def __call__(self) -> Hub:
        return self


def test_hub_repo_with_a_snapshot(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    hub = Hub(tmp_path / "snapshot", ["README.md", "sg2_uncond.pkl"])
    for name in ("snapshot_download", "hf_hub_download"):
        monkeypatch.setattr(huggingface_hub, name, getattr(hub, name))
    monkeypatch.setattr(huggingface_hub, "HfApi", hub)
    assert gankit.load("someone/faces", device="cpu").recipe.name == "sg2_uncond"
    assert hub.downloads == ["sg2_uncond.pkl"]
    assert gankit.load("someone/faces/sg2_cond.pkl", device="cpu").recipe.name == "sg2_cond"
    assert find_model.find_foreign("someone/faces/sg2_cond.pkl") == PICKLES / "sg2_cond.pkl"
    hub.files.append("sg2_cond.pkl")
    with pytest.raises(
        GankitError, match=r"name one of them: someone/faces/sg2_uncond\.pkl, someone/faces/sg2_cond"
    ):
        gankit.load("someone/faces", device="cpu")
    hub.files[:] = ["README.md"]
    with pytest.raises(GankitError, match=r"holds no recipe\.yaml and no \.pkl"):
        gankit.load("someone/faces", device="cpu")
    convert(PICKLES / "sg2_uncond.pkl", tmp_path / "snapshot")
    assert gankit.load("someone/faces", device="cpu").recipe.name == "sg2_uncond"
    with pytest.raises(GankitError, match="a gankit model already"):
        find_model.find_foreign("someone/faces")
