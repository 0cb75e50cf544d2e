"""Shared helpers of the conformance checks, and the checks of every kind that is a class with options."""

from __future__ import annotations

import inspect
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gankit import interfaces
from gankit.core.config import compatibility, options
from gankit.core.config import recipe as recipes
from gankit.core.config.registry import registry
from gankit.core.interfaces import labels
from gankit.core.interfaces.conditions import Condition, CondSpec
from gankit.core.models import build, stored_state
from gankit.core.runtime import tensor_files
from gankit.core.runtime.random import batch_random
from gankit.errors import GankitError
from gankit.hookspecs import KINDS

BATCH = 4
C_DIM = 5


@dataclass(frozen=True)
class Subject:
    """The plugin under test."""

    kind: str
    name: str
    options: Mapping[str, Any]
    shapes: tuple[tuple[int, int, int], ...] = ((3, 32, 32),)
    source_path: Callable[[str, Path], str] = lambda name, folder: ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}"

    @property
    def target(self) -> Any:
        return registry().load(self.kind, self.name)

    @property
    def spec(self) -> dict[str, Any]:
        return {"name": self.name, **self.options}

    def build(self, *positional: Any, seed: int = 0) -> Any:
        with seeded(seed):
            return options.build(self.kind, self.spec, *positional)


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Context with torch's seed set; the state of its generator is restored afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def perturb(module: nn.Module, scale: float = 0.1) -> nn.Module:
    """Add noise to trained weights in place: zeros at initialisation would hide a part of the network."""
    with torch.no_grad(), seeded(1):
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=scale)
    return module


def condition(spec: CondSpec, count: int = BATCH, seed: int = 2) -> Condition:
    """A random condition for `count` images."""
    with seeded(seed):
        embedding = torch.randn(count, spec.c_dim) if spec.c_dim else None
        tokens = torch.randn(count, 6, spec.token_dim) if spec.token_dim else None
    mask = None if tokens is None else torch.arange(6)[None] < torch.arange(1, count + 1)[:, None]
    return Condition(embedding, tokens, mask)


def assert_close(actual: Tensor, expected: Tensor, what: str, tolerance: float = 1e-4) -> None:
    """Assert equal shapes and |actual - expected| <= tolerance * (1 + max |expected|)."""
    assert actual.shape == expected.shape, f"{what}: {list(actual.shape)} is not {list(expected.shape)}"
    error = (actual - expected).detach().abs().max().item() if expected.numel() else 0.0
    limit = tolerance * (1 + expected.detach().abs().max().item() if expected.numel() else 1)
    assert error <= limit, f"{what}: they differ by {error:.3g}"


def assert_finite(value: Tensor, what: str) -> None:
    assert bool(value.isfinite().all()), f"{what} has values that are not finite"


def assert_keyed(run: Callable[[slice], Tensor], what: str) -> None:
    """Random numbers come from `gankit.interfaces`: they depend on the image's place in the batch and nothing else.

    `run(rows)` computes rows of a batch of `BATCH`.
    """

    def once(first: int, last: int) -> Tensor:
        with batch_random("conformance", total=BATCH, start=first, count=last - first):
            return run(slice(first, last))

    before = torch.get_rng_state()
    whole = once(0, BATCH)
    assert torch.equal(before, torch.get_rng_state()), (
        f"{what} draws random numbers from torch; use randn, rand, randint of gankit.core.runtime.random"
    )
    assert_close(once(0, BATCH), whole, f"{what}, twice with the same random numbers")
    half = BATCH // 2
    parts = torch.cat([once(0, half), once(half, BATCH)])
    assert_close(parts, whole, f"{what}, as a batch of {BATCH} and as two micro-batches of {half}")


def reload(module: nn.Module, fresh: nn.Module) -> nn.Module:
    """Load the state of `module` into `fresh` by way of a checkpoint file; returns `fresh`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.safetensors"
        tensor_files.save_tensors(path, stored_state.stored_state(module))
        stored_state.load_stored(fresh, tensor_files.load_tensors(path)[0], path)
    return fresh


def refuses(action: Callable[[], Any], what: str) -> None:
    """Assert that an action raises GankitError with an explanation."""
    try:
        action()
    except GankitError as error:
        message = str(error)
    else:
        raise AssertionError(f"{what}: no GankitError was raised")
    assert len(message) > 10, f"{what}: the message {message!r} does not explain anything"


def check_options(subject: Subject) -> None:
    """Options have types, help and defaults that survive a recipe; other arguments are those of the plugin's kind."""
    target = subject.target
    found = options.options_of(target)
    for option in found.values():
        assert option.help, f"{subject}: option {option.name!r} is not described under Args: in the docstring"
        assert option.nested is not None or option.type is not Any, (
            f"{subject}: option {option.name!r} has no type annotation"
        )
        assert not option.required or option.name in subject.spec, (
            f"{subject}: option {option.name!r} has no default; give it one, or name a value in `conformance`"
        )
    assert (inspect.getdoc(target) or "").split("Args:")[0].strip(), f"{subject} has no docstring"
    resolved = options.check(subject.kind, subject.spec)
    again = options.check(subject.kind, json.loads(json.dumps(resolved)))
    assert json.dumps(again) == json.dumps(resolved), (
        f"{subject}: options change on their way through a recipe"
    )
    parameters = inspect.signature(target).parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    supplied = [name for name in KINDS[subject.kind][2].split(", ") if name]
    assert len(positional) == len(supplied), (
        f"{subject}: its constructor must take ({', '.join(supplied) or 'nothing'}) by position and its options by "
        f"keyword (after a *), not ({', '.join(p.name for p in positional)})"
    )


def check_unknown_option(subject: Subject) -> None:
    """A misspelt option is refused before anything is built."""
    refuses(
        lambda: options.check(subject.kind, {**subject.spec, "no_such_option": 1}),
        f"{subject}, unknown option",
    )


def check_base_class(subject: Subject) -> None:
    """The class derives from its contract and implements its abstract methods."""
    target, base = subject.target, getattr(interfaces, KINDS[subject.kind][0])
    if inspect.isclass(target):
        assert issubclass(target, base), f"{subject}: {target.__name__} must derive from {base.__name__}"
        missing = sorted(getattr(target, "__abstractmethods__", ()))
        assert not missing, f"{subject}: {target.__name__} lacks {', '.join(missing)}"
    else:
        assert callable(target), f"{subject}: the target is neither a class nor a function"


def check_incompatibility(subject: Subject) -> None:
    """`needs_labels` and `conflicts` are well formed; `incompatibility` returns None, or a plugin and a reason."""
    needs = getattr(subject.target, "needs_labels", ())
    assert isinstance(needs, tuple), (
        f"{subject}: needs_labels must be a tuple of names of fields, not {needs!r}"
    )
    for other, reason in getattr(subject.target, "conflicts", {}).items():
        kind, _, name = other.partition("/")
        named = kind in KINDS and bool(name)
        assert named, f"{subject}: conflicts names {other!r}, not 'kind/name'"
        assert reason, f"{subject}: conflicts gives no reason for {other!r}"
    assert not hasattr(subject.target, "unfit"), f"{subject}: `unfit` is called `incompatibility` now"
    ask = getattr(subject.target, "incompatibility", None)
    if ask is None:
        return
    classes = labels.Vocabulary(classes={"a": 1, "b": 1})
    for conditioner in ("none", "class"):
        for channels, height, width in subject.shapes:
            data = {"size": [height, width], "channels": channels}
            recipe = recipes.parse({"data": data, "conditioner": conditioner}, "a recipe of defaults")
            made = compatibility.compose(recipe, build.build_conditioner(recipe, classes))
            found = ask(options.check(subject.kind, subject.spec), made)
            sound = found is None or (isinstance(found, tuple) and len(found) == 2 and all(found))
            assert sound, (
                f"{subject}: incompatibility returns {found!r}, not None or what it cannot work with and why"
            )


CHECKS = [check_incompatibility, check_options, check_unknown_option, check_base_class]
