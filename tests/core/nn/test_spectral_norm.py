"""Spectral normalisation: torch's numbers, memory formats, equalised layers, continuing to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runs import assert_same, tensors_of, train
from torch import nn

from gankit.core.config import options
from gankit.core.interfaces.conditions import CondSpec
from gankit.core.nn.spectral_norm import SNConv2d, SNConvTranspose2d, SNLinear


@pytest.mark.parametrize(
    ("ours", "theirs", "shape", "dim"),
    [
        (SNLinear, nn.Linear, (6,), 0),
        (SNConvTranspose2d, lambda i, o: nn.ConvTranspose2d(i, o, 4), (6, 2, 2), 1),
    ],
)
def test_spectral_norm_equals_torch(ours, theirs, shape, dim):
    """Output, gradients and singular vectors after two training steps."""
    mine = ours(6, 5, 4) if dim else ours(6, 5)
    reference = nn.utils.spectral_norm(theirs(6, 5))
    reference.load_state_dict(mine.state_dict())
    for _ in range(2):
        x = torch.randn(3, *shape)
        results = []
        for network in (mine, reference):
            network.zero_grad()
            y = network(x)
            y.square().sum().backward()
            results.append((y.detach(), network.weight_orig.grad, network.weight_u, network.weight_v))
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
    mine.eval(), reference.eval()
    torch.testing.assert_close(mine(x), reference(x), rtol=1e-4, atol=1e-5)


def test_spectral_norm_does_not_depend_on_the_memory_format():
    conv = SNConv2d(6, 5, 4)
    other = SNConv2d(6, 5, 4)
    other.load_state_dict(conv.state_dict())
    other.to(memory_format=torch.channels_last)
    reference = torch.nn.utils.spectral_norm(nn.Conv2d(6, 5, 4))
    reference.load_state_dict(conv.state_dict())
    x = torch.randn(2, 6, 8, 8)
    for _ in range(3):
        expected = reference(x)
        assert torch.allclose(conv(x), expected, atol=1e-5)
        assert torch.allclose(other(x), expected, atol=1e-5)
    assert torch.allclose(other.weight_v, reference.weight_v, atol=1e-6)
    for _ in range(300):
        conv(x)
    largest = torch.linalg.matrix_norm(conv.weight_orig.flatten(1), 2).item()
    assert conv.sigma().item() == pytest.approx(largest, rel=1e-3)


def test_spectral_norm_of_equalised_layers() -> None:
    spec = {"name": "stylegan2", "channel_base": 128, "spectral_norm": True}
    D = options.build("discriminator", spec, (3, 16, 16), CondSpec(4)).train()
    images, cond = torch.randn(4, 3, 16, 16), torch.randn(4, 4)
    with torch.no_grad():
        for _ in range(100):
            D(images, cond)
        D.eval()
        for layer in (D.b16.fromrgb, D.b16.conv0, D.b16.skip, D.b8.conv1, D.b4.conv, D.b4.fc, D.b4.out):
            effective = (layer.weight * layer.weight_gain).flatten(1)
            assert torch.linalg.matrix_norm(effective, 2).item() == pytest.approx(1, abs=0.02)
    assert not hasattr(D.mapping.fc0, "parametrizations")
    D.train()
    images.requires_grad_()
    (gradient,) = torch.autograd.grad(D(images, cond)[0].sum(), images, create_graph=True)
    gradient.square().sum().backward()
    assert D.b8.conv0.parametrizations.weight.original.grad.isfinite().all()


def test_spectral_norm_continues_to_the_bit(images: Path, tmp_path: Path) -> None:
    options = {"discriminator.spectral_norm": True, "regularizers": {"r1": {"interval": 2}}}
    whole = train(tmp_path / "whole", images, **options, **{"train.images": 24})
    for length in (16, 24):
        parts = train(tmp_path / "parts", images, **options, **{"train.images": length})
    assert_same(whole, parts)
    assert any(name.endswith("b8.conv0.parametrizations.weight.0.u") for name in tensors_of(whole))
