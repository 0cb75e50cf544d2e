"""Moving averages of weights: rules, buffers, frozen networks, state."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from gankit.core.config.recipe import TrainOptions
from gankit.core.interfaces.networks import Pretrained
from gankit.core.models.moving_average import MovingAverage, half_life
from gankit.errors import GankitError


def network() -> nn.Module:
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    module.frozen = Pretrained("stem", nn.Linear(4, 4))
    return module


def test_half_life_and_ramp() -> None:
    decay = half_life(TrainOptions(ema_kimg=1.0, ema_rampup=None))
    assert decay(5000, 1000) == 0.5
    ramp = half_life(TrainOptions(ema_kimg=1.0, ema_rampup=0.5))
    assert ramp(300, 100) == 0.5  # half of the 200 images before the step
    assert ramp(100, 100) == 0  # the first step


def test_the_options_are_read_in_every_step() -> None:
    train = TrainOptions(ema_kimg=1.0, ema_rampup=None)
    decay = half_life(train)
    train.ema_kimg = 2.0
    assert decay(5000, 2000) == 0.5


def test_weights_are_averaged_buffers_copied_and_frozen_networks_shared() -> None:
    raw = network()
    average = MovingAverage({"g": raw}, lambda images, batch: 0.75)
    mine = average.networks["g"]
    assert not mine.training
    assert not any(p.requires_grad for p in mine.parameters())
    start = mine[0].weight.clone()
    with torch.no_grad():
        raw[0].weight.add_(1)
        raw[1].running_mean.add_(2)
    average.update(8, 8)
    torch.testing.assert_close(mine[0].weight, start + 0.25)
    assert torch.equal(mine[1].running_mean, raw[1].running_mean)
    assert mine.frozen is raw.frozen


def test_its_state_restores_it() -> None:
    raw = network()
    average = MovingAverage({"g": raw}, lambda images, batch: 0.5)
    average.start = 100
    with torch.no_grad():
        raw[0].weight.add_(1)
    average.update(108, 8)
    state = copy.deepcopy(average.state_dict())
    assert not any("frozen" in name for name in state["networks"]["g"])
    other = MovingAverage({"g": network()}, lambda images, batch: 0.5)
    other.load_state_dict(state)
    assert other.start == 100
    assert torch.equal(other.networks["g"][0].weight, average.networks["g"][0].weight)
    del state["networks"]["g"]["0.weight"]
    with pytest.raises(GankitError, match=r"here, average of the g, does not fit Sequential .*'0\.weight'"):
        other.load_state_dict(state, "here")
