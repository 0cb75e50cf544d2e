"""Freezing of parameters by the name patterns of `train.freeze`.

Uses: Mo et al. 2020, "Freeze the discriminator: a simple baseline for fine-tuning GANs"; the frozen stems of
StyleGAN-XL; the phases of StyleGAN-T."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from gankit.errors import GankitError, unknown


def freeze(modules: Mapping[str, nn.Module], patterns: Sequence[str]) -> list[str]:
    """Turn off gradients by patterns: 'discriminator.b64', 'discriminator.*.fromrgb', '!generator.synthesis.b32'.

    A pattern names a parameter or a module with all of its parameters; `*` stands for any text. Patterns are applied in
    order; one that begins with '!' excludes parameters that earlier ones matched. Returns the frozen parameters' names.

    Args:
        modules: networks by the name that patterns begin with.
        patterns: value of `train.freeze`.

    Raises GankitError, with near matches, for a pattern that matches nothing.
    """
    parameters = {
        f"{root}.{name}": parameter
        for root, module in modules.items()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }
    frozen: dict[str, None] = {}
    for pattern in patterns:
        wanted = pattern.removeprefix("!")
        found = [name for name in parameters if any(fnmatchcase(p, wanted) for p in _prefixes(name))]
        if not found:
            names = {prefix for name in parameters for prefix in _prefixes(name)}
            raise GankitError(unknown("part in train.freeze:", wanted, names))
        for name in found:
            if pattern.startswith("!"):
                frozen.pop(name, None)
            else:
                frozen[name] = None
    for name in frozen:
        parameters[name].requires_grad_(False)
    return list(frozen)


def _prefixes(name: str) -> Iterator[str]:
    """'a.b.c' -> 'a', 'a.b', 'a.b.c'."""
    for i, letter in enumerate(name):
        if letter == ".":
            yield name[:i]
    yield name
