"""FastGAN's generators: official weights and outputs, sizes, published parameter counts."""

from __future__ import annotations

import pytest
import torch
from golden_utils import load_golden

from gankit.core.interfaces.conditions import CondSpec
from gankit.errors import GankitError
from gankit.plugins.generators.fastgan import FastGAN, FastGANLite

TINY = {"z_dim": 8, "ngf": 4}


@pytest.mark.parametrize("name", ["net_fastgan_lite", "net_fastgan_lite_cond"])
def test_equals_reference(name):
    golden = load_golden(name)
    kwargs = golden.meta["init"]["kwargs"]
    side = kwargs["img_resolution"]
    G = FastGANLite(
        (3, side, side), CondSpec(kwargs["c_dim"]), z_dim=kwargs["z_dim"], ngf=kwargs["ngf"]
    ).eval()
    # the original makes the blocks of 256 pixels for smaller images, too, and does not use them
    state = {k: v for k, v in golden.state().items() if "_256." not in k}
    assert {k: v.shape for k, v in G.state_dict().items()} == {k: v.shape for k, v in state.items()}
    G.load_state_dict(state)
    (case,) = golden.cases
    case.check("img", G(case.inputs["z"], case.inputs.get("c")))


@pytest.mark.parametrize(
    ("network", "side", "c_dim", "millions"),
    [  # of the official code, for sizes at which it makes no block in vain
        (FastGAN, 256, 0, 105.68),
        (FastGAN, 512, 0, 105.87),
        (FastGAN, 1024, 0, 105.88),
        (FastGAN, 256, 1000, 110.53),
        (FastGANLite, 256, 0, 79.35),
        (FastGANLite, 512, 0, 79.52),
        (FastGANLite, 1024, 0, 79.53),
        (FastGANLite, 256, 1000, 81.90),
    ],
)
def test_parameter_counts(network, side, c_dim, millions):
    with torch.device("meta"):
        G = network((3, side, side), CondSpec(c_dim))
    assert sum(p.numel() for p in G.parameters()) / 1e6 == pytest.approx(millions, abs=0.006)


def test_official_names_of_the_big_blocks():
    names = set(FastGAN((3, 64, 64), CondSpec(), **TINY).state_dict())
    for part in ("1.weight_orig", "1.weight_u", "1.weight_v", "2.weight", "3.running_mean", "5.weight_orig"):
        assert f"synthesis.feat_8.{part}" in names
    names = set(FastGAN((3, 64, 64), CondSpec(5), **TINY).state_dict())
    for part in (
        "conv1.weight_orig",
        "conv2.weight_u",
        "bn1.gain.weight_orig",
        "bn2.bias.bias",
        "noise.weight",
    ):
        assert f"synthesis.feat_64.{part}" in names
    assert "synthesis.embed.weight" in names


@pytest.mark.parametrize("network", [FastGAN, FastGANLite])
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 96, 64), (4, 40, 56)])
@pytest.mark.parametrize("c_dim", [0, 3])
def test_sizes(network, shape, c_dim):
    G = network(shape, CondSpec(c_dim), **TINY).eval()
    c = torch.eye(3)[:2] if c_dim else None
    with torch.no_grad():
        assert G(torch.randn(2, 8), c).shape == (2, *shape)


@pytest.mark.parametrize("side", [4, 2048])
def test_refused_sizes(side):
    with pytest.raises(GankitError, match=f"{side}x{side}"), torch.device("meta"):
        FastGAN((3, side, side), CondSpec(), **TINY)


def test_noise_modes():
    G = FastGAN((3, 16, 16), CondSpec(), **TINY).eval()
    z = torch.randn(2, 8)
    with torch.no_grad():
        for name, parameter in G.named_parameters():
            if name.endswith(("2.weight", "6.weight")):
                parameter.fill_(0.5)
        none, const = G(z, noise_mode="none"), G(z, noise_mode="const")
        assert torch.equal(const, G(z, noise_mode="const"))
        assert not torch.allclose(none, const)
        assert not torch.allclose(const, G(z, noise_mode="random"))
        again = FastGAN((3, 16, 16), CondSpec(), **TINY).eval()
        again.load_state_dict(G.state_dict())
        assert torch.equal(again(z, noise_mode="const"), const)
    with pytest.raises(GankitError, match="noise mode"):
        G(z, noise_mode="some")


def test_scale_of_z_does_not_matter():
    G = FastGANLite((3, 16, 16), CondSpec(), **TINY).eval()
    z = torch.randn(2, 8)
    with torch.no_grad():
        torch.testing.assert_close(G(z), G(3 * z), rtol=1e-3, atol=1e-3)
        assert torch.equal(G.mapping(z)[:, 0], z)
