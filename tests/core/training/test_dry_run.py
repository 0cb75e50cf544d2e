"""`--dry-run`: every recipe at full size without weights; FLOPs and memory against torch's own counters."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from runs import TINY, Result
from torch import nn

from gankit.core.config import recipe as recipes
from gankit.core.config.registry import registry
from gankit.core.interfaces.labels import Label
from gankit.core.runtime import distributed
from gankit.core.runtime.devices import pick_device
from gankit.core.training.assembly import rehearse
from gankit.core.training.dry_run import assumed_vocabulary, describe_training, summarize
from gankit.core.training.footprint import META, Tally, footprint
from gankit.core.training.step import Stepper

NAMES = sorted(registry().names("recipe"))
PARTS = ("weights", "gradients", "Adam", "activations")
UNITS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def number(text: str, before: str) -> float:
    """The number with a unit that stands behind `before`."""
    found = re.search(rf"{re.escape(before)} +([\d.]+) ?([kMGT]?)", text)
    assert found, f"{before!r} is not in: {text}"
    return float(found.group(1)) * UNITS[found.group(2)]


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_at_full_size_without_weights(
    name: str, gankit_cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a dry run looks for weights")

    if not registry().get("recipe", name).package.startswith("gankit-"):  # whose text encoder is installed
        monkeypatch.setattr("gankit.core.models.pretrained._sources", refuse)
    recipe = recipes.read(name)
    if recipe.stages:  # the first and the last of them, as they take their time
        texts = [describe_training(recipe.at_stage(stage)) for stage in (0, -1)]
    else:
        result = gankit_cli("train", name, "--dry-run")
        assert (result.code, result.err) == (0, "")
        texts = [result.out]
    for text in texts:
        assert "cannot be estimated" not in text
        assert "no installed recipe combines" not in text
        total = number(text, "estimated:")
        parts = [number(text, f"= {part}" if part == "weights" else part) for part in PARTS]
        assert sum(parts) == pytest.approx(total, rel=0.01)
        assert all(parts)
        assert number(text, "training") > number(text, "multiply-add: G") + number(text, ", D")


def test_every_stage_is_described(gankit_cli: Callable[..., Result]) -> None:
    result = gankit_cli("train", "stylegan-xl-small", "--tiny", "--dry-run")
    assert (result.code, result.err) == (0, "")
    page, first, second = re.split(r"^--- stage \d of 2$", result.out, flags=re.MULTILINE)
    assert yaml.safe_load(page)["name"] == "stylegan-xl-small-tiny"
    assert "images: [3, 16, 16]" in first
    assert "images: [3, 32, 32]" in second
    assert "not trained" in second
    assert "not trained" not in first


def test_flops_of_layers() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 16 * 16, 5, bias=False))
    layers.to(META)
    with Tally() as forward:
        y = layers(torch.empty(2, 3, 16, 16, device=META))
    assert forward.flops == 2 * 2 * (16 * 16 * 8 * 3 * 9 + 8 * 16 * 16 * 5)
    with Tally() as backward:
        y.sum().backward()
    conv, linear = 16 * 16 * 8 * 3 * 9, 8 * 16 * 16 * 5
    assert backward.flops == 2 * 2 * (conv + 2 * linear)  # no gradient to the images


@pytest.mark.parametrize("layer", [nn.Conv2d, nn.ConvTranspose2d])
def test_flops_of_grouped_convolutions(layer: type[nn.Module]) -> None:
    conv = layer(8, 16, 3, stride=2, padding=1, groups=4).to(META)
    x = torch.empty(2, 8, 16, 16, device=META, requires_grad=True)
    places = 8 * 8 if layer is nn.Conv2d else 16 * 16  # where the kernel is laid
    once = 2 * 2 * places * 16 * 8 * 9 // 4
    with Tally() as forward:
        y = conv(x)
    assert forward.flops == once
    with Tally() as backward:
        y.sum().backward()
    assert backward.flops == 2 * once


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_memory_is_freed_with_the_last_use(device: str) -> None:
    with Tally() as tally:
        a = torch.ones(1000, device=device)
        b = a * 2
        view = b.view(10, 100)[3:]
        b.add_(1)
        assert (tally.now, tally.peak) == (8000, 8000)
        del a, b
        assert (tally.now, tally.peak) == (4000, 8000)
        del view
        c = torch.ones(500, device=device)
        assert (tally.now, tally.peak) == (2000, 8000)
        del c
    assert tally.now == 0


def test_activations_are_those_that_autograd_saves() -> None:
    """Two layers whose inputs backward needs, and outputs that it does not."""
    layers = nn.Sequential(nn.Linear(100, 200, bias=False), nn.Linear(200, 300, bias=False)).to(META)
    for parameter in layers.parameters():
        parameter.grad = torch.empty_like(parameter)
    x = torch.empty(16, 100, device=META)
    with Tally() as tally:
        hidden = layers[0](x)
        y = layers[1](hidden)
        assert tally.now == 4 * 16 * (200 + 300)
        del hidden
        assert tally.now == 4 * 16 * (200 + 300)  # autograd keeps it
        loss = y.square().mean()
        loss.backward()
    assert tally.peak > 4 * (16 * (200 + 300) + 200 * 300)  # a gradient before it is added up


CHANGES = {
    **TINY,
    "data.size": 32,
    "generator.channel_base": 2048,
    "discriminator.channel_base": 2048,
    "generator.w_dim": 64,
    "train.batch": 16,
    "regularizers.r1.interval": 1,
    "augmentation": None,
}


def test_the_estimate_is_near_what_torch_allocates() -> None:
    """One training step on the CPU under torch's profiler; gradients and activations come and go in it."""
    recipe = recipes.read("stylegan2", CHANGES)
    parts = rehearse(recipe, assumed_vocabulary())
    estimate = footprint(parts, recipe.train.batch, Label())
    assert [phase.name for phase in estimate.phases] == ["D", "G", "path-length"]

    device = pick_device("cpu")
    parts = rehearse(recipe, assumed_vocabulary(), device)
    stepper = Stepper(parts, recipe, device, distributed.World(), bf16=False)
    images = torch.randn(recipe.train.batch, *recipe.image_shape).contiguous(
        memory_format=torch.channels_last
    )
    stepper.run(images, [Label()] * len(images))  # makes the optimisers' states
    stepper.step = 0
    activity = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activity, profile_memory=True) as profile:
        stepper.run(images, [Label()] * len(images))
    now = peak = 0
    for event in sorted(_allocations(profile), key=lambda event: event.start_time_ns):
        now += event.extra_fields.alloc_size
        peak = max(peak, now)
    assert peak == pytest.approx(estimate.gradients + estimate.activations, rel=0.2)

    weights = [parts.G, parts.G, parts.D, *parts.regularizers.values()]
    tensors = [t for module in weights for t in [*module.parameters(), *module.buffers()]]
    assert estimate.weights == sum(t.numel() * t.element_size() for t in tensors)
    states = [s for o in (stepper.opt_g, stepper.opt_d) for s in o.state.values()]
    moments = [s[name] for s in states for name in ("exp_avg", "exp_avg_sq")]
    assert estimate.optimizer == sum(t.numel() * t.element_size() for t in moments)


def _allocations(profile: torch.profiler.profile) -> list[Any]:
    from torch._C._profiler import _EventType

    found, todo = [], list(profile.profiler.kineto_results.experimental_event_tree())
    while todo:
        event = todo.pop()
        todo += event.children
        if event.tag == _EventType.Allocation:
            found.append(event)
    return found


def test_memory_grows_with_the_micro_batch_only() -> None:
    def memory(**changes: Any) -> tuple[float, float]:
        text = summarize(recipes.read("stylegan2", {**TINY, **changes}))
        return number(text, "activations"), number(text, "weights")

    whole = memory(**{"train.batch": 32})
    split = memory(**{"train.batch": 32, "train.micro_batch": 8})
    assert split[1] == whole[1]
    assert split[0] < whole[0] / 3
    assert memory(**{"train.batch": 8, "train.micro_batch": 32}) == split


def test_parts_that_look_at_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    from gankit.plugins.generators.stylegan2 import SynthesisNetwork
    from gankit.plugins.regularizers.r1 import R1

    penalty, forward = R1.penalty, SynthesisNetwork.forward

    def curious_penalty(self: R1, step: Any) -> torch.Tensor:
        step.real.sum().item()
        return penalty(self, step)

    def curious_forward(self: SynthesisNetwork, ws: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        ws.sum().item()
        return forward(self, ws, *rest, **options)

    recipe = recipes.read("stylegan2", {**TINY, "regularizers.path-length": False})
    monkeypatch.setattr(R1, "penalty", curious_penalty)
    text = summarize(recipe)
    assert "without r1, which cannot be estimated" in text
    assert "memory for 8 images" in text
    monkeypatch.setattr(SynthesisNetwork, "forward", curious_forward)
    flops = number(text, "multiply-add: G")
    text = summarize(recipe)
    assert "memory cannot be estimated" in text
    row = next(line for line in text.splitlines() if line.startswith("G  "))
    assert number(row, "yes") == pytest.approx(flops, rel=0.01)
    assert "memory for 8 images" not in text
    assert "[4, 3, 16, 16]" in text


def test_classes_of_the_data_count(images: Path) -> None:
    def table(**changes: Any) -> str:
        return summarize(recipes.read("stylegan2-class", {**TINY, **changes}))

    assert "condition: 2 numbers" in table(**{"data.path": str(images)})
    assumed = table()
    assert "condition: 1000 numbers" in assumed
    assert "no data is given: 1,000 classes and tags are assumed" in assumed
