"""Safetensors and JSON on disk, written aside and renamed, so that a crash never damages what was there.

A model folder holds `recipe.yaml`, `generator.safetensors` (the moving average), `conditioner.json` and, if it was
trained, `conditioner.safetensors`. A checkpoint is a model folder with a sub-folder `training/` that holds what the run
needs to continue: raw networks, optimisers, state of augmentation and regularisers, counters.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gankit.core.interfaces import FeatureNetwork
from gankit.errors import GankitError

# What the world outside does to a program that writes; told in one sentence instead of a traceback.
_WRITE_ERRORS = {
    errno.EACCES,
    errno.EEXIST,
    errno.EFBIG,
    errno.EIO,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
    getattr(errno, "EDQUOT", errno.ENOSPC),  # not on Windows
}


@contextlib.contextmanager
def write_advice(where: Path) -> Iterator[None]:
    """Turn a full disk or a missing permission into a GankitError that names the file."""
    try:
        yield
    except OSError as error:
        if error.errno not in _WRITE_ERRORS:
            raise
        raise GankitError(
            f"cannot write {error.filename or where}: {error.strerror}; free some space or choose another --out"
        ) from None


def write_text(path: Path, text: str) -> None:
    """Write a file aside, flush it to disk, rename it into place."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with write_advice(path):
        try:
            with open(aside, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
        except OSError:
            with contextlib.suppress(OSError):
                aside.unlink()
            raise


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> str:
    """One safetensors file; metadata values are stored as JSON. Returns the checksum, which is stored as well."""
    flat = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    texts = {key: json.dumps(value) for key, value in (metadata or {}).items()}
    checksum = _checksum(flat, texts)
    try:
        save_file(flat, str(path), {**texts, "sha256": json.dumps(checksum)})
    except (OSError, SafetensorError) as error:
        raise GankitError(f"cannot write {path}: {error}; free some space or choose another --out") from None
    return checksum


def load_tensors(path: Path, checksum: str | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a safetensors file, on the CPU.

    Raises GankitError if it is missing, damaged, or has another checksum than the given one."""
    try:
        with safe_open(str(path), "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            texts = dict(file.metadata() or {})
        metadata = {key: json.loads(value) for key, value in texts.items() if key != "format"}
    except FileNotFoundError:
        raise _missing(path) from None
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from None
    stored = metadata.pop("sha256", None)
    if stored is not None and _checksum(tensors, {key: texts[key] for key in metadata}) != stored:
        raise _damaged(path, "its content does not match its checksum")
    if checksum is not None and checksum != stored:
        raise _damaged(path, "it belongs to another checkpoint")
    return tensors, metadata


def write_json(path: Path, page: Mapping[str, Any]) -> None:
    """A mapping as JSON, with a checksum."""
    write_text(path, json.dumps({**page, "sha256": _json_checksum(page)}, indent=1, ensure_ascii=False))


def read_json(path: Path, version: int) -> dict[str, Any]:
    """What `write_json` wrote. Raises GankitError if it is missing, damaged, or its 'format' is not `version`."""
    try:
        page = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _missing(path) from None
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from None
    if not isinstance(page, dict):
        raise _damaged(path, "it is not a JSON object")
    if page.get("format") != version:
        raise GankitError(
            f"{path} is of format {page.get('format')!r}, this gankit reads {version}; use the gankit that wrote it"
        )
    checksum = page.pop("sha256", None)
    if checksum is not None and checksum != _json_checksum(page):
        raise _damaged(path, "its content does not match its checksum")
    return page


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by size in bytes


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    total = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        total.update(tensor.view(_INTEGERS[tensor.element_size()]).numpy().data)  # numpy has no bfloat16
    return total.hexdigest()


def _json_checksum(page: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(page, sort_keys=True).encode()).hexdigest()


def _missing(path: Path) -> GankitError:
    return GankitError(f"{path} is missing; {_WAY_OUT}")


def _damaged(path: Path, reason: object) -> GankitError:
    return GankitError(f"{path} is damaged ({' '.join(str(reason).split())}); {_WAY_OUT}")


_WAY_OUT = "use another copy of the model, or delete this checkpoint to continue a run from the one before"


# ------------------------------------------------------------------------------------------ modules <-> tensors


def frozen_networks(module: nn.Module) -> dict[str, FeatureNetwork]:
    """Pretrained frozen networks inside a module, by path."""
    return {name: m for name, m in module.named_modules() if isinstance(m, FeatureNetwork)}


def stored_state(module: nn.Module) -> dict[str, Tensor]:
    """The state dict without the tensors of frozen pretrained networks, which are referenced instead."""
    prefixes = tuple(f"{name}." if name else "" for name in frozen_networks(module))
    return {k: v for k, v in module.state_dict().items() if not (prefixes and k.startswith(prefixes))}


def stored_buffers(module: nn.Module) -> list[Tensor]:
    """Buffers outside frozen networks, also those that are not saved."""
    prefixes = tuple(f"{name}." if name else "" for name in frozen_networks(module))
    return [b for name, b in module.named_buffers() if not (prefixes and name.startswith(prefixes))]


def load_stored(
    module: nn.Module, tensors: Mapping[str, Tensor], origin: Path | str, *, adopt: bool = False
) -> None:
    """The inverse of `stored_state`; names and shapes must agree.

    `adopt` has the module take the tensors themselves where their types agree, too: those of `load_tensors` lie in the
    file, and cost memory only as far as they are read.
    """
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
            if not (adopt and _adopt(module, name, tensors[name])):
                tensor.copy_(tensors[name])


def _adopt(module: nn.Module, name: str, tensor: Tensor) -> bool:
    """Put a tensor in the place of the parameter or buffer of this name and of its type, if there is one."""
    path, _, name = name.rpartition(".")
    try:
        owner = module.get_submodule(path)
    except AttributeError:  # the module saves itself in a way of its own
        return False
    parameter = owner._parameters.get(name)
    old = owner._buffers.get(name) if parameter is None else parameter
    if old is None or (old.dtype, old.device) != (tensor.dtype, tensor.device):
        return False
    if parameter is None:
        owner._buffers[name] = tensor
    else:
        owner._parameters[name] = nn.Parameter(tensor, requires_grad=parameter.requires_grad)
    return True


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
            fused = optimizer.defaults.get("fused")  # keeps its step counters on the parameters' device
            optimizer.state[parameter][key] = tensor.to(parameter.device if fused else "cpu", copy=True)


# ------------------------------------------------------------------------------------------------- folders


class FolderWriter:
    """Builds a folder aside and renames it into place; a failed one leaves nothing behind."""

    def __init__(self, final: Path) -> None:
        self.final = final
        self.path = final.with_name(f".{final.name}.{os.getpid()}.tmp")

    def __enter__(self) -> Path:
        with write_advice(self.final):
            shutil.rmtree(self.path, ignore_errors=True)
            self.path.mkdir(parents=True)
        return self.path

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                with write_advice(self.final):
                    self._commit()
        finally:
            shutil.rmtree(self.path, ignore_errors=True)

    def _commit(self) -> None:
        for path in [*self.path.rglob("*"), self.path]:
            _flush(path)
        if self.final.exists():
            old = self.final.with_name(f".{self.final.name}.{os.getpid()}.old")
            os.replace(self.final, old)
            os.replace(self.path, self.final)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(self.path, self.final)
        _flush(self.final.parent)


def _flush(path: Path) -> None:
    """Force a file, or on POSIX the entries of a folder, to the disk."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    folder = run / "checkpoints"
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if p.name.isdigit() and (p / "recipe.yaml").is_file()]
    return sorted(found, key=lambda p: int(p.name))


def prune(run: Path, keep: int, spared: Collection[int] = ()) -> None:
    """Delete all but the newest `keep` checkpoints and those after as many images as `spared` names, and what an
    interrupted save left."""
    for old in checkpoints(run)[:-keep]:
        if int(old.name) not in spared:
            shutil.rmtree(old, ignore_errors=True)
    for left in (run / "checkpoints").glob(".*"):
        shutil.rmtree(left, ignore_errors=True)
