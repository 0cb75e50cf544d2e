"""FLOPs and memory against torch's own counters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from runs import TINY
from torch import nn

from gankit.core.config import recipe as recipes
from gankit.core.interfaces.labels import Label
from gankit.core.runtime import distributed
from gankit.core.runtime.devices import pick_device
from gankit.core.training.assembly import rehearse
from gankit.core.training.dry_run import assumed_vocabulary
from gankit.core.training.footprint import META, Tally, footprint
from gankit.core.training.step import Stepper


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
    parts = rehearse(recipe, assumed_vocabulary(recipe))
    estimate = footprint(parts, recipe, recipe.train.batch, Label())
    assert [cost.phase.name for cost in estimate.phases] == ["G", "path-length", "D"]

    device = pick_device("cpu")
    parts = rehearse(recipe, assumed_vocabulary(recipe), device)
    stepper = Stepper(parts, recipe, device, distributed.World(), bf16=False)
    images = torch.randn(recipe.train.batch, *recipe.image_shape).contiguous(
        memory_format=torch.channels_last
    )
    stepper.run(images, [Label()] * len(images))  # makes the optimizers' states
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
    states = [s for o in stepper.optimizers.values() for s in o.state.values()]
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
