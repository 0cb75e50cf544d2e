"""Finds models: folders, runs, models that packages carry, the Hugging Face hub."""

from __future__ import annotations

import importlib.resources
import re
from pathlib import Path

from gankit.core import checkpoint
from gankit.core.plugins import registry
from gankit.errors import GankitError, unknown


def find_model(model: str | Path) -> Path:
    """The folder behind a model folder, a run, a checkpoint, an installed name or a hub id.

    Raises GankitError if there is none.
    """
    path = Path(model)
    if path.is_file():
        raise GankitError(f"{path} is a file; a model is a folder with recipe.yaml and generator.safetensors")
    if path.is_dir():
        if (path / "generator.safetensors").is_file() or (path / "conditioner.json").is_file():
            return path
        found = checkpoint.checkpoints(path)
        if found:
            return found[-1]
        if (path / "recipe.yaml").is_file():
            raise GankitError(f"the run {path} has no checkpoint yet; train it for a while first")
        raise GankitError(
            f"{path} holds neither a model nor a run: recipe.yaml and generator.safetensors are missing"
        )
    name = str(model)
    names = registry().names("model")
    if name in names:
        plugin = registry().get("model", name)
        package, _, inner = plugin.target.partition(":")
        folder = Path(str(importlib.resources.files(package).joinpath(inner)))
        if not folder.is_dir():
            raise GankitError(
                f"the model {name!r} is not in package {plugin.package!r} ({folder}); reinstall it"
            )
        return folder
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not path.parent.is_dir():
        return _from_hub(name)
    raise GankitError(unknown("model", name, names, hint="nor is there a folder of that name"))


def _from_hub(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = ["recipe.yaml", "*.safetensors", "conditioner.json", "README.md"]
    try:
        return Path(snapshot_download(hub_id, allow_patterns=wanted, ignore_patterns=["training/*"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise GankitError(
            f"cannot get {hub_id!r} from the Hugging Face hub, nor is it a local folder ({reason})"
        ) from None
