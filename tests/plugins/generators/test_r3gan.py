"""R3GAN's generator: official weights, outputs, gradients; published parameter counts; options."""

from __future__ import annotations

import math

import pytest
import torch
from golden_utils import load_golden
from r3gan_networks import TINY, check_gradients, official

from gankit.core.interfaces.conditions import CondSpec
from gankit.core.models.warm_start import transfer
from gankit.errors import GankitError
from gankit.plugins.discriminators.r3gan import R3GANDiscriminator
from gankit.plugins.generators.r3gan import R3GAN


@pytest.mark.parametrize("name", ["net_r3gan_g_cond", "net_r3gan_g_uncond"])
def test_generator_equals_reference(name):
    golden = load_golden(name)
    G = official(golden.meta["init"]["kwargs"], golden.state())
    (case,) = golden.cases
    z = case.inputs["z"].requires_grad_()
    img = G(z, case.inputs.get("c"))
    case.check("img", img)
    img.backward(case.inputs["dimg"])
    case.check("dz", z.grad)
    check_gradients(case, G, "dparam.")


@pytest.mark.parametrize(
    ("side", "classes", "wide", "millions"),
    [  # the paper's table 6
        (32, 10, False, (20.78, 21.28)),
        (64, 0, False, (22.43, 22.38)),
        (256, 0, False, (23.06, 23.01)),
        (32, 1000, True, (82.91, 86.55)),
        (64, 1000, True, (103.57, 107.21)),
    ],
)
def test_parameter_counts(side, classes, wide, millions):
    options = {"widths": [1536] * 5, "group_width": 32} if wide else {}
    for network, count in zip((R3GAN, R3GANDiscriminator), millions):
        with torch.device("meta"):
            made = network((3, side, side), CondSpec(classes), **options)
        assert sum(p.numel() for p in made.parameters()) / 1e6 == pytest.approx(count, abs=0.006)


def test_initial_weights():
    """Blocks begin as the identity; their first convolutions are scaled by the number of blocks."""
    G = R3GAN((3, 32, 32), CondSpec(), widths=[256, 256, 256, 256], group_width=32)
    block = G.Model.MainLayers[1].Layers[1]
    x = torch.randn(2, 256, 8, 8)
    assert torch.equal(block(x), x)
    gain = math.sqrt(2 / 1.04) * 8**-0.25
    assert gain / math.sqrt(2 / 1.04) == pytest.approx(0.5946, abs=1e-4)
    assert block.LinearLayer1.Layer.weight.std().item() == pytest.approx(gain / 16, rel=0.01)
    assert block.LinearLayer2.Layer.weight.std().item() == pytest.approx(gain / math.sqrt(32 * 9), rel=0.01)


def test_mixed_precision_reaches_the_fine_stages_only():
    G = R3GAN((3, 16, 16), CondSpec(3), z_dim=8, bf16_stages=1, **TINY)
    D = R3GANDiscriminator((3, 16, 16), CondSpec(3), bf16_stages=1, **TINY)
    seen = {}
    for name, network in (("G", G), ("D", D)):
        for i, layers in enumerate(network.Model.MainLayers):
            layers.Layers[1].register_forward_hook(
                lambda _, __, y, key=(name, i): seen.__setitem__(key, y.dtype)
            )
    with torch.autocast("cpu", torch.bfloat16):
        images = G(torch.randn(2, 8), torch.eye(3)[:2])
        (logits,) = D(images, torch.eye(3)[:2])
    assert images.dtype == logits.dtype == torch.float32
    assert [seen["G", i] for i in range(3)] == [torch.float32, torch.float32, torch.bfloat16]
    assert [seen["D", i] for i in range(3)] == [torch.bfloat16, torch.float32, torch.float32]


def test_truncation_scales_z():
    G = R3GAN((3, 16, 16), CondSpec(), z_dim=8, **TINY)
    z = torch.randn(2, 8)
    assert torch.equal(G.mapping(z, truncation_psi=0.5)[:, 0], 0.5 * z)
    assert torch.equal(G.mapping(z, truncation_psi=0.5, truncation_cutoff=0)[:, 0], z)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": [16, 16]}, "widths has 2 entries; images of 16x16 pixels need 3"),
        ({"widths": [16, 16, 0]}, "each must be at least 1"),
        ({"widths": [16, 16, 16], "blocks": [1, 2]}, "blocks has 2 entries"),
        ({"widths": [16, 16, 12], "group_width": 16}, "group_width = 16 does not divide"),
    ],
)
@pytest.mark.parametrize("network", [R3GAN, R3GANDiscriminator])
def test_wrong_options(network, options, message):
    with pytest.raises(GankitError, match=message):
        network((3, 16, 16), CondSpec(), **options)


def test_an_unconditional_generator_becomes_conditional():
    """--init: at first it draws what the source draws, and the condition gets a gradient."""
    old = R3GAN((3, 16, 16), CondSpec(), z_dim=8, **TINY)
    new = R3GAN((3, 16, 16), CondSpec(3), z_dim=8, **TINY)
    transfer(new, old.state_dict())
    z = torch.randn(3, 8)
    images = new(z, torch.eye(3))
    torch.testing.assert_close(images, old(z))
    images.square().sum().backward()
    assert new.Model.MainLayers[0].Layers[0].LinearLayer.weight.grad[:, 8:].abs().max() > 0
