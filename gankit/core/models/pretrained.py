"""Look-up of pretrained weights by hub id: the user's folder, installed weight sources, last the hub's cache."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import torch
from torch import Tensor

from gankit.core.config.registry import registry
from gankit.core.interfaces.data import WeightSource
from gankit.errors import GankitError

ENV_FOLDER = "GANKIT_WEIGHTS"  # a folder with <hub id>/model.safetensors, looked into first

FILE = "model.safetensors"

SHIPPED = {  # hub id -> package on PyPI that contains its weights
    "timm/tf_efficientnet_lite0.in1k": "gankit-avatars",
    "sentence-transformers/all-MiniLM-L6-v2": "gankit-avatars",
}


def shapes_only() -> bool:
    """True while networks are built on the meta device, as in a dry run, where no weights are needed."""
    return torch.get_default_device().type == "meta"


def find_state_dict(hub_id: str) -> dict[str, Tensor]:
    """State dict of a hub id. Raises GankitError if there is none, saying which file is missing and where to put it."""
    folder = _users_folder(hub_id)
    if folder is not None and (folder / FILE).is_file():
        return read_safetensors(folder / FILE)
    for source in _sources():
        found = source.state_dict(hub_id)
        if found is not None:
            return found
    raise _missing(hub_id, FILE)


def find_folder(hub_id: str) -> Path:
    """Folder of a hub id in the hub's layout: config.json, model.safetensors, tokenizer. Raises GankitError if there is
    none."""
    folder = _users_folder(hub_id)
    if folder is not None and folder.is_dir():
        return folder
    for source in _sources():
        found = source.folder(hub_id)
        if found is not None:
            return found
    raise _missing(hub_id, f"{FILE}, config.json and the tokenizer's files")


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file. Raises GankitError if it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise GankitError(f"{path} is not a readable safetensors file ({error}); download it again") from None


def find_table(where: str, rows: int, columns: int, option: str) -> Tensor:
    """Read a table [rows, columns], float32, from a .safetensors file or a hub id's weights with this one tensor.

    Raises GankitError, naming the plugin option `option`, if the file is missing or the shape is another one."""
    path = Path(where).expanduser()
    if path.suffix == ".safetensors" and not path.is_file():
        raise GankitError(f"{option} = {where!r}: there is no such file")
    tensors = read_safetensors(path) if path.suffix == ".safetensors" else find_state_dict(where)
    found = {name: list(tensor.shape) for name, tensor in tensors.items()}
    if list(found.values()) != [[rows, columns]]:
        raise GankitError(
            f"{option} = {where!r} must hold one tensor [{rows}, {columns}], a row for each class, not {found}"
        )
    return next(iter(tensors.values())).float()


def _users_folder(hub_id: str) -> Path | None:
    root = os.environ.get(ENV_FOLDER)
    return Path(root).expanduser() / hub_id if root else None


def _sources() -> Iterator[WeightSource]:
    """Yield the weight sources, those of other packages before the built-in one, which may download."""
    for name in registry().names("weights"):
        try:
            source = registry().load("weights", name)()
        except GankitError as error:  # a broken package must not keep the others from answering
            warnings.warn(str(error), stacklevel=3)
            continue
        yield source


def _missing(hub_id: str, wanted: str) -> GankitError:
    package = SHIPPED.get(hub_id)
    install = f"run `pip install {package}`, which brings them, or " if package else ""
    absent = registry().absent()
    return GankitError(
        f"no weights for {hub_id!r}: no installed package offers them, they are not in the Hugging Face cache "
        f"(~/.cache/huggingface) and could not be downloaded; {install}fill that cache with `hf download {hub_id}` "
        f"where there is a network, or put {wanted} into FOLDER/{hub_id}/ and set {ENV_FOLDER}=FOLDER"
        + (f" (now {os.environ[ENV_FOLDER]})" if os.environ.get(ENV_FOLDER) else "")
        + (f"; {absent}" if absent else "")
    )


# A network that is built only to be filled with stored weights needs no initial values from files: a model must load on
# machines without the files that its training started from.

_stored = ContextVar("stored", default=False)


@contextmanager
def filled_later() -> Iterator[None]:
    """Context in which networks are built without reading initial values from files."""
    token = _stored.set(True)
    try:
        yield
    finally:
        _stored.reset(token)


def start_table(where: str | None, rows: int, columns: int, option: str) -> Tensor | None:
    """`find_table`, or None if `where` is None or the network needs no initial values (see `filled_later`)."""
    if where is None or _stored.get() or shapes_only():
        return None
    return find_table(where, rows, columns, option)
