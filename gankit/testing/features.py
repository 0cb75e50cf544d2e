"""Conformance checks of frozen feature networks."""

from __future__ import annotations

from typing import Any

import torch

from gankit.core.interfaces.networks import FeatureNetwork
from gankit.testing.common import Subject, assert_close, assert_finite
from gankit.testing.networks import random_images


def _entry(network: FeatureNetwork, at_least: int) -> int:
    """Smallest side that the network accepts and that is at least `at_least`."""
    return -(-at_least // network.input_multiple) * network.input_multiple


def check_feature_frozen(subject: Subject) -> None:
    """The network stays in eval mode, and no parameter is trained."""
    network: FeatureNetwork = subject.build()
    network.train()
    assert not any(m.training for m in network.modules()), f"{subject}: train() leaves eval mode"
    assert not any(p.requires_grad for p in network.parameters()), f"{subject}: its parameters are trained"


def check_feature_taps(subject: Subject) -> None:
    """Maps have the declared sizes, for square and rectangular images; gradients reach the images."""
    network = subject.build()
    side = _entry(network, 64)
    for height, width in ((side, side), (2 * side, side)):
        images = random_images((3, height, width), 2).requires_grad_(True)
        maps = network(images)
        assert len(maps) == len(network.taps), f"{subject}: {len(maps)} maps for {len(network.taps)} taps"
        for x, tap in zip(maps, network.taps):
            declared = (2, tap.channels, height // tap.stride, width // tap.stride)
            assert x.shape == declared, f"{subject}: a map is {list(x.shape)}, its tap says {list(declared)}"
            assert_finite(x, f"{subject}: a map")
        torch.stack([x.square().mean() for x in maps]).sum().backward()
        assert images.grad is not None, f"{subject}: no gradient reaches the images"
        assert images.grad.abs().max() > 0, f"{subject}: the gradient of the images is zero"


def check_feature_outputs(subject: Subject) -> None:
    """Pooled features and logits have the declared widths and do not depend on the rest of the batch."""
    network = subject.build()
    images = random_images((3, _entry(network, 64), _entry(network, 64)), 2)
    with torch.no_grad():
        pooled = network.pooled(images)
        assert pooled.shape == (2, network.num_pooled), f"{subject}: pooled is {list(pooled.shape)}"
        if network.num_logits:
            logits = network.logits(images)
            assert logits.shape == (2, network.num_logits), f"{subject}: logits are {list(logits.shape)}"
        alone = network.pooled(images[:1])
        assert_close(alone, pooled[:1], f"{subject}: an image alone and in a batch")


def check_feature_identity(subject: Subject) -> None:
    """Identities are equal exactly when the weights are."""
    one, two = subject.build(seed=0), subject.build(seed=1)
    assert {"name", "sha256"} <= one.identity().keys(), f"{subject}: identity() lacks name or sha256"
    assert one.name == one.identity()["name"], f"{subject}: identity() has another name than the network"
    same = all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values()))
    equal = one.identity() == two.identity()
    assert equal == same, f"{subject}: identity() does not tell equal weights from others"


CHECKS: dict[str, list[Any]] = {
    "feature": [check_feature_frozen, check_feature_taps, check_feature_outputs, check_feature_identity]
}
