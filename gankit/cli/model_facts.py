"""`gankit inspect --json`: what a model takes and what a file holds, for programs; loads no weights."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gankit._version import __version__
from gankit.cli import inspect
from gankit.core.config.registry import registry
from gankit.errors import GankitError
from gankit.interop.pickles import attacks
from gankit.interop.torch_files import open_foreign

GENERATOR = "generator.safetensors"
DEPTH = 20  # nesting of values
MAX_BITS = 64  # of integers


def facts(path: str, *, tensors: bool = False) -> dict[str, Any]:
    """What a model, run or file holds, as values of JSON; docs/pretrained.md lists the keys.

    torch is imported only for models that an older gankit wrote.

    Args:
        path: path of a file or folder, or name of a model.
        tensors: list every tensor instead of their number.

    Raises GankitError if it does not exist, is damaged, or is a run without a checkpoint."""
    where = inspect.locate(path)
    if where.is_file():
        page = _safetensors(where, tensors) if where.suffix == ".safetensors" else _foreign(where, tensors)
        return _plain({"gankit": __version__, "path": str(where), **page})
    kind, folder = "model", where
    if not (where / GENERATOR).is_file():
        if not (where / "recipe.yaml").is_file():
            raise GankitError(f"{where} holds neither a model nor a run: recipe.yaml is missing")
        checkpoints = inspect.checkpoints_of(where)
        if not checkpoints:
            raise GankitError(f"the run {where} has no checkpoint yet; train it for a while first")
        kind, folder = "run", checkpoints[-1]
    page = {"gankit": __version__, "path": str(where), "kind": kind, "model": str(folder), **_model(folder)}
    if tensors:
        files = sorted(path.name for path in folder.glob("*.safetensors"))
        page["tensors"] = {name: _tensors(inspect.read_header(folder / name)[0], True) for name in files}
    return _plain(page)


def _model(folder: Path) -> dict[str, Any]:
    """The facts of a model folder."""
    page, conditioner = inspect.read_page(folder), inspect.read_conditioner(folder)
    own = inspect.read_header(folder / GENERATOR)[1].get("gankit")
    shape = own.get("image_shape") if isinstance(own, dict) else None
    if not isinstance(own, dict) or not isinstance(shape, list) or len(shape) != 3:
        raise GankitError(
            f"{folder / GENERATOR} was not written by gankit: its metadata say nothing of a generator"
        )
    latents, accepts, problem = own.get("latents"), conditioner.get("accepts"), None
    examples = conditioner.get("examples")
    if not isinstance(latents, dict) or not isinstance(accepts, list):
        try:
            latents, accepts, examples = _built(folder)
        except Exception as error:  # a missing package, or plugins of others, which may raise anything
            latents, accepts = None, None
            own_words = isinstance(error, GankitError)
            problem = str(error) if own_words else f"its networks cannot be built without weights: {error!r}"
    channels, height, width = shape
    return {
        "recipe": page.get("name"),
        "description": page.get("description"),
        "written_by": f"gankit {own.get('version')}",
        "images_trained": own.get("images"),
        "height": height,
        "width": width,
        "channels": channels,
        "takes": None
        if accepts is None
        else _takes({str(field) for field in accepts}, conditioner["vocabulary"], examples),
        "ranges": {"seeds": [0, 2**32 - 1], "psi": [0, 1], "tag_weights": [0, 1]},
        "latents": latents,
        "packages": _packages(page, own),
        "problem": problem,
    }


def _takes(accepts: set[str], vocabulary: Mapping[str, Any], examples: Any) -> dict[str, Any]:
    counts = vocabulary.get("fields")
    counts, examples = (page if isinstance(page, Mapping) else {} for page in (counts, examples))
    return {
        "prompt": "text" in accepts,
        "classes": list(vocabulary.get("classes", {})) if "cls" in accepts else [],
        "tags": list(vocabulary.get("tags", {})) if "tags" in accepts else [],
        "fields": {
            name: {"images": counts.get(name), "examples": examples.get(name, [])}
            for name in sorted(accepts - {"text", "cls", "tags"})
        },
    }


def _built(folder: Path) -> tuple[dict[str, int], list[str], dict[str, list[Any]]]:
    """Latents, accepted fields and examples of them of a model that does not state them, from its networks without
    their weights."""
    import torch

    from gankit.core.models import build, model_folder
    from gankit.core.models.pretrained import filled_later

    recipe = model_folder.read_recipe(folder)
    with torch.device("meta"), filled_later():
        conditioner = build.build_conditioner(recipe, model_folder.read_vocabulary(folder))
        generator = build.build_generator(recipe, conditioner)
    examples = model_folder.examples_of(conditioner)
    return model_folder.latents_of(generator), sorted(conditioner.accepts), examples


def _packages(page: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The packages of a model's plugins: recorded version, whether they are needed to draw, and what is installed."""
    trained = page["packages"] if isinstance(page.get("packages"), Mapping) else {}
    draws = own.get("packages")
    if not isinstance(draws, Mapping):  # of an older gankit; plugins inside of plugins are not known
        draws = {}
        for kind in ("generator", "conditioner"):
            spec = page.get(kind)
            name = spec.get("name") if isinstance(spec, Mapping) else spec
            if plugin := registry().plugins.get((kind, str(name))):
                draws[f"{kind} {name}"] = plugin.package
    found: dict[str, dict[str, Any]] = {}
    for records, draw in ((draws, True), (trained, False)):
        for key, record in records.items():
            package, _, version = str(trained.get(key, record)).partition(" ")
            entry = found.setdefault(
                package,
                {"version": version or None, "draws": draw, "installed": _installed(package), "plugins": []},
            )
            entry["plugins"] = sorted({*entry["plugins"], str(key)})
    return found


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None


# --------------------------------------------------------------------------------------------------------- files


def _safetensors(path: Path, tensors: bool) -> dict[str, Any]:
    rows, metadata = inspect.read_header(path)
    return {"kind": "safetensors", "metadata": metadata, "tensors": _tensors(rows, tensors)}


def _foreign(path: Path, tensors: bool) -> dict[str, Any]:
    file = open_foreign(path)
    networks = {}
    for role, network in file.networks.items():
        rows = [(name, record.dtype, record.shape) for name, record in network.tensors.items()]
        given = network.modules[""].kwargs if network.modules else {}
        networks[role] = {
            "described": network.described,
            "arguments": given,
            "tensors": _tensors(rows, tensors),
        }
    return {
        "kind": "foreign",
        "format": file.format,
        "hostile": attacks(file.called),
        "networks": networks,
        "unreadable": dict(file.skipped),
    }


def _plain(value: Any, depth: int = 0) -> Any:
    """A value as JSON has it; others, and what is nested more than DEPTH times, as text."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v, depth + 1) for k, v in value.items()} if depth < DEPTH else "..."
    if isinstance(value, (list, tuple)):
        return [_plain(v, depth + 1) for v in value] if depth < DEPTH else "..."
    if isinstance(value, int):
        return value if value.bit_length() <= MAX_BITS else "..."
    if value is None or isinstance(value, str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)


def _tensors(rows: Iterable[inspect.Row], every: bool) -> Any:
    """Tensors by name, or their number and that of all their elements."""
    rows = list(rows)
    if every:
        return {name: {"dtype": dtype.lower(), "shape": list(shape)} for name, dtype, shape in rows}
    return {"count": len(rows), "numbers": sum(math.prod(shape) for _, _, shape in rows)}
