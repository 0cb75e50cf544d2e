"""StyleGAN-T's generator against the reference vectors, and what the paper promises of it."""

from __future__ import annotations

import copy

import pytest
import torch
from golden_utils import load_golden

from gankit.core.interfaces.conditions import Condition, CondSpec
from gankit.errors import GankitError
from gankit.plugins.generators.stylegan_t import StyleGANT

TINY = {"channel_base": 128, "channel_max": 16, "num_res_blocks": 1, "z_dim": 8}


@pytest.fixture(scope="module", params=["net_sgt_g", "net_sgt_g_defaults"])
def golden_generator(request):
    golden = load_golden(request.param)
    kwargs = golden.meta["init"]["kwargs"]
    synthesis = kwargs["synthesis_kwargs"]
    text_dim = golden.meta["init"]["text_dim"] if kwargs["conditional"] else 0
    size = kwargs["img_resolution"]
    network = StyleGANT(
        (kwargs["img_channels"], size, size),
        CondSpec(c_dim=text_dim),
        z_dim=kwargs["z_dim"],
        channel_base=synthesis["channel_base"],
        channel_max=synthesis["channel_max"],
        num_res_blocks=synthesis.get("num_res_blocks", 3),
        architecture="skip" if synthesis.get("architecture") == "skip" else "single",
        norm_groups=synthesis.get("gn_groups", 32),
    )
    network.load_state_dict(golden.state())
    assert network.num_ws == golden.meta["num_ws"]
    assert network.w_dim == golden.meta["w_dim"]
    return golden, network


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_generator_equals_reference(golden_generator, memory_format):
    golden, network = golden_generator
    network = network.to(memory_format=memory_format)
    for case in golden.cases:
        if case.name == "synth_grad":
            case.check("img", network.synthesis(case.inputs["ws"], noise_mode="const"))
            # in float64, since one leaky ReLU whose input rounds to the other side of 0 exceeds the tolerance
            double = copy.deepcopy(network).double()
            ws = case.inputs["ws"].double().requires_grad_(True)
            image = double.synthesis(ws, noise_mode="const")
            case.check("dws", torch.autograd.grad(image, ws, case.inputs["dimg"].double())[0])
        elif case.name != "x_avg_update":
            ws = network.mapping(
                case.inputs["z"],
                case.inputs.get("c"),
                truncation_psi=case.kwargs["mapping"].get("truncation_psi", 1),
            )
            case.check("ws", ws)
            noise_mode = case.kwargs["synthesis"]["noise_mode"]
            case.check("img", network.synthesis(ws, noise_mode=noise_mode))


def test_running_mean_equals_reference(golden_generator):
    golden, network = golden_generator
    case = next(case for case in golden.cases if case.name == "x_avg_update")
    before = network.mapping.x_avg.clone()
    network.mapping(case.inputs["z"], case.inputs.get("c"))
    assert torch.equal(network.mapping.x_avg, before)
    case.check("ws", network.mapping(case.inputs["z"], case.inputs.get("c"), update_emas=True))
    case.check("after.mapping.x_avg", network.mapping.x_avg)
    network.mapping.x_avg.copy_(before)


def test_truncation_is_per_prompt():
    network = StyleGANT((3, 16, 16), CondSpec(c_dim=5), **TINY)
    network.mapping.x_avg.copy_(torch.randn(8))
    z, c = torch.randn(3, 8), torch.randn(3, 5)
    full = network.mapping(z, Condition(c))
    mean = network.mapping(z, Condition(c), truncation_psi=0)
    assert torch.equal(mean[:, :, 8:], full[:, :, 8:])
    assert torch.allclose(mean[:, :, :8], network.mapping.x_avg.expand(3, network.num_ws, 8))
    early = network.mapping(z, c, truncation_psi=0, truncation_cutoff=2)
    assert torch.allclose(early[:, :2], mean[:, :2])
    assert torch.equal(early[:, 2:], full[:, 2:])


@pytest.mark.parametrize(
    ("shape", "c_dim", "cond_dim"), [((1, 8, 8), 0, None), ((4, 16, 24), 6, 3), ((3, 40, 20), 6, None)]
)
def test_shapes(shape, c_dim, cond_dim):
    network = StyleGANT(shape, CondSpec(c_dim=c_dim), cond_dim=cond_dim, **TINY)
    assert network.w_dim == 8 + (cond_dim or c_dim)
    c = torch.randn(2, c_dim) if c_dim else None
    images = network(torch.randn(2, 8), c)
    assert images.shape == (2, *shape)
    images.square().mean().backward()
    idle = {name for name, p in network.named_parameters() if p.grad is None}
    assert not idle


def test_longer_side_continues_the_pattern():
    """Fourier features of a wide image contain those of the square image in their middle."""
    square = StyleGANT((3, 8, 8), CondSpec(), **TINY).synthesis.b8.input
    wide = StyleGANT((3, 8, 16), CondSpec(), **TINY).synthesis.b8.input
    wide.load_state_dict(square.state_dict())
    w = torch.randn(2, 8)
    assert torch.allclose(wide(w)[:, :, :, 4:12], square(w), atol=1e-5)


def test_random_noise_is_keyed_by_sample():
    from gankit.core.runtime.random import batch_random

    network = StyleGANT((3, 16, 16), CondSpec(), **TINY).eval()
    for name, parameter in network.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(0.5)
    z = torch.randn(4, 8)
    with batch_random(0, total=4):
        whole = network(z)
    with batch_random(0, total=4, start=2):
        half = network(z[2:])
    assert torch.allclose(whole[2:], half, atol=1e-5)
    assert not torch.allclose(whole, network(z, noise_mode="none"), atol=1e-2)


def test_bf16_autocast_changes_little():
    network = StyleGANT((3, 16, 16), CondSpec(c_dim=3), **TINY)
    z, c = torch.randn(2, 8), torch.randn(2, 3)
    expected = network(z, c, noise_mode="const")
    with torch.autocast("cpu", torch.bfloat16):
        images = network(z, c, noise_mode="const")
    assert images.dtype == torch.float32
    assert (images - expected).abs().max() <= 0.05 * expected.abs().max()


def test_mistakes_are_explained():
    with pytest.raises(GankitError, match="at least 8"):
        StyleGANT((3, 5, 5), CondSpec(), **TINY)
    network = StyleGANT((3, 8, 8), CondSpec(c_dim=3), **TINY)
    with pytest.raises(ValueError, match=r"\[B, 3\]"):
        network(torch.randn(1, 8))
    with pytest.raises(GankitError, match="did you mean 'random'"):
        network.synthesis(torch.randn(1, network.num_ws, network.w_dim), noise_mode="randon")


def test_in_half_precision_coarse_blocks_stay_exact():
    torch.manual_seed(0)
    g = StyleGANT(
        (3, 256, 256), CondSpec(0), z_dim=8, channel_base=256, channel_max=4, num_res_blocks=1
    ).eval()
    seen = {}
    for name in g.synthesis.blocks:
        block = g.synthesis.get_submodule(name)
        block.register_forward_hook(lambda m, i, out, name=name: seen.update({name: out[0].dtype}))
    with torch.no_grad():
        images = g.synthesis(g.mapping(torch.randn(1, 8)).bfloat16(), noise_mode="const")
    half = {name for name, dtype in seen.items() if dtype == torch.bfloat16}
    assert half == {"b32", "b64", "b128", "b256"}
    assert seen.keys() - half == {"b8", "b16"}
    assert images.dtype == torch.float32
