"""Conversion of other code bases' files to model folders, by the importer plugin that recognises the network."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gankit._version import __version__
from gankit.core.checkpoints import folders
from gankit.core.config import options
from gankit.core.config import recipe as recipes
from gankit.core.config.registry import registry
from gankit.core.interfaces.conditions import CondSpec
from gankit.core.interfaces.labels import Vocabulary
from gankit.core.models import build, model_folder, stored_state
from gankit.core.runtime import devices, tensor_files
from gankit.core.runtime.paths import cache_dir
from gankit.errors import GankitError, unknown
from gankit.interop.importer import Imported, Importer
from gankit.interop.pickles import printable, refuse_attacks
from gankit.interop.torch_files import ForeignFile, ForeignNetwork, TensorRecord, open_foreign

GENERATORS = ("G_ema", "G")  # roles, the preferred one first
AUGMENTATION = "augment_pipe"  # role of the augmentation pipeline


# Long because generator, D and augmentation each may fail to convert, and only the generator's failure is an error.
@devices.isolated
def convert(
    path: Path,
    out: Path,
    *,
    network: str | None = None,
    discriminator: bool = True,
    classes: Sequence[str] | None = None,
) -> list[str]:
    """Write the networks of a pickle or torch file as a model folder; nothing in the file is executed.

    An augmentation pipeline in the file goes into the recipe, with its probability, for training to start from.

    Args:
        path: the file.
        out: the new folder, which must not exist.
        network: the generator to take, 'G_ema' or 'G'; None takes the first of them that the file has.
        discriminator: take D too, if an importer recognises it, for training to start from.
        classes: names of the classes in order, for networks that are conditioned on classes.

    Returns notes for the user on what was left out.
    Raises GankitError if the file is damaged or hostile, or no importer recognises its generator.
    """
    if out.exists():
        raise GankitError(f"{out} exists already; choose another folder, or remove it first")
    file = open_foreign(path)
    refuse_attacks(file.called, path)
    generator = import_network(_pick(file, network))
    if generator.kind != "generator":
        raise GankitError(f"{path}: {network} is a {generator.kind}; give --network G_ema or G")
    notes = []
    if classes is not None:
        generator.vocabulary = _named(generator.vocabulary, classes, path)
    critic = None
    if discriminator and "D" in file.networks:
        try:
            critic = import_network(file.networks["D"])
        except GankitError as error:
            notes.append(f"D is left out: {error}")
    page: dict[str, Any] = {
        "name": re.sub(r"[^\w.-]+", "-", path.stem) or "imported",
        "description": f"converted from {path.name}",
        "data": {"size": list(generator.image_shape[1:]), "channels": generator.image_shape[0]},
        "conditioner": generator.conditioner,
        "generator": generator.spec,
        **generator.sections,
    }
    if AUGMENTATION in file.networks:
        try:
            page["augmentation"] = import_network(file.networks[AUGMENTATION]).spec
        except GankitError as error:
            notes.append(f"{AUGMENTATION} is left out: {error}")
    recipe = recipes.parse(page, str(path))
    conditioner = build.build_conditioner(recipe, generator.vocabulary)
    if generator.conditioner_tensors:
        made = {name: record.to_tensor() for name, record in generator.conditioner_tensors.items()}
        stored_state.load_stored(conditioner, made, path)
    module, tensors = _fitting(generator, conditioner.spec, path)
    critic_tensors = None
    if critic is not None:
        try:  # the generator is of use without it
            complete = recipes.parse({**critic.sections, **page, "discriminator": critic.spec}, str(path))
            _, critic_tensors = _fitting(critic, conditioner.spec, path)
            recipe = complete
        except GankitError as error:
            notes.append(f"D is left out: {error}")
    with folders.FolderWriter(out) as folder:
        model_folder.save_model(
            folder, recipe, conditioner, module, nimg=0, encoders=conditioner.identity(), weights=tensors
        )
        if critic_tensors is not None:
            (folder / "training").mkdir()
            tensor_files.save_tensors(folder / "training" / "discriminator.safetensors", critic_tensors)
    return notes


def read_names(text: str) -> list[str]:
    """'a,b,c', or the path of a .txt file with one name a line -> names. Raises GankitError if it cannot be read."""
    file = Path(text)
    if file.suffix != ".txt":
        return [name.strip() for name in text.split(",")]
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise GankitError(f"cannot read the names of classes from {file}: {error}") from None
    return [line.strip() for line in lines if line.strip()]


def cached(path: Path) -> Path:
    """Model folder in the cache for a foreign file, converted the first time; the key is a hash of the content."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise GankitError(f"cannot read {path}: {error.strerror or error}") from None
    folder = cache_dir("imported") / f"{digest.hexdigest()[:32]}-{__version__}"
    if not (folder / "generator.safetensors").is_file():
        for note in convert(path, folder):
            warnings.warn(note, stacklevel=2)
    return folder


def import_network(network: ForeignNetwork) -> Imported:
    """Convert a network with the importer that recognises it. Raises GankitError listing known classes if none does."""
    known: dict[str, list[str]] = {}
    for name, importer in _importers():
        if importer.recognises(network):
            return importer.convert(network)
        for known_class in importer.classes:
            known.setdefault(known_class, []).append(name)
    listed = "known are " + ", ".join(f"{what} ({', '.join(names)})" for what, names in sorted(known.items()))
    if not network.modules:
        names = ", ".join(repr(name) for name in list(network.tensors)[:3])
        reason = f"no importer knows a state dict with the names {names}, ...; {listed}"
    elif network.class_name in known:
        reason = f"{network.described} with other tensors than any known class of that name; {listed}"
    else:
        reason = f"unknown {network.described}; {listed}"
    raise GankitError(f"{network.origin}: {network.role}: {reason}")


def _importers() -> Iterator[tuple[str, Importer]]:
    """Yield (name, importer), those of other packages before the built-in ones."""
    for name in registry().names("importer"):
        try:
            yield name, registry().load("importer", name)()
        except GankitError as error:  # a broken package must not keep the others from answering
            warnings.warn(str(error), stacklevel=3)


def _pick(file: ForeignFile, role: str | None) -> ForeignNetwork:
    wanted = GENERATORS if role is None else (role,)
    for name in wanted:
        if name in file.networks:
            return file.networks[name]
    for name in wanted:
        if name in file.skipped:
            raise GankitError(file.skipped[name])
    names = [printable(name) for name in file.networks]
    if role is not None:
        raise GankitError(f"{file.path}: {unknown('network', role, names)}")
    raise GankitError(
        f"{file.path} holds no generator (G_ema or G) but {', '.join(names[:8]) or 'no network at all'}"
    )


def _named(vocabulary: Vocabulary, names: Sequence[str], path: Path) -> Vocabulary:
    if len(names) != len(vocabulary.classes) or len(set(names)) != len(names):
        raise GankitError(
            f"--classes gives {len(set(names))} different names, but {path} has {len(vocabulary.classes)} classes"
        )
    return Vocabulary(classes=dict.fromkeys(names, 1))


def _fitting(imported: Imported, cond: CondSpec, path: Path) -> tuple[Any, dict[str, Tensor]]:
    """An imported network on the meta device, and its state dict.

    There a file that claims a large network takes no memory. Raises GankitError if names or shapes are not those of its
    plugin."""
    try:
        with torch.device("meta"):
            module = options.build(imported.kind, imported.spec, imported.image_shape, cond)
    except (RuntimeError, ValueError, TypeError, ArithmeticError) as error:
        reason = printable(" ".join(str(error).split()))
        raise GankitError(f"{path}: its {imported.kind} cannot be built ({reason})") from None
    expected = stored_state.stored_state(module)
    wrong = [
        (name, record)
        for name in sorted(expected.keys() | imported.tensors.keys())
        if (record := imported.tensors.get(name)) is None
        or name not in expected
        or record.shape != tuple(expected[name].shape)
    ]
    if wrong:
        raise GankitError(f"{path}: {_misfit(*wrong[0], expected, imported)}")
    tensors = {name: imported.tensors[name].to_tensor().to(old.dtype) for name, old in expected.items()}
    return module, tensors


def _misfit(name: str, record: TensorRecord | None, expected: dict[str, Tensor], imported: Imported) -> str:
    plugin = f"{imported.kind} {imported.spec['name']!r}"
    if record is None:
        return f"the tensor {name!r} is missing, which {plugin} needs"
    if name not in expected:
        return f"the tensor {name!r} has no place in {plugin}"
    return f"the tensor {name!r} is {list(record.shape)}, {plugin} needs {list(expected[name].shape)}"
