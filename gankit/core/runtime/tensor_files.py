"""Reading and writing of safetensors and JSON files with checksums, and atomic writes of text files."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gankit.errors import GankitError

# Errors of the environment (full disk, permissions, names); reported in one sentence instead of a traceback.
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
    """Context manager that turns a full disk or a missing permission into a GankitError naming the file."""
    try:
        yield
    except OSError as error:
        if error.errno not in _WRITE_ERRORS:
            raise
        raise GankitError(
            f"cannot write {error.filename or where}: {error.strerror}; free some space or choose another --out"
        ) from None


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically: write a temporary file, fsync it, rename it."""
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
    """Write a safetensors file; metadata values are stored as JSON. Returns the checksum, which the file holds too."""
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

    Raises GankitError if the file is missing or damaged, or its checksum is not `checksum`."""
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
    """Write a mapping as a JSON file with a checksum, atomically."""
    write_text(path, json.dumps({**page, "sha256": _json_checksum(page)}, indent=1, ensure_ascii=False))


def read_json(path: Path, version: int) -> dict[str, Any]:
    """Read a file of `write_json`. Raises GankitError if it is missing or damaged, or its 'format' is not `version`."""
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


def sha256_of(state_dict: Mapping[str, Tensor]) -> str:
    """SHA-256 of the floating-point tensors, as fp32 bytes in order of name; integer tensors (counters) are left out.

    '' if any tensor is on the meta device, where tensors hold no data."""
    if any(tensor.is_meta for tensor in state_dict.values()):
        return ""
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        tensor = state_dict[name]
        if tensor.is_floating_point():
            digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().data)
    return digest.hexdigest()
