"""`gankit inspect`: describes a model, run, safetensors file, pickle or torch file, without torch or numpy."""

from __future__ import annotations

import importlib.resources
import json
import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gankit.core.config.registry import registry
from gankit.core.config.sections import NETWORKS
from gankit.core.runtime import yaml_files
from gankit.errors import GankitError
from gankit.interop.pickles import attacks, printable
from gankit.interop.torch_files import ForeignNetwork, open_foreign

MAX_HEADER = 100 << 20  # the limit that the safetensors format sets
DEPTH = 2  # without --tensors, sums are shown for modules down to this depth

Row = tuple[str, str, tuple[int, ...]]  # name, dtype, shape


def inspect(path: str, *, tensors: bool = False) -> str:
    """Describe a file, a folder, or a model in an installed package.

    Args:
        path: path of a file or folder, or name of a model.
        tensors: list every tensor instead of sums over modules.

    Raises GankitError if it does not exist or is damaged."""
    where = locate(path)
    if where.is_dir():
        lines = _folder(where, tensors)
    elif where.suffix == ".safetensors":
        rows, metadata = read_header(where)
        lines = [f"{where}: safetensors, {_megabytes(where)}", *_metadata(metadata), *_table(rows, tensors)]
    else:
        lines = _foreign(where, tensors)
    text = "\n".join(lines)
    return "".join(
        c if c.isprintable() or c == "\n" else "?" for c in text
    )  # names may hold escape sequences


def locate(path: str) -> Path:
    """The file or folder of a path or of an installed model's name. Raises GankitError if there is none."""
    where = Path(path)
    if where.exists():
        return where
    if path not in registry().names("model"):
        raise GankitError(registry().unknown("model", path, what="file, folder or model"))
    package, _, inner = registry().get("model", path).target.partition(":")
    return Path(str(importlib.resources.files(package).joinpath(inner)))


def read_header(path: Path) -> tuple[list[Row], dict[str, Any]]:
    """Rows (name, dtype, shape) and metadata of a safetensors file. Raises GankitError if it is damaged."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size, MAX_HEADER):
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", {})
        rows = [(str(n), str(t["dtype"]), tuple(int(d) for d in t["shape"])) for n, t in header.items()]
        end = max((int(t["data_offsets"][1]) for t in header.values()), default=0)
        if 8 + length + end != size:
            raise ValueError("its data are incomplete")
        return rows, {key: _json(value) for key, value in metadata.items()}
    except OSError as error:
        raise GankitError(f"cannot read {path}: {error.strerror or error}") from None
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        struct.error,
        RecursionError,
    ) as error:
        reason = printable(" ".join(str(error).split()))
        raise GankitError(f"{path} is not a sound safetensors file ({reason})") from None


def _json(value: Any) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


# ------------------------------------------------------------------------------------------------- folders


def _folder(folder: Path, tensors: bool) -> list[str]:
    checkpoints = checkpoints_of(folder)
    if (folder / "generator.safetensors").is_file():
        return [f"{folder}: model", *_recipe(folder), *_parts(folder, tensors)]
    if (folder / "recipe.yaml").is_file():
        lines = [f"{folder}: run with {len(checkpoints)} checkpoints", *_recipe(folder)]
        if checkpoints:
            lines += ["", f"newest checkpoint: {checkpoints[-1]}", *_parts(checkpoints[-1], tensors)]
        return lines
    raise GankitError(f"{folder} holds neither a model nor a run: recipe.yaml is missing")


def checkpoints_of(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted(p for p in run.glob("checkpoints/*") if p.name.isdigit())


def read_page(folder: Path) -> dict[str, Any]:
    """The raw page of a folder's recipe. Raises GankitError if it cannot be read."""
    path = folder / "recipe.yaml"
    try:
        page = yaml_files.load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GankitError(f"cannot read {path}: {' '.join(str(error).split())}") from None
    if not isinstance(page, dict):
        raise GankitError(f"{path} is not a recipe")
    return page


def read_conditioner(folder: Path) -> dict[str, Any]:
    """The content of a folder's conditioner.json. Raises GankitError if it is damaged."""
    path = folder / "conditioner.json"
    try:
        content = _json(path.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise GankitError(f"cannot read {path}: {error.strerror or error}") from None
    vocabulary = content.get("vocabulary") if isinstance(content, dict) else None
    if not isinstance(vocabulary, dict) or not all(
        isinstance(vocabulary.get(key, {}), dict) for key in ("classes", "tags")
    ):
        raise GankitError(f"{path} is damaged")
    return content


def _recipe(folder: Path) -> list[str]:
    page = read_page(folder)
    data = page.get("data") or {}
    size = data.get("size") if isinstance(data, dict) else None
    lines = [f"recipe: {page.get('name')}" + (f", {page['description']}" if page.get("description") else "")]
    if isinstance(size, list):
        lines.append(f"images: {'x'.join(map(str, size))} (height x width), {data.get('channels')} channels")
    for section in NETWORKS:
        lines.append(f"{section}: {_spec(page.get(section))}")
    if isinstance(page.get("packages"), Mapping):
        lines.append(f"packages: {', '.join(sorted({str(record) for record in page['packages'].values()}))}")
    return lines


def _spec(spec: Any) -> str:
    if not isinstance(spec, Mapping):
        return str(spec)
    options = ", ".join(f"{k}={_spec(v)}" for k, v in spec.items() if k != "name")
    return f"{spec.get('name', '')}({options})" if options else str(spec.get("name"))


def _parts(folder: Path, tensors: bool) -> list[str]:
    lines = []
    if (folder / "conditioner.json").is_file():
        vocabulary = read_conditioner(folder)["vocabulary"]
        for kind, words in (("classes", "classes"), ("tags", "tags"), ("fields", "label fields")):
            if vocabulary.get(kind):
                lines.append(f"{words} ({len(vocabulary[kind])}): {_some(vocabulary[kind])}")
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("training/*.safetensors")]):
        rows, metadata = read_header(path)
        lines += ["", f"{path.relative_to(folder)}: {_megabytes(path)}", *_metadata(metadata)]
        lines += _table(rows, tensors)
    return lines


def _metadata(metadata: Mapping[str, Any]) -> list[str]:
    own = metadata.get("gankit")
    if isinstance(own, Mapping):
        return [f"  written by gankit {own.get('version')}, trained on {own.get('images')} images"]
    return [f"  {printable(str(key))}: {printable(str(value))}" for key, value in metadata.items()]


# ------------------------------------------------------------------------------------------- foreign files


def _foreign(path: Path, tensors: bool) -> list[str]:
    file = open_foreign(path)
    lines = [f"{path}: {file.format}, {_megabytes(path)}"]
    bad = attacks(file.called)
    if bad:
        lines.append(
            f"HOSTILE: opened by ordinary means it would call {', '.join(bad[:5])}; gankit executes nothing"
        )
    for role, network in file.networks.items():
        lines += ["", f"{role}: {network.described}", *_arguments(network)]
        rows = [(name, record.dtype, record.shape) for name, record in network.tensors.items()]
        lines += _table(rows, tensors)
    for role, reason in file.skipped.items():
        lines += ["", f"{role}: not readable: {reason.removeprefix(f'{path}: ')}"]
    if not file.networks and not file.skipped:
        lines.append("no networks")
    return lines


def _arguments(network: ForeignNetwork) -> list[str]:
    given = network.modules[""].kwargs if network.modules else {}
    return [f"  {printable(key)} = {printable(str(value))}" for key, value in given.items()]


# -------------------------------------------------------------------------------------------------- tables


def _table(rows: Iterable[Row], every: bool) -> list[str]:
    rows = list(rows)
    total = sum(math.prod(shape) for _, _, shape in rows)
    dtypes = sorted({dtype.lower() for _, dtype, _ in rows})
    lines = [f"  {len(rows)} tensors, {total:,} numbers ({', '.join(dtypes)})"]
    if every:
        width = max((len(name) for name, _, _ in rows), default=0)
        return lines + [
            f"  {printable(n).ljust(width)}  {list(shape)} {dtype.lower()}" for n, dtype, shape in rows
        ]
    sums: dict[str, int] = {}
    for name, _, shape in rows:
        module = ".".join(name.split(".")[:-1][:DEPTH]) or name
        sums[module] = sums.get(module, 0) + math.prod(shape)
    width = max(map(len, sums), default=0)
    return lines + [f"  {printable(module).ljust(width)}  {count:>13,}" for module, count in sums.items()]


def _some(names: Iterable[str]) -> str:
    names = [printable(str(name)) for name in names]
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"
