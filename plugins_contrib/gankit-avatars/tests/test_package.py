"""The package registers its source, weights and recipes."""

from __future__ import annotations

from importlib.metadata import entry_points

import torch

import gankit_avatars
from gankit.core.interfaces.data import Source, WeightSource
from gankit_avatars.source import AvatarSource
from gankit_avatars.weights import PackagedWeights

torch.set_num_threads(1)


def test_registers():
    registered = {}
    gankit_avatars.gankit_register(lambda kind, name, target: registered.update({(kind, name): target}))
    assert registered["source", "avatars"] == "gankit_avatars.source:AvatarSource"
    assert registered["recipe", "avatars-tags"] == "gankit_avatars:recipes/avatars-tags.yaml"
    assert issubclass(AvatarSource, Source)
    assert issubclass(PackagedWeights, WeightSource)
    assert "gankit_avatars" in {entry.value for entry in entry_points(group="gankit")}
