"""`gankit train ... --dry-run`: the resolved recipe and a table of modules."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from gankit.core import checkpoint, composition, models
from gankit.core.data import open_source
from gankit.core.freezing import freeze
from gankit.core.labels import Label, Vocabulary
from gankit.core.recipe import Recipe
from gankit.core.schedules import Schedules
from gankit.core.trainer import build_parts

BATCH = 4  # the batch that runs through the networks to find output shapes
DEPTH = 2  # names of sub-modules that are shown: synthesis.b64


def summarize(recipe: Recipe) -> str:
    """Build the networks on the CPU, run a batch through them, and describe all of it."""
    vocabulary = Vocabulary()
    if recipe.data.path is not None:
        vocabulary = open_source(recipe.data.path, recipe.data.options).vocabulary()
    conditioner = models.build_conditioner(recipe, vocabulary)
    parts = build_parts(recipe, conditioner, torch.device("cpu"))
    Schedules(recipe, recipe.train, parts)  # refuses what cannot be moved
    frozen = freeze(parts.trainable(), recipe.train.freeze)
    with torch.no_grad():
        cond = conditioner.augment(conditioner.encode([Label()] * BATCH))
        with _shapes(parts.G) as shapes:
            images = parts.G(torch.randn(BATCH, parts.G.z_dim), cond)
        rows = _rows("G", parts.G, shapes)
        with _shapes(parts.D) as shapes:
            logits = parts.D(images, cond)
        rows += _rows("D", parts.D, shapes)
    lines = [recipe.to_yaml().rstrip(), ""]
    head = ("module", "parameters", "stored", "output")
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(4)]
    for row in [head, *rows]:
        lines.append(
            "  ".join(
                c.ljust(w) if i != 1 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))
            ).rstrip()
        )
    lines.append("")
    lines.append(
        f"condition: {conditioner.spec.c_dim} numbers"
        + (f" and tokens of {conditioner.spec.token_dim}" if conditioner.spec.token_dim else "")
    )
    lines.append(f"images: {list(images.shape[1:])}, logits an image: {[x.shape[1] for x in logits]}")
    if frozen:
        lines.append(f"not trained: {len(frozen)} tensors, such as {frozen[0]}")
    statistics = [parts.G.batch_statistics, parts.D.batch_statistics]
    statistics += [regularizer.batch_statistics for regularizer in parts.regularizers.values()]
    if recipe.train.top_k < 1 or "top_k" in recipe.schedules.get("train", {}):
        statistics.append("top-k")
    if any(statistics):
        lines.append(
            "micro-batches change the result of: "
            + ", ".join(filter(None, statistics))
            + " (statistics over a batch)"
        )
    if advice := composition.advice(recipe):
        lines.append(advice)
    return "\n".join(lines)


@contextlib.contextmanager
def _shapes(module: nn.Module) -> Iterator[dict[str, str]]:
    """Output shapes of sub-modules, filled in by the forward pass inside."""
    found: dict[str, str] = {}

    def remember(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            found.setdefault(name, _shape(output))

        return hook

    shown = [(name, child) for name, child in module.named_modules() if name and name.count(".") < DEPTH]
    hooks = [child.register_forward_hook(remember(name)) for name, child in shown]
    try:
        yield found
    finally:
        for handle in hooks:
            handle.remove()


def _shape(output: Any) -> str:
    if isinstance(output, torch.Tensor):
        return str(list(output.shape))
    if isinstance(output, (list, tuple)):
        return " ".join(filter(None, map(_shape, output)))
    return ""


def _rows(prefix: str, module: nn.Module, shapes: dict[str, str]) -> list[tuple[str, str, str, str]]:
    """Modules with parameters that took part; a frozen network is one row."""
    frozen = checkpoint.frozen_networks(module)
    rows = []
    for name, child in module.named_modules():
        count = sum(p.numel() for p in child.parameters())
        inside = any(name.startswith(f"{path}.") for path in frozen)
        if (name and (name not in shapes or not count)) or inside:
            continue
        stored = "by name and hash" if name in frozen else "yes"
        rows.append((f"{prefix}.{name}" if name else prefix, f"{count:,}", stored, shapes.get(name, "")))
    return rows
