"""Finds models: folders, runs, checkpoints, models in installed packages and on the Hugging Face hub."""

from __future__ import annotations

import importlib.resources
import re
from pathlib import Path
from typing import Any

from gankit.core.checkpoints import folders
from gankit.core.config.registry import registry
from gankit.errors import GankitError
from gankit.interop import import_foreign
from gankit.interop.torch_files import SUFFIXES


def find_model(model: str | Path) -> Path:
    """Model folder for a model folder, a run (its newest checkpoint), a checkpoint, an installed name or a hub id.

    A pickle or torch file of another code base, or a folder or repo with one, is converted into the cache. Raises
    GankitError if no model is found.
    """
    if not isinstance(model, (str, Path)) or not str(model):
        raise GankitError(f"{model!r} is no model: give a folder, run, checkpoint, installed name or hub id")
    path = Path(model)
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise GankitError(
                f"{path} is a file; a model is a folder with recipe.yaml and generator.safetensors, or a network of "
                f"another code base ({', '.join(SUFFIXES)})"
            )
        return import_foreign.cached(path)
    name = str(model)
    names = registry().names("model")
    # a folder that holds no model does not hide an installed one of its name, such as that of its package
    if path.is_dir() and not (name in names and not (path / "recipe.yaml").is_file()):
        return _from_folder(path)
    if name in names:
        plugin = registry().get("model", name)
        package, _, inner = plugin.target.partition(":")
        folder = Path(str(importlib.resources.files(package).joinpath(inner)))
        if not folder.is_dir():
            raise GankitError(
                f"the model {name!r} is not in package {plugin.package!r} ({folder}); reinstall it"
            )
        return folder
    if _on_hub(name):
        found = _from_hub(name)
        return import_foreign.cached(found) if found.is_file() else found
    raise GankitError(registry().unknown("model", name, hint="nor is there a folder of that name"))


def find_foreign(file: str | Path) -> Path:
    """Pickle or torch file for its path, a folder or a hub id. Raises GankitError if there is none, or several."""
    path = Path(file)
    if path.is_file():
        return path
    found = _foreign_in(path) if path.is_dir() else _from_hub(str(file)) if _on_hub(str(file)) else None
    if found is None:
        raise GankitError(f"{file} is neither a pickle or torch file nor a folder or hub id that holds one")
    if found.is_dir():
        raise GankitError(f"{file} is a gankit model already; there is nothing to convert")
    return found


def _from_folder(path: Path) -> Path:
    if (path / "generator.safetensors").is_file() or (path / "conditioner.json").is_file():
        return path
    found = folders.checkpoints(path)
    if found:
        return found[-1]
    if (path / "recipe.yaml").is_file():
        raise GankitError(f"the run {path} has no checkpoint yet; train it for a while first")
    foreign = _foreign_in(path)
    if foreign is None:
        raise GankitError(
            f"{path} holds neither a model nor a run: recipe.yaml and generator.safetensors are missing"
        )
    return import_foreign.cached(foreign)


def _foreign_in(folder: Path) -> Path | None:
    """The only pickle or torch file of a folder, or None. Raises GankitError if there are several."""
    files = (
        sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES and p.is_file()) if folder.is_dir() else []
    )
    return _only([str(p) for p in files], f"the folder {folder}", files) if files else None


def _only(names: list[str], where: str, files: list[Any]) -> Any:
    if len(files) > 1:
        raise GankitError(f"{where} holds {len(files)} networks; name one of them: {', '.join(names[:8])}")
    return files[0]


def _on_hub(name: str) -> bool:
    return bool(re.fullmatch(_HUB, name)) and not Path(name).parents[-2].is_dir()


_HUB = r"([\w.-]+/[\w.-]+)(?:/([\w./-]+(?:" + "|".join(map(re.escape, SUFFIXES)) + r")))?"


def _from_hub(name: str) -> Path:
    """Download 'owner/name' or 'owner/name/file.pkl' from the hub; returns a model folder or a foreign file."""
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    match = re.fullmatch(_HUB, name)
    assert match is not None
    hub_id, file = match.groups()
    wanted = ["recipe.yaml", "*.safetensors", "conditioner.json", "README.md"]
    try:
        if file is not None:
            return Path(hf_hub_download(hub_id, file))
        folder = Path(snapshot_download(hub_id, allow_patterns=wanted, ignore_patterns=["training/*"]))
        if (folder / "recipe.yaml").is_file():
            return folder
        foreign = _foreign_in(folder)  # from an earlier download
        if foreign is None:
            files = [f for f in HfApi().list_repo_files(hub_id) if f.endswith(SUFFIXES)]
            if not files:
                raise GankitError(
                    f"the repo {hub_id!r} holds no recipe.yaml and no {', '.join(SUFFIXES)} file"
                )
            foreign = Path(
                hf_hub_download(hub_id, _only([f"{hub_id}/{f}" for f in files], f"repo {hub_id!r}", files))
            )
        return foreign
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise GankitError(
            f"cannot get {name!r} from the Hugging Face hub, nor is it a local folder ({reason})"
        ) from None
