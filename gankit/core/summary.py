"""`gankit train ... --dry-run`: the resolved recipe and a table of modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from gankit.core import models
from gankit.core.data import open_source
from gankit.core.interfaces import FeatureNetwork
from gankit.core.labels import Vocabulary
from gankit.core.recipe import Recipe
from gankit.core.trainer import build_parts

BATCH = 4  # the batch that runs through the networks to find output shapes


def summarize(recipe: Recipe) -> str:
    """Build the networks on the CPU, run a batch through them, and describe all of it."""
    vocabulary = Vocabulary()
    if recipe.data.path is not None:
        vocabulary = open_source(recipe.data.path, recipe.data.options).vocabulary()
    conditioner = models.build_conditioner(recipe, vocabulary)
    parts = build_parts(recipe, conditioner, torch.device("cpu"))
    rows: list[tuple[str, str, str, str]] = []
    with torch.no_grad():
        shapes = _record(parts.G, depth=2) | {}
        hooks = shapes.pop("hooks")
        cond = conditioner.augment(conditioner.encode([_nothing()] * BATCH))
        images = parts.G(torch.randn(BATCH, parts.G.z_dim), cond)
        rows += _rows("G", parts.G, shapes)
        for hook in hooks:
            hook.remove()
        shapes = _record(parts.D, depth=2)
        hooks = shapes.pop("hooks")
        logits = parts.D(images, cond)
        rows += _rows("D", parts.D, shapes)
        for hook in hooks:
            hook.remove()
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
    statistics = [parts.D.batch_statistics, *(r.batch_statistics for r in parts.regularizers.values())]
    if any(statistics):
        lines.append(
            "micro-batches change the result of: "
            + ", ".join(filter(None, statistics))
            + " (statistics over a batch)"
        )
    return "\n".join(lines)


def _nothing() -> Any:
    from gankit.core.labels import Label

    return Label()


def _record(module: nn.Module, depth: int) -> dict[str, Any]:
    """Output shapes of sub-modules down to `depth` names, filled in by the next forward pass."""
    found: dict[str, Any] = {"hooks": []}

    def remember(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            found.setdefault(name, _shape(output))

        return hook

    for name, child in module.named_modules():
        if name and name.count(".") < depth:
            found["hooks"].append(child.register_forward_hook(remember(name)))
    return found


def _shape(output: Any) -> str:
    if isinstance(output, torch.Tensor):
        return str(list(output.shape))
    if isinstance(output, (list, tuple)):
        return " ".join(_shape(item) for item in output if isinstance(item, (torch.Tensor, list, tuple)))
    return ""


def _rows(prefix: str, module: nn.Module, shapes: dict[str, str]) -> list[tuple[str, str, str, str]]:
    rows = []
    for name, child in module.named_modules():
        if name and name not in shapes:
            continue
        count = sum(p.numel() for p in child.parameters())
        if name and not count:
            continue
        inside_frozen = any(
            isinstance(parent, FeatureNetwork) and name.startswith(f"{path}.")
            for path, parent in module.named_modules()
        )
        if inside_frozen:
            continue
        stored = "frozen, referenced" if isinstance(child, FeatureNetwork) else ""
        rows.append((f"{prefix}.{name}" if name else prefix, f"{count:,}", stored, shapes.get(name, "")))
    return rows
