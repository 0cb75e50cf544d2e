"""Reads networks from files of other code bases: pickled modules (NVIDIA's snapshots), state dicts (torch.save).

Works on the nodes of `interop/pickles.py`, so nothing in a file is executed; torch is imported only to make a tensor.
Every tensor is checked to lie inside the data of the file.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from gankit.errors import GankitError
from gankit.interop.pickles import Call, DamagedPickle, Global, Ledger, Persistent, printable, read_pickle

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin")
TORCH_MAGIC = 0x1950A86A20F9469CFC6C
MAX_MODULES = 20_000
MAX_TENSORS = 100_000
MAX_DEPTH = 40  # nesting of modules
MAX_VALUES = 10_000  # in one constructor argument
ITEM_SIZES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,160}")


@dataclass(frozen=True, eq=False)
class Storage:
    """A flat array: `data` holds items of type `dtype`, a key of ITEM_SIZES."""

    dtype: str
    data: bytes | memoryview

    def __len__(self) -> int:
        return len(self.data) // ITEM_SIZES[self.dtype]


@dataclass(frozen=True, eq=False)
class TensorRecord:
    """A tensor of a file, not yet made: a view of a storage, checked to lie inside it. Offset and strides in items."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> TensorRecord:
        """A record of a float tensor, for importers that compute or reorder one."""
        data = tensor.detach().float().contiguous()
        return cls(Storage("float32", data.numpy().tobytes()), 0, tuple(data.shape), data.stride())

    def reshaped(self, *shape: int) -> TensorRecord:
        """The same values in a shape that differs only in dimensions of size 1. Raises GankitError for other shapes."""
        kept = [(n, step) for n, step in zip(self.shape, self.stride) if n != 1]
        if [n for n, _ in kept] != [n for n in shape if n != 1]:
            raise GankitError(f"a tensor of the file is {list(self.shape)} and should be like {list(shape)}")
        steps = iter(step for _, step in kept)
        return TensorRecord(
            self.storage, self.offset, shape, tuple(1 if n == 1 else next(steps) for n in shape)
        )

    @property
    def dtype(self) -> str:
        return self.storage.dtype

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * ITEM_SIZES[self.dtype]

    def to_tensor(self) -> Tensor:
        """The tensor, contiguous, as a copy."""
        import torch

        dtype = getattr(torch, self.dtype)
        if not self.storage.data:
            return torch.zeros(self.shape, dtype=dtype)
        flat = torch.frombuffer(bytearray(self.storage.data), dtype=dtype)
        return flat.as_strided(self.shape, self.stride, self.offset).clone(
            memory_format=torch.contiguous_format
        )


@dataclass(eq=False)
class Module:
    """A pickled torch module.

    Attributes:
        class_name: name of its class, without the Python module.
        module: the Python module of the class, or ''.
        state: its `__dict__`, made of nodes; `attribute` reads plain values from it.
    """

    class_name: str
    module: str
    state: Mapping[Any, Any]

    @property
    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments of its constructor, if the file records them (NVIDIA's snapshots do); else empty."""
        found = plain(self.state.get("_init_kwargs"))
        return {k: v for k, v in found.items() if isinstance(k, str)} if isinstance(found, dict) else {}

    def attribute(self, name: str, default: Any = None) -> Any:
        return plain(self.state[name]) if name in self.state else default


@dataclass(eq=False)
class ForeignNetwork:
    """A network in a file of another code base.

    Attributes:
        origin: the file, for messages.
        role: 'G', 'D', 'G_ema' or another name that the file gives it.
        modules: its modules by path, the network itself as ''; empty for a state dict.
        tensors: its state dict in order, as records.
        extras: tensors of the file that belong to no network, such as a mean of w.
        beside: all networks of the file by role, this one included; a discriminator may lack image and class counts
            that its generator has.
    """

    origin: str
    role: str
    modules: dict[str, Module] = field(default_factory=dict)
    tensors: dict[str, TensorRecord] = field(default_factory=dict)
    extras: dict[str, TensorRecord] = field(default_factory=dict)
    beside: dict[str, ForeignNetwork] = field(default_factory=dict, repr=False)

    @property
    def class_name(self) -> str:
        return self.modules[""].class_name if self.modules else ""

    @property
    def described(self) -> str:
        """'class Generator' or 'a state dict', for messages."""
        return f"class {printable(self.class_name)!r}" if self.modules else "a state dict"

    def setting(self, path: str, *names: str, default: Any = ...) -> Any:
        """Value of a module's setting: the first of its attributes `names`, else of its constructor's arguments.

        Raises GankitError if there is none and no default is given."""
        module = self.modules.get(path)
        if module is not None:
            for name in names:
                if name in module.state:
                    return module.attribute(name)
            for name in names:
                if name in module.kwargs:
                    return module.kwargs[name]
        if default is ...:
            where = f"module {printable(path)!r} of " if path else ""
            raise GankitError(
                f"{self.origin}: {where}{self.role} ({self.described}) does not say its {names[0]!r}; "
                "it is of a version that gankit does not know"
            )
        return default

    def integer(self, path: str, *names: str, low: int = 1, high: int = 2**20, default: Any = ...) -> int:
        """`setting` that must be an integer in [low, high] or the default. Raises GankitError for other values."""
        value = self.setting(path, *names, default=default)
        if value is default and default is not ...:
            return value
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.odd(names[0], value)
        return value

    def odd(self, name: str, value: Any) -> GankitError:
        """A GankitError for an impossible or unsupported value of a setting."""
        shown = (
            printable(repr(value)) if isinstance(value, (str, int, float, bool, type(None))) else "no number"
        )
        return GankitError(
            f"{self.origin}: {name} = {shown} of {self.role} ({self.described}) is not possible or not supported"
        )

    def shape(self, name: str, rank: int) -> tuple[int, ...]:
        """Shape of a tensor. Raises GankitError if it is missing or does not have `rank` dimensions."""
        record = self.tensors.get(name)
        if record is None or len(record.shape) != rank:
            what = "no tensor" if record is None else f"no tensor of {rank} dimensions"
            raise GankitError(
                f"{self.origin}: {self.role} ({self.described}) has {what} {name!r}, so it is not what it seems"
            )
        return record.shape


@dataclass(eq=False)
class ForeignFile:
    """Content of a file: networks by role, reasons for skipped entries by role, dotted names that it would call."""

    path: Path
    format: str
    networks: dict[str, ForeignNetwork]
    skipped: dict[str, str]
    called: set[str]


# --------------------------------------------------------------------------------------------------- files


def open_foreign(path: Path) -> ForeignFile:
    """Read a pickle or torch file. Raises GankitError if it is damaged, unreadable or neither."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(4)
            file.seek(0)
            ledger = Ledger()
            storages: dict[str, Storage] = {}
            if start == b"PK\x03\x04":
                found, storages = _read_zip(file, size, ledger)
                kind = "torch file (zip)"
            elif start[:1] == b"\x80":
                found, kind = read_pickle(file, size, ledger), "pickle"
                if found == TORCH_MAGIC and isinstance(found, int):
                    file.seek(0)
                    found, storages = _read_legacy(file, size, ledger)
                    kind = "torch file (legacy)"
            else:
                raise GankitError(f"{path} is neither a pickle nor a file of torch.save; give one of these")
        return _Finder(path, size, ledger, storages).find(found, kind)
    except DamagedPickle as error:
        raise GankitError(f"{path} is damaged ({error}); get another copy of it") from None
    except OSError as error:
        raise GankitError(f"cannot read {path}: {error.strerror or error}") from None


def _read_legacy(
    file: BinaryIO, size: int, ledger: Ledger, data: bytes | None = None
) -> tuple[Any, dict[str, Storage]]:
    """Read the format of torch.save before version 1.6, five pickles, then data; pickles embed storages in it, too.

    Returns the object graph and the storages by key. With `data`, the content of `file`, storages are views of it
    instead of copies."""
    before = len(ledger.persistent)
    magic, protocol, _, found, keys = (read_pickle(file, size, ledger) for _ in range(5))
    if magic != TORCH_MAGIC or protocol != 1001 or not isinstance(keys, list):
        raise DamagedPickle("a tensor in it is not in torch's format")
    kinds = {}
    for node in ledger.persistent[before:]:
        dtype, key, numel = _storage_key(node)
        kinds[key] = (dtype, numel)
    storages = {}
    for key in keys:
        if not isinstance(key, str) or key not in kinds:
            raise DamagedPickle("it has numbers that belong to no tensor")
        dtype, numel = kinds[key]
        header = file.read(8)
        if len(header) < 8 or struct.unpack("<q", header)[0] != numel:
            raise DamagedPickle("a tensor in it is incomplete")
        start, length = file.tell(), numel * ITEM_SIZES[dtype]
        if data is None:
            numbers: bytes | memoryview = file.read(min(length, max(size - start, 0)))
        else:
            numbers = memoryview(data)[start : start + length]
            file.seek(start + length)
        storages[key] = _storage(dtype, numbers, numel)
    return found, storages


def _read_zip(file: BinaryIO, size: int, ledger: Ledger) -> tuple[Any, dict[str, Storage]]:
    """Read the format of torch.save since version 1.6, a zip archive of a pickle and one member for each storage.

    Returns the object graph and the storages by key."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = {info.filename: info for info in archive.infolist()}
            if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
                raise DamagedPickle("a torch file is not compressed, this one is")
            if sum(info.file_size for info in members.values()) > size:
                raise DamagedPickle("its table of contents is wrong")
            page = next(
                (name for name in members if name.endswith("/data.pkl") and name.count("/") == 1), None
            )
            if page is None:
                raise DamagedPickle("it is a zip archive, but not one of torch.save")
            root = page.removesuffix("data.pkl")
            if (
                archive.read(members[f"{root}byteorder"]) != b"little"
                if f"{root}byteorder" in members
                else False
            ):
                raise DamagedPickle("it was written on a big-endian machine")
            data = archive.read(members[page])
            found = read_pickle(io.BytesIO(data), len(data), ledger)
            storages = {}
            for node in ledger.persistent:
                dtype, key, numel = _storage_key(node)
                if key not in storages:
                    if f"{root}data/{key}" not in members:
                        raise DamagedPickle("a tensor in it is missing")
                    storages[key] = _storage(dtype, archive.read(members[f"{root}data/{key}"]), numel)
    except (
        zipfile.BadZipFile,
        EOFError,
        NotImplementedError,
        RuntimeError,
        ValueError,
        struct.error,
    ) as error:
        raise DamagedPickle(printable(" ".join(str(error).split()))) from None
    return found, storages


def _storage_key(node: Persistent) -> tuple[str, str, int]:
    """(dtype, key, number of items) of a storage that a pickle refers to. Raises DamagedPickle for other references."""
    match node.key:
        case (
            "storage",
            Global(module="torch" | "torch.storage", name=name),
            str(key),
            str(),
            int(numel),
            *view,
        ):
            if name in _STORAGES and 0 <= numel < 2**40 and not any(v is not None for v in view):
                return _STORAGES[name], key, numel
    raise DamagedPickle("it refers to something outside of it that is not a tensor of numbers")


def _storage(dtype: str, data: bytes | memoryview, numel: int) -> Storage:
    if len(data) < numel * ITEM_SIZES[dtype]:
        raise DamagedPickle("a tensor in it is incomplete")
    return Storage(dtype, data[: numel * ITEM_SIZES[dtype]])


# ------------------------------------------------------------------------------------------------- networks


class _Finder:
    """Finds networks in the object graph of one file."""

    def __init__(self, path: Path, size: int, ledger: Ledger, storages: dict[str, Storage]) -> None:
        self.path, self.size, self.ledger, self.storages = path, size, ledger, storages
        # id of bytes -> (the bytes, kept alive, and their storage): many nodes may refer to the same bytes
        self.embedded: dict[int, tuple[bytes, Storage | None]] = {}

    def find(self, found: Any, kind: str) -> ForeignFile:
        networks: dict[str, ForeignNetwork] = {}
        skipped: dict[str, str] = {}
        if _module_of(found) is not None:
            found = {"G_ema": found}
        elif isinstance(found, tuple):
            raise GankitError(
                f"{self.path} holds a tuple, as snapshots of the TensorFlow StyleGANs do, which gankit does not read; "
                "convert it to a PyTorch snapshot first"
            )
        elif not isinstance(found, dict):
            what = repr(found) if isinstance(found, (Call, Global)) else type(found).__name__
            raise GankitError(f"{self.path} holds no networks but {what}; nothing of it was executed")
        elif self._is_state_dict(found):
            found = {"G_ema": found}
        extras = {
            key: record
            for key, value in found.items()
            if isinstance(key, str) and (record := self._tensor(value)) is not None
        }
        for key, value in found.items():
            if not isinstance(key, str) or not _NAME.fullmatch(key):
                continue
            role = _ROLES.get(key, key)
            try:
                network = self._network(role, value)
            except GankitError as error:
                skipped[role] = str(error)
                continue
            if network is not None:
                network.extras, network.beside = extras, networks
                networks[role] = network
            elif isinstance(value, Call) and not _is_tensor(value):
                skipped[role] = (
                    f"{self.path}: {role} is not a network but {value!r}, which gankit does not make; nothing of it "
                    "was executed"
                )
        return ForeignFile(self.path, kind, networks, skipped, self.ledger.called)

    def _is_state_dict(self, value: Any) -> bool:
        return (
            isinstance(value, dict)
            and len(value) > 0
            and all(isinstance(v, (Call, Persistent)) and _is_tensor(v) for v in value.values())
        )

    def _network(self, role: str, value: Any) -> ForeignNetwork | None:
        network = ForeignNetwork(str(self.path), role)
        if self._is_state_dict(value):
            for name, node in value.items():
                self._add_tensor(network, name, node)
        elif _module_of(value) is not None:
            self._walk(network, value, "", 0)
        else:
            return None
        if sum(record.nbytes for record in network.tensors.values()) > 2 * self.size + 2**16:
            raise self._refused(network, "its tensors together are larger than the file")
        return network

    def _refused(self, network: ForeignNetwork, reason: str) -> GankitError:
        return GankitError(f"{self.path}: {network.role} cannot be read: {reason}")

    def _walk(self, network: ForeignNetwork, node: Any, path: str, depth: int) -> None:
        module = _module_of(node)
        if module is None:
            what = repr(node) if isinstance(node, (Call, Global)) else f"of type {type(node).__name__}"
            raise self._refused(network, f"the module {printable(path)!r} is {what}, which is never executed")
        if depth > MAX_DEPTH or len(network.modules) >= MAX_MODULES:
            raise self._refused(network, "it has more modules than any network")
        prefix = f"{path}." if path else ""
        network.modules[path] = module
        state = module.state
        transient = state.get("_non_persistent_buffers_set")
        hidden = transient if isinstance(transient, set) else set()
        for table, skip in (("_parameters", set()), ("_buffers", hidden)):
            for name, value in _table(state, table):
                if value is not None and name not in skip:
                    self._add_tensor(network, f"{prefix}{name}" if isinstance(name, str) else name, value)
        for name, value in _table(state, "_modules"):
            if value is not None:
                if not (isinstance(name, str) and _NAME.fullmatch(prefix + name)):
                    raise self._refused(network, "a module of it has an odd name")
                if prefix + name in network.modules:
                    raise self._refused(network, f"it has two modules {prefix + name!r}")
                self._walk(network, value, prefix + name, depth + 1)

    def _add_tensor(self, network: ForeignNetwork, name: Any, node: Any) -> None:
        if not (isinstance(name, str) and _NAME.fullmatch(name)):
            raise self._refused(network, "a tensor of it has an odd name")
        if len(network.tensors) >= MAX_TENSORS:
            raise self._refused(network, "it has more tensors than any network")
        if name in network.tensors:
            raise self._refused(network, f"it has two tensors {name!r}")
        record = self._tensor(node)
        if record is None:
            what = repr(node) if isinstance(node, (Call, Global)) else f"of type {type(node).__name__}"
            raise self._refused(network, f"{name!r} is no tensor but {what}, which is never executed")
        network.tensors[name] = record

    def _tensor(self, node: Any) -> TensorRecord | None:
        for _ in range(4):  # a parameter is a wrapped tensor
            if not isinstance(node, Call):
                return None
            if not any(node.calls("torch._utils", name) for name in _PARAMETERS):
                break
            if not (isinstance(node.args, tuple) and node.args):
                return None
            node = node.args[0]
        if not isinstance(node, Call) or not any(node.calls("torch._utils", name) for name in _TENSORS):
            return None
        match node.args:
            case (source, int(offset), tuple(shape), tuple(stride), *_):
                storage = self._storage(source)
            case _:
                return None
        sizes = (*shape, *stride, offset)
        if storage is None or len(shape) != len(stride) or len(shape) > 8:
            return None
        if not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**40 for n in sizes):
            return None
        if math.prod(shape):
            last = offset + sum((n - 1) * step for n, step in zip(shape, stride))
            if last >= len(storage) or math.prod(shape) > len(storage):
                return None
        return TensorRecord(storage, offset, tuple(shape), tuple(stride))

    def _storage(self, node: Any) -> Storage | None:
        if isinstance(node, Persistent):
            return self.storages.get(_storage_key(node)[1])
        if not isinstance(node, Call) or not node.calls("torch.storage", "_load_from_bytes"):
            return None
        match node.args:
            case (bytes(data),):
                pass
            case _:
                return None
        if id(data) not in self.embedded:
            found, storages = _read_legacy(io.BytesIO(data), len(data), self.ledger, data)
            storage = storages.get(_storage_key(found)[1]) if isinstance(found, Persistent) else None
            self.embedded[id(data)] = (data, storage)
        return self.embedded[id(data)][1]


_ROLES = {"g_ema": "G_ema", "g": "G", "d": "D", "discriminator": "D", "generator": "G", "GAN": "G_ema"}
_PARAMETERS = ("_rebuild_parameter", "_rebuild_parameter_with_state")
_TENSORS = ("_rebuild_tensor_v2", "_rebuild_tensor")


def _is_tensor(node: Any) -> bool:
    return isinstance(node, Call) and any(node.calls("torch._utils", n) for n in (*_PARAMETERS, *_TENSORS))


def _module_of(node: Any) -> Module | None:
    """The Module of a node: one of NVIDIA's persistent objects, or an instance with a torch module's state; or None."""
    if not isinstance(node, Call) or not isinstance(node.target, Global):
        return None
    if node.target.name == "_reconstruct_persistent_obj":
        match node.args:
            case ({"class_name": str(name), "state": {"_modules": _} as state},):
                return Module(name, "", state)
        return None
    if isinstance(node.state, dict) and "_modules" in node.state:
        return Module(node.target.name, node.target.module, node.state)
    return None


def _table(state: Mapping[Any, Any], name: str) -> Iterator[tuple[Any, Any]]:
    found = state.get(name)
    return iter(found.items()) if isinstance(found, dict) else iter(())


# ------------------------------------------------------------------------------------------- plain values

_NUMBERS = {"f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "i1": "b"}
_NUMBERS |= {"u8": "Q", "u4": "I", "u2": "H", "u1": "B", "b1": "?"}


def plain(value: Any) -> Any:
    """Convert nodes of numpy scalars and small 1-D arrays to Python numbers and lists; other nodes stay as they are."""
    return _plain(value, [MAX_VALUES], 0)


def _plain(value: Any, left: list[int], depth: int) -> Any:
    left[0] -= 1
    if left[0] < 0 or depth > 12:
        return None
    if isinstance(value, dict):
        return {k: _plain(v, left, depth + 1) for k, v in value.items() if isinstance(k, (str, int))}
    if isinstance(value, (list, tuple)):
        if len(value) > left[0]:
            return None
        return type(value)(_plain(v, left, depth + 1) for v in value)
    if isinstance(value, Call) and isinstance(value.target, Global):
        return _numpy(value)
    return value


def _numpy(node: Call) -> Any:
    name, state = node.target.name, node.state
    match node.args:
        case (Call() as kind, bytes(data)) if name == "scalar":
            numbers = _unpack(kind, data)
            return numbers[0] if numbers is not None and len(numbers) == 1 else node
        case (Global(name="_reconstruct"), _, tuple(given), *_) if name == "_create_array":  # dill's
            state = given
        case _ if name != "_reconstruct":
            return node
    match state:
        case (_, tuple(shape), Call() as kind, bool(), bytes(data), *_) if len(data) <= 8 * MAX_VALUES:
            numbers = _unpack(kind, data)
            if numbers is not None and len(shape) <= 1:
                return numbers if shape else numbers[0] if numbers else node
    return node


def _unpack(kind: Call, data: bytes) -> list[Any] | None:
    """Unpack bytes by a numpy dtype node into numbers; None if the dtype is not supported or the bytes do not fit."""
    order = "<"
    match kind.args, kind.state:
        case (str(code), *_), (_, str(order), *_) if code in _NUMBERS:
            pass
        case (str(code), *_), None if code in _NUMBERS:
            pass
        case _:
            return None
    code = ("<" if order in "<|=" else ">") + _NUMBERS[code]
    if len(data) % struct.calcsize(code):
        return None
    return [number for (number,) in struct.iter_unpack(code, data)]
