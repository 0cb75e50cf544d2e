"""Warm starts (`--init`): copying weights into a network of another size, number of classes or condition.

Tensors of equal name and shape are copied. If a layer has more inputs than before, the new ones get weight zero and the
gain of equalised learning rates is compensated, so that the new network first computes what the source does. Weight
columns of classes and tags are matched by their names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from gankit.core.config import options
from gankit.core.config.recipe import Recipe
from gankit.core.interfaces.conditions import Conditioner, CondSpec
from gankit.core.interfaces.networks import Discriminator, Generator
from gankit.core.models import stored_state
from gankit.core.models.build import build_conditioner
from gankit.core.models.model_folder import read_recipe, read_vocabulary
from gankit.core.models.pretrained import filled_later
from gankit.core.runtime import tensor_files
from gankit.errors import GankitError


def start_from(
    init: str | Path, folder: Path, recipe: Recipe, conditioner: Conditioner, G: Generator, D: Discriminator
) -> list[str]:
    """Copy the weights of a model folder into new networks.

    Args:
        init: the model as the user named it, for messages.
        folder: folder of that model.
        recipe: recipe of the new networks.
        conditioner: the new conditioner, with its vocabulary; changed in place if it is trainable.
        G: the new generator, changed in place.
        D: the new discriminator, changed in place if the folder has one.

    Returns lines that report what was copied, for the user.
    """
    lines = []
    try:
        old = build_conditioner(read_recipe(folder), read_vocabulary(folder))
        columns = match(old.columns(), conditioner.columns())
    except GankitError as error:  # such as a text encoder that is not here
        lines.append(f"conditions of {init} cannot be matched: {error}")
        columns = match([], conditioner.columns())
    if columns.source:
        lines.append(f"condition from {init}: {columns}")
    sources: list[tuple[str, nn.Module, Path]] = [
        ("conditioner", conditioner, folder / "conditioner.safetensors"),
        ("generator", G, folder / "generator.safetensors"),
        ("discriminator", D, folder / "training" / "discriminator.safetensors"),
    ]
    for kind, module, path in sources:
        if not path.is_file() or not stored_state.stored_state(module):
            continue
        axes = {} if kind == "conditioner" else _axes(kind, recipe, conditioner.spec)
        done = transfer(module, tensor_files.load_tensors(path)[0], axes=axes, columns=columns)
        lines.append(f"{kind} from {init}: {done}")
    return lines


def copy_weights(
    kind: str,
    source: nn.Module,
    target: nn.Module,
    recipe: Recipe,
    old_columns: list[tuple[str, str]],
    conditioner: Conditioner,
) -> Transfer | None:
    """Copy the weights of a network in memory into a new one, as `start_from` does from a model folder.

    Args:
        kind: 'generator', 'discriminator' or 'conditioner'.
        source: the old network.
        target: the new network, changed in place.
        recipe: recipe of the new network.
        old_columns: `Conditioner.columns()` of the old network's conditioner.
        conditioner: conditioner of the new network.

    Returns a report, or None if one of the networks has no stored tensors.
    """
    tensors = stored_state.stored_state(source)
    if not tensors or not stored_state.stored_state(target):
        return None
    columns = match(old_columns, conditioner.columns())
    axes = {} if kind == "conditioner" or columns.identical else _axes(kind, recipe, conditioner.spec)
    return transfer(target, tensors, axes=axes, columns=columns)


def _axes(kind: str, recipe: Recipe, spec: CondSpec) -> dict[str, int]:
    section = getattr(recipe, kind)
    return condition_axes(lambda other: options.build(kind, section, recipe.image_shape, other), spec)


Column = tuple[str, str]  # kind and name, see Conditioner.columns

# Names of constant tensors, which follow from the new network's size and options: copied only if their values agree.
FILTERS = ("up_filter", "down_filter", "resample_filter", "Kernel")

NAMED = ("cls", "tags")  # kinds of columns that match each other by name


@dataclass(frozen=True)
class Columns:
    """Mapping from the columns of a new condition's embedding to those of the source's.

    Attributes:
        source: for each column of the new embedding its index in the old one, or None.
        width: width of the old embedding.
        missing: names of new columns that the source lacks.
        unused: names of old columns that the new condition lacks.
    """

    source: tuple[int | None, ...] = ()
    width: int = 0
    missing: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    @property
    def identical(self) -> bool:
        return self.source == tuple(range(self.width))

    def __str__(self) -> str:
        found = sum(i is not None for i in self.source)
        text = f"{found} of {len(self.source)} columns of the condition found by name"
        for what, names in (("new", self.missing), ("left out", self.unused)):
            if names:
                text += f"; {what}: {', '.join(names[:8])}" + (", ..." if len(names) > 8 else "")
        return text


def match(old: Sequence[Column], new: Sequence[Column]) -> Columns:
    """Match columns by kind and name, else by name alone among classes and tags (class 'cat' matches tag 'cat').

    Names are compared without case and with '_' as a space."""

    def spelled(name: str) -> str:
        return name.casefold().replace("_", " ")

    exact = {(kind, spelled(name)): i for i, (kind, name) in reversed(list(enumerate(old)))}
    by_name = {spelled(name): i for i, (kind, name) in reversed(list(enumerate(old))) if kind in NAMED}
    source = tuple(
        exact.get((kind, spelled(name)), by_name.get(spelled(name)) if kind in NAMED else None)
        for kind, name in new
    )
    missing = tuple(name for (_, name), i in zip(new, source) if i is None)
    unused = tuple(name for i, (_, name) in enumerate(old) if i not in source)
    return Columns(source, len(old), missing, unused)


def condition_axes(make: Callable[[CondSpec], nn.Module], spec: CondSpec) -> dict[str, int]:
    """Tensor name -> axis along which a tensor has one column for each number of the condition's embedding.

    Found by building the network on the meta device with c_dim and c_dim + 1. On that axis, the condition's columns are
    the last ones.

    Args:
        make: builds the network for given sizes of the condition.
        spec: sizes of the condition.
    """
    if not spec.c_dim:
        return {}
    with torch.device("meta"), filled_later():
        one, more = (
            stored_state.stored_state(make(CondSpec(spec.c_dim + extra, spec.token_dim))) for extra in (0, 1)
        )
    axes = {}
    for name, tensor in one.items():
        if name in more and more[name].dim() == tensor.dim():
            grown = [i for i in range(tensor.dim()) if more[name].shape[i] == tensor.shape[i] + 1]
            if len(grown) == 1:
                axes[name] = grown[0]
    return axes


@dataclass
class Transfer:
    """Report of `transfer`: names of copied, resized and fresh tensors, and of the source's unused ones."""

    copied: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"{len(self.copied)} tensors copied, {len(self.resized)} resized, {len(self.fresh)} fresh, "
            f"{len(self.unused)} left out"
        ]
        for what, names in (
            ("resized", self.resized),
            ("fresh  ", self.fresh),
            ("left out", self.unused),
        ):
            lines += [f"  {what} {name}" for name in names]
        return "\n".join(lines)


def transfer(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    axes: Mapping[str, int] | None = None,
    columns: Columns | None = None,
) -> Transfer:
    """Copy tensors into a network by name; where only sizes differ, copy the common part.

    Args:
        module: the new network, changed in place.
        tensors: state dict of the source.
        axes: result of `condition_axes`; with `columns`, these tensors are copied column by column.
        columns: result of `match`.
    """
    done = Transfer()
    owners = dict(module.named_modules())
    state = stored_state.stored_state(module)
    if isinstance(module, Generator):
        tensors = module.renamed(tensors)
    with torch.no_grad():
        for name, target in state.items():
            source = tensors.get(name)
            if source is None or source.dim() != target.dim():
                done.fresh.append(f"{name} {list(target.shape)}")
                continue
            if name.rpartition(".")[2] in FILTERS and not _alike(source, target):
                done.fresh.append(f"{name} {list(target.shape)}")
                continue
            axis = None if axes is None or columns is None else axes.get(name)
            if source.shape == target.shape and (axis is None or columns is None or columns.identical):
                target.copy_(source)
                done.copied.append(name)
                continue
            owner = owners.get(name.rpartition(".")[0])
            source = source.to(target) * _gain(owner, name, source, target)
            if axis is None or columns is None:
                _copy_common(owner, name, source, target)
            else:
                _copy_columns(axis, columns, source, target)
            note = "" if axis is None else " by name"
            done.resized.append(f"{name} {list(source.shape)} -> {list(target.shape)}{note}")
    done.unused = [f"{name} {list(t.shape)}" for name, t in tensors.items() if name not in state]
    return done


def _alike(source: Tensor, target: Tensor) -> bool:
    return source.shape == target.shape and torch.allclose(source.to(target), target, atol=1e-5)


def _gain(owner: nn.Module | None, name: str, source: Tensor, target: Tensor) -> float:
    """Factor on copied weights that compensates the gain 1/sqrt(inputs) of equalised learning rates; 1 elsewhere."""
    if name.endswith("weight") and hasattr(owner, "weight_gain") and source.dim() > 1:
        return math.sqrt(target[0].numel() / max(source[0].numel(), 1))
    return 1.0


def _copy_common(owner: nn.Module | None, name: str, source: Tensor, target: Tensor) -> None:
    kernel = source.dim() == 4 and name.endswith("weight")
    pairs = [_overlap(a, b, kernel and i > 1) for i, (a, b) in enumerate(zip(source.shape, target.shape))]
    theirs, ours = tuple(a for a, _ in pairs), tuple(b for _, b in pairs)
    # layers of the StyleGAN family, plain or modulated, and R3GAN's: weight [out, in, ...]
    if (
        name.endswith("weight")
        and source.dim() > 1
        and (hasattr(owner, "weight_gain") or hasattr(owner, "affine") or isinstance(owner, nn.Linear))
    ):
        target[ours[0], source.shape[1] :] = 0
        if kernel:  # a larger kernel does what the smaller one did
            target[ours[:2]] = 0
    target[ours] = source[theirs]


def _overlap(a: int, b: int, centred: bool) -> tuple[slice, slice]:
    """Slices of axes of length a and b that overlap, aligned at their starts or, for kernels, at their centres."""
    size = min(a, b)
    starts = ((a - size) // 2, (b - size) // 2) if centred else (0, 0)
    return slice(starts[0], starts[0] + size), slice(starts[1], starts[1] + size)


def _copy_columns(axis: int, columns: Columns, source: Tensor, target: Tensor) -> None:
    source, target = source.movedim(axis, 0), target.movedim(axis, 0)
    before = len(target) - len(columns.source)  # columns that do not belong to the condition, such as z's
    old_before = len(source) - columns.width
    for i in range(1, source.dim()):  # views of the common part
        size = min(source.shape[i], target.shape[i])
        source, target = source.narrow(i, 0, size), target.narrow(i, 0, size)
    if before > 0:  # z and condition are inputs of one layer: new columns have no effect at first
        target[:] = 0
    shared = max(min(before, old_before), 0)
    target[:shared] = source[:shared]
    for i, j in enumerate(columns.source):
        if j is not None and 0 <= old_before + j < len(source):
            target[before + i] = source[old_before + j]
