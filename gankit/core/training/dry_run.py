"""`gankit train ... --dry-run`: the resolved recipe, a table of modules, and estimates of FLOPs and memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gankit.core.config import compatibility, options
from gankit.core.config.recipe import Recipe
from gankit.core.data.loader import open_source
from gankit.core.interfaces import contracts
from gankit.core.interfaces.labels import Label, Vocabulary
from gankit.core.models import stored_state
from gankit.core.training.assembly import rehearse
from gankit.core.training.footprint import META, NEEDS_NUMBERS, Footprint, Tally, footprint, meta_condition
from gankit.core.training.freezing import freeze
from gankit.core.training.optimizers import SECTIONS
from gankit.core.training.phases import Losses, Parts, Phase, build_phases

BATCH = 4  # the batch that runs through the networks to find output shapes
DEPTH = 2  # sub-modules are shown down to this depth: synthesis.b64
ASSUMED = 1000  # number of classes and of tags if no data set is given


def summarize(recipe: Recipe) -> str:
    """The resolved recipe as YAML and the description of its training, for every stage."""
    return "\n\n".join(sections(recipe))


def sections(recipe: Recipe) -> Iterator[str]:
    """Yield the sections of `summarize` one by one, as they are computed."""
    yield recipe.to_yaml().rstrip()
    count = len(recipe.stages)
    for index in range(count or 1):
        if count:
            yield f"--- stage {index + 1} of {count}"
        yield describe_training(recipe.at_stage(index))


def describe_training(recipe: Recipe) -> str:
    """Table of modules, FLOPs and memory estimate of a recipe, from networks on the meta device.

    If a plugin does not work there, the networks are built on the CPU and memory is not estimated."""
    notes = []
    if recipe.data.path is not None:
        vocabulary = open_source(recipe.data.path, recipe.data.options, recipe.packages).vocabulary()
    else:
        vocabulary = assumed_vocabulary(recipe)
    train = recipe.train
    micro = min(train.micro_batch or train.batch, train.batch)
    try:
        parts = rehearse(recipe, vocabulary)
        view = _View(parts)
        frozen = freeze(parts.trainable(), train.freeze)
        phases = build_phases(Losses(parts, train, bf16=False))
        with contracts.feature_networks(parts.modules().values()):
            costs = footprint(parts, recipe, micro, view.label)
    except NEEDS_NUMBERS:  # a plugin that reads tensor values
        view, costs = _View(rehearse(recipe, vocabulary, torch.device("cpu"))), None
        frozen = freeze(view.parts.trainable(), train.freeze)
        phases = build_phases(Losses(view.parts, train, bf16=False))
        notes.append("memory cannot be estimated: a plugin of this recipe does not work on the meta device")
    if recipe.data.path is None and view.parts.conditioner.accepts & {"cls", "tags"}:
        notes.insert(0, f"no data is given: {ASSUMED:,} classes and tags are assumed")
    parts, spec = view.parts, view.parts.conditioner.spec
    lines = [*_table(view.rows, ("module", "parameters", "stored", "FLOPs", "output")), ""]
    lines += [
        f"condition: {spec.c_dim} numbers" + (f" and tokens of {spec.token_dim}" if spec.token_dim else ""),
        f"images: {view.images}, logits an image: {view.logits}",
    ]
    if frozen:
        lines.append(f"not trained: {len(frozen)} tensors, such as {frozen[0]}")
    lines += ["", *_phase_table(phases, recipe, costs)]
    if costs is not None:
        lines += ["", *_costs(costs, view.flops)]
    statistics = [parts.G.batch_statistics, parts.D.batch_statistics]
    statistics += [regularizer.batch_statistics for regularizer in parts.regularizers.values()]
    if train.top_k < 1 or "top_k" in recipe.schedules.get("train", {}):
        statistics.append("top-k")
    if any(statistics):
        listed = ", ".join(dict.fromkeys(filter(None, statistics)))
        notes.append(f"micro-batches change the result of: {listed} (statistics over a batch)")
    if recipe.data.path is not None:
        notes.append(compatibility.unused_labels(vocabulary, parts.conditioner) or "")
    notes.append(compatibility.advice(recipe) or "")
    return "\n".join([*lines, *filter(None, notes)])


def assumed_vocabulary(recipe: Recipe) -> Vocabulary:
    """Classes and tags '0' to '999', the indices of ImageNet's classes, and the fields that the conditioner reads."""
    names = {str(i): ASSUMED for i in range(ASSUMED)}
    fields: dict[str, int] = {}
    with contextlib.suppress(*NEEDS_NUMBERS), META:
        fields = dict.fromkeys(options.build("conditioner", recipe.conditioner).examples(), ASSUMED)
    return Vocabulary(names, dict(names), ASSUMED, ASSUMED, fields)


@dataclass
class _View:
    """Shapes and FLOPs observed in a forward pass of one batch through G and D."""

    parts: Parts
    rows: list[tuple[str, ...]] = field(init=False)
    images: list[int] = field(init=False)  # (C, H, W) of a generated image
    logits: list[int] = field(init=False)  # logits for each image, for each of D's outputs
    flops: dict[str, float] = field(init=False)  # 'G' or 'D' -> FLOPs for each image

    def __post_init__(self) -> None:
        G, D = self.parts.G, self.parts.D
        device = next((p.device for p in G.parameters()), META)
        if device == META:
            cond = meta_condition(self.parts.conditioner.spec, BATCH)
        else:
            cond = self.parts.conditioner.augment(self.parts.conditioner.encode([Label()] * BATCH))
        # with gradients on a CPU: without them convolutions run in operators that Tally does not count
        with torch.set_grad_enabled(device != META):
            with _watched(G) as watch:
                images = G(torch.randn(BATCH, G.z_dim, device=device), cond)
            contracts.images(G, images, BATCH)
            rows, flops_g = _rows("G", G, watch), watch.total
            with _watched(D) as watch:
                logits = D(images, cond)
            contracts.logits(D, logits, BATCH)
            rows += _rows("D", D, watch)
        self.rows, self.flops = rows, {"G": flops_g, "D": watch.total}
        self.images, self.logits = list(images.shape[1:]), [x.shape[1] for x in logits]

    @property
    def label(self) -> Label:
        vocabulary = self.parts.conditioner.vocabulary()
        return Label(next(iter(vocabulary.classes), None), texts=("a picture",))


def _phase_table(phases: list[Phase], recipe: Recipe, costs: Footprint | None) -> list[str]:
    """The phases of a step in their order: what they train how often, FLOPs for each image that they see, memory."""
    rows: list[tuple[str, ...]] = []
    known = {cost.phase.name: cost for cost in costs.phases} if costs is not None else {}
    for phase in phases:
        numbers = sum(parameter.numel() for parameter in phase.parameters.values())
        cost = known.get(phase.name)
        rows.append(
            (
                phase.name,
                phase.side,
                "step" if phase.interval == 1 else f"{phase.interval} steps",
                f"{numbers:,}",
                getattr(recipe, SECTIONS[phase.side])["name"],
                " + ".join(phase.terms).replace("adversarial", recipe.loss["name"], 1),
                _si(cost.flops) if cost else "?",
                f"{_si(cost.peak)}B" if cost else "?",
            )
        )
    head = ("phase", "side", "every", "parameters", "optimizer", "loss", "FLOPs", "activations")
    return _table(rows, head)


def _table(rows: list[tuple[str, ...]], head: tuple[str, ...]) -> list[str]:
    numbers = ("parameters", "FLOPs")
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = []
    for row in [head, *rows]:
        cells = [c.rjust(w) if name in numbers else c.ljust(w) for name, c, w in zip(head, row, widths)]
        lines.append("  ".join(cells).rstrip())
    return lines


def _costs(costs: Footprint, flops: dict[str, float]) -> list[str]:
    lines = [
        f"FLOPs an image, two for a multiply-add: G {_si(flops['G'])}, D {_si(flops['D'])}, "
        f"training {_si(costs.flops)}",
        f"memory for {costs.images} images at once in fp32, estimated: {_si(costs.total)}B = "
        f"weights {_si(costs.weights)}B + gradients {_si(costs.gradients)}B + optimizers "
        f"{_si(costs.optimizer)}B + activations {_si(costs.activations)}B, those of the largest phase",
    ]
    if costs.not_counted:
        lines.append(f"without {', '.join(dict.fromkeys(costs.not_counted))}, which cannot be estimated")
    return lines


def _si(number: float) -> str:
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.3g} {unit}"
    return f"{number:.0f} "


class _Watch:
    """Output shapes and FLOPs for each image of sub-modules by name, filled in by a forward pass."""

    def __init__(self) -> None:
        self.shapes: dict[str, str] = {}
        self.flops: dict[str, float] = {}
        self.total = 0.0


@contextlib.contextmanager
def _watched(module: nn.Module) -> Iterator[_Watch]:
    watch = _Watch()
    started: dict[str, int] = {}
    tally = Tally()

    def before(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any) -> None:
            started.setdefault(name, tally.flops)

        return hook

    def after(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if name not in watch.shapes:
                watch.shapes[name] = _shape(output)
                watch.flops[name] = (tally.flops - started[name]) / BATCH

        return hook

    shown = [(name, child) for name, child in module.named_modules() if name and name.count(".") < DEPTH]
    hooks = [child.register_forward_pre_hook(before(name)) for name, child in shown]
    hooks += [child.register_forward_hook(after(name)) for name, child in shown]
    try:
        with tally:
            yield watch
    finally:
        for handle in hooks:
            handle.remove()
    watch.total = watch.flops[""] = tally.flops / BATCH


def _shape(output: Any) -> str:
    if isinstance(output, Tensor):
        return str(list(output.shape))
    if isinstance(output, (list, tuple)):
        return " ".join(filter(None, map(_shape, output)))
    return ""


def _rows(prefix: str, module: nn.Module, watch: _Watch) -> list[tuple[str, ...]]:
    """Table rows of the modules with parameters that ran in the forward pass; a frozen network is one row."""
    frozen = stored_state.frozen_networks(module)
    rows: list[tuple[str, ...]] = []
    for name, child in module.named_modules():
        count = sum(p.numel() for p in child.parameters())
        inside = any(name.startswith(f"{path}.") for path in frozen)
        if (name and (name not in watch.shapes or not count)) or inside:
            continue
        stored = "by name and hash" if name in frozen else "yes"
        place = f"{prefix}.{name}" if name else prefix
        rows.append((place, f"{count:,}", stored, _si(watch.flops[name]), watch.shapes.get(name, "")))
    return rows
