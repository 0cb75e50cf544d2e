"""Safetensors and JSON on disk, written aside and renamed, so that a crash never damages what was there.

A model folder holds `recipe.yaml`, `generator.safetensors` (the moving average), `conditioner.json` and, if it was
trained, `conditioner.safetensors`. A checkpoint is a model folder with a sub-folder `training/` that holds what the run
needs to continue: raw networks, optimisers, state of augmentation and regularisers, counters.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gankit.core.interfaces import FeatureNetwork
from gankit.errors import GankitError


def write_text(path: Path, text: str) -> None:
    """Write a file aside, flush it to disk, rename it into place."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise GankitError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another --out"
        ) from None


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None
) -> None:
    """One safetensors file; metadata values are stored as JSON."""
    flat = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    try:
        save_file(flat, str(path), {k: json.dumps(v) for k, v in (metadata or {}).items()})
    except (OSError, SafetensorError) as error:
        raise GankitError(f"cannot write {path}: {error}; free some space or choose another --out") from None


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a safetensors file, on the CPU."""
    try:
        with safe_open(str(path), "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = {k: json.loads(v) for k, v in (file.metadata() or {}).items()}
    except FileNotFoundError:
        raise GankitError(f"{path} is missing; the folder is incomplete, use another checkpoint") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise GankitError(
            f"{path} is damaged ({error}); delete its folder to use an earlier checkpoint"
        ) from None
    return tensors, metadata


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise GankitError(f"{path} is missing; the folder is incomplete, use another checkpoint") from None
    except (OSError, ValueError) as error:
        raise GankitError(
            f"{path} is damaged ({error}); delete its folder to use an earlier checkpoint"
        ) from None


# ------------------------------------------------------------------------------------------ modules <-> tensors


def frozen_networks(module: nn.Module) -> dict[str, FeatureNetwork]:
    """Pretrained frozen networks inside a module, by path."""
    return {name: m for name, m in module.named_modules() if isinstance(m, FeatureNetwork)}


def stored_state(module: nn.Module) -> dict[str, Tensor]:
    """The state dict without the tensors of frozen pretrained networks, which are referenced instead."""
    prefixes = tuple(f"{name}." if name else "" for name in frozen_networks(module))
    return {k: v for k, v in module.state_dict().items() if not (prefixes and k.startswith(prefixes))}


def load_stored(module: nn.Module, tensors: Mapping[str, Tensor], origin: Path | str) -> None:
    """The inverse of `stored_state`; names and shapes must agree."""
    expected = stored_state(module)
    missing = sorted(expected.keys() - tensors.keys())
    surplus = sorted(tensors.keys() - expected.keys())
    wrong = sorted(k for k in expected.keys() & tensors.keys() if expected[k].shape != tensors[k].shape)
    if missing or surplus or wrong:
        detail = "; ".join(
            f"{len(names)} {what}, e.g. {names[0]!r}"
            for names, what in ((missing, "missing"), (surplus, "unknown"), (wrong, "of another shape"))
            if names
        )
        raise GankitError(
            f"{origin} does not fit {type(module).__name__} ({detail}); it was written for another recipe or by "
            "another version of that plugin: use --init to start from its weights"
        )
    with torch.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(tensors[name])


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State tensors of an optimiser as 'index.key'; hyper-parameters come from the recipe."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{k}": torch.as_tensor(v) for i, entry in state.items() for k, v in entry.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], origin: Path) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        if not index.isdigit() or int(index) >= len(parameters):
            raise GankitError(
                f"{origin} does not fit this run's optimiser (entry {name!r}); use --init instead"
            )
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape:
            slot = torch.empty_like(parameter, requires_grad=False)  # keeps the parameter's memory format
            optimizer.state[parameter][key] = slot.copy_(tensor)
        else:
            optimizer.state[parameter][key] = tensor.clone()


# ------------------------------------------------------------------------------------------------- folders


class FolderWriter:
    """Builds a folder aside and renames it into place in `commit`; a failed one leaves nothing behind."""

    def __init__(self, final: Path) -> None:
        self.final = final
        self.path = final.with_name(f".{final.name}.{os.getpid()}.tmp")

    def __enter__(self) -> Path:
        try:
            shutil.rmtree(self.path, ignore_errors=True)
            self.path.mkdir(parents=True)
        except OSError as error:
            raise GankitError(
                f"cannot write {self.final}: {error.strerror or error}; choose another --out"
            ) from None
        return self.path

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            return
        try:
            for file in self.path.rglob("*"):
                if file.is_file():
                    with open(file, "rb") as handle:
                        os.fsync(handle.fileno())
            if self.final.exists():
                old = self.final.with_name(f".{self.final.name}.{os.getpid()}.old")
                os.replace(self.final, old)
                os.replace(self.path, self.final)
                shutil.rmtree(old, ignore_errors=True)
            else:
                os.replace(self.path, self.final)
        except OSError as error:
            shutil.rmtree(self.path, ignore_errors=True)
            raise GankitError(f"cannot write {self.final}: {error.strerror or error}") from None


def checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    folder = run / "checkpoints"
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if p.name.isdigit() and (p / "recipe.yaml").is_file()]
    return sorted(found, key=lambda p: int(p.name))


def prune(run: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, and what an interrupted save left."""
    for old in checkpoints(run)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    for left in (run / "checkpoints").glob(".*"):
        shutil.rmtree(left, ignore_errors=True)


def digest(path: Path) -> str:
    with open(path, "rb") as file:
        return (
            hashlib.file_digest(file, "sha256").hexdigest()
            if hasattr(hashlib, "file_digest")
            else (hashlib.sha256(file.read()).hexdigest())
        )
