"""State dicts without the tensors of frozen pretrained networks, which checkpoints refer to by name and hash."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from gankit.core.interfaces.networks import FrozenNetwork
from gankit.errors import GankitError


def frozen_networks(module: nn.Module) -> dict[str, FrozenNetwork]:
    """Pretrained frozen networks inside a module, by path."""
    return {name: m for name, m in module.named_modules() if isinstance(m, FrozenNetwork)}


def stored_state(module: nn.Module) -> dict[str, Tensor]:
    """State dict of a module without the tensors of frozen pretrained networks inside it."""
    prefixes = tuple(f"{name}." if name else "" for name in frozen_networks(module))
    return {k: v for k, v in module.state_dict().items() if not (prefixes and k.startswith(prefixes))}


def stored_parameters(module: nn.Module) -> list[nn.Parameter]:
    """All parameters of a module outside frozen networks."""
    prefixes = tuple(f"{name}." if name else "" for name in frozen_networks(module))
    return [p for name, p in module.named_parameters() if not (prefixes and name.startswith(prefixes))]


def stored_buffers(module: nn.Module) -> list[Tensor]:
    """All buffers of a module outside frozen networks, non-persistent ones too."""
    prefixes = tuple(f"{name}." if name else "" for name in frozen_networks(module))
    return [b for name, b in module.named_buffers() if not (prefixes and name.startswith(prefixes))]


def load_stored(
    module: nn.Module, tensors: Mapping[str, Tensor], origin: Path | str, *, adopt: bool = False
) -> None:
    """Load tensors of `stored_state` into a module. Raises GankitError if names or shapes differ.

    With `adopt`, tensors of the same dtype and device replace the module's own instead of being copied: those of
    `load_tensors` are memory-mapped and take memory only as far as they are read.
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
    """Replace the parameter or buffer of this name by a tensor; False if there is none of its dtype and device."""
    path, _, name = name.rpartition(".")
    try:
        owner = module.get_submodule(path)
    except AttributeError:  # the module has a state_dict method of its own
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
