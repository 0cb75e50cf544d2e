"""StyleGAN2's networks: official weights and outputs, sizes, conditions, noise, derivatives."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stylegan2_networks import SMALL, TINY, conditional_pair, official

from gankit.core.config.options import options_of
from gankit.core.interfaces.conditions import Condition, CondSpec
from gankit.core.nn.pyramid import levels
from gankit.core.runtime.random import batch_random
from gankit.errors import GankitError
from gankit.plugins.discriminators.stylegan2 import StyleGAN2Discriminator
from gankit.plugins.generators.stylegan2 import StyleGAN2

GENERATORS = [
    "net_sg2_g_orig",
    "net_sg2_g_resnet",
    "net_sg2_g_resnet_cond",
    "net_sg2_g_skip",
    "net_sg2_g_skip_cond",
]


# -------------------------------------------------------------------------------------------- official networks


@pytest.mark.parametrize("name", GENERATORS)
def test_generator_golden(name):
    generator, golden = official(name, StyleGAN2, {"num_layers": "mapping_layers"})
    assert generator.num_ws == golden.meta["num_ws"]
    generator.mapping.w_avg_beta = 0.995  # of the reference
    for case in golden.cases:
        if case.name == "synth_grad":
            ws = case.inputs["ws"].requires_grad_()
            parameters = dict(generator.synthesis.named_parameters())
            img = generator.synthesis(ws, noise_mode="const")
            gradients = torch.autograd.grad(img, [ws, *parameters.values()], case.inputs["dimg"])
            case.check("img", img)
            case.check("dws", gradients[0])
            for key, gradient in zip(parameters, gradients[1:]):
                case.check(f"dparam.synthesis.{key}", gradient)
            assert len(parameters) + 2 == len(case.outputs)
        elif case.name == "w_avg_update":
            network = copy.deepcopy(generator)
            case.check("ws", network.mapping(case.inputs["z"], case.inputs.get("c"), update_emas=True))
            case.check("after.mapping.w_avg", network.mapping.w_avg)
        else:
            ws = generator.mapping(case.inputs["z"], case.inputs.get("c"), **case.kwargs["mapping"])
            case.check("ws", ws)
            case.check("img", generator.synthesis(ws, noise_mode=case.kwargs["synthesis"]["noise_mode"]))
    assert len(golden.cases) == 7


@pytest.mark.parametrize(
    ("size", "channel_base", "g_count", "d_count"),
    [
        (256, 16384, 24_767_458, 24_001_089),
        (512, 32768, 30_276_583, 28_982_849),
        (1024, 32768, 30_370_060, 29_012_513),
    ],
)
def test_parameter_counts_of_the_papers(size, channel_base, g_count, d_count):
    def count(target):
        with torch.device("meta"):
            network = target((3, size, size), CondSpec(), channel_base=channel_base)
        return sum(p.numel() for p in network.parameters()), len(network.state_dict())

    generator, discriminator = count(StyleGAN2), count(StyleGAN2Discriminator)
    assert (generator[0], discriminator[0]) == (g_count, d_count)
    if size == 256:
        assert (generator[1], discriminator[1]) == (144, 64)


# --------------------------------------------------------------------------------------------- StyleGAN2-ext


def test_parameter_counts_of_stylegan2_ext():
    """The anime model of 512 pixels, a wider mapping and wider maps: 116.84 M with 4.20 M in the mapping, D 29.0 M."""
    shape, cond = (3, 512, 512), CondSpec()
    with torch.device("meta"):
        G = StyleGAN2(
            shape, cond, z_dim=1024, w_dim=1024, mapping_layers=4, channel_base=65536, channel_max=1024
        )
        D = StyleGAN2Discriminator(shape, cond, mbstd_group_size=32, mbstd_channels=4)
    counts = [sum(p.numel() for p in x.parameters()) / 1e6 for x in (G, G.mapping, D)]
    assert counts == pytest.approx([116.84, 4.20, 29.00], abs=0.006)
    assert [G.get_submodule(f"synthesis.b{r}.conv1").weight.shape[0] for r in (64, 128, 256, 512)] == [
        1024,
        512,
        256,
        128,
    ]


@pytest.mark.parametrize("c_dim", [0, 3])
def test_latents_of_stylegan2_ext_keep_their_length(c_dim):
    G = StyleGAN2((3, 8, 8), CondSpec(c_dim), **TINY)
    ext = StyleGAN2((3, 8, 8), CondSpec(c_dim), normalize_z=False, **TINY)
    ext.load_state_dict(G.state_dict())
    z, c = torch.randn(3, 8), torch.eye(3) if c_dim else None
    unit = z / z.square().mean(1, keepdim=True).sqrt()
    torch.testing.assert_close(ext.mapping(unit, c), G.mapping(z, c))
    assert not torch.allclose(ext.mapping(2 * z, c), ext.mapping(z, c))


# --------------------------------------------------------------------------------------------------- sizes


@settings(max_examples=15, deadline=None)
@given(
    start=st.tuples(st.integers(4, 7), st.integers(4, 10)),
    doublings=st.integers(0, 2),
    turned=st.booleans(),
    image_channels=st.sampled_from([1, 3, 4]),
    architecture=st.sampled_from(["skip", "resnet", "orig"]),
    c_dim=st.sampled_from([0, 3]),
)
def test_any_size_any_channels(start, doublings, turned, image_channels, architecture, c_dim):
    h, w = (side << doublings for side in (start[::-1] if turned else start))
    shape, cond = (image_channels, h, w), CondSpec(c_dim=c_dim)
    generator = StyleGAN2(shape, cond, architecture=architecture, **TINY)
    discriminator = StyleGAN2Discriminator(shape, cond, architecture=architecture, mapping_layers=1, **SMALL)
    c = torch.randn(3, c_dim) if c_dim else None
    for mode in ("random", "const", "none"):
        images = generator(torch.randn(3, 8), c, noise_mode=mode)
        assert images.shape == (3, *shape)
    (logits,) = discriminator(images, c)
    assert logits.shape == (3, 1)
    logits.sum().backward()
    assert all(p.grad is not None for p in discriminator.parameters())
    assert generator.num_ws == 2 * (levels(shape)[1] + 1)


@pytest.mark.parametrize(
    ("size", "message"), [((3, 64), "at least 4 pixels"), ((50, 65), "multiples of 4.*64x48 or 68x52")]
)
def test_impossible_sizes(size, message):
    with pytest.raises(GankitError, match=message):
        StyleGAN2((3, *size), CondSpec(), **TINY)
    with pytest.raises(GankitError, match=message):
        StyleGAN2Discriminator((3, *size), CondSpec(), **SMALL)


def test_too_few_channels():
    with pytest.raises(GankitError, match="channel_base 32 leaves no channels at resolution 64"):
        StyleGAN2((3, 64, 64), CondSpec(), channel_base=32)


# ------------------------------------------------------------------------------------- conditions, truncation


@pytest.fixture(scope="module")
def conditional():
    return conditional_pair()


def test_conditions_in_every_form(conditional):
    generator, discriminator = conditional
    z, c, images = torch.randn(4, 8), torch.randn(4, 5), torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(generator.mapping(z, c), generator.mapping(z, Condition(c)))
    assert not torch.allclose(generator.mapping(z, c), generator.mapping(z, c.flip(0)))
    torch.testing.assert_close(discriminator(images, c), discriminator(images, Condition(c)))
    with pytest.raises(ValueError, match="needs a condition with an embedding of width 5"):
        generator(z)
    with pytest.raises(ValueError, match="needs a condition"):
        discriminator(images, Condition())
    with pytest.raises(ValueError, match=r"must be \[B, 5\], not \[4, 6\]"):
        generator(z, torch.randn(4, 6))
    with pytest.raises(ValueError, match=r"z must be \[B, 8\]"):
        generator(torch.randn(4, 9), c)
    with pytest.raises(ValueError, match=r"images must be \[B, 3, 16, 16\]"):
        discriminator(torch.randn(4, 3, 16, 8), c)


def test_truncation(conditional):
    generator, _ = conditional
    z, c, center = torch.randn(4, 8), torch.randn(4, 5), torch.randn(4, 8)
    full = generator.mapping(z, c)
    w_avg = generator.mapping.w_avg
    half = generator.mapping(z, c, truncation_psi=0.5, truncation_cutoff=2)
    torch.testing.assert_close(half[:, :2], (full[:, :2] + w_avg) / 2)
    torch.testing.assert_close(half[:, 2:], full[:, 2:])
    for mean in (center, center[:1], center[0]):
        pulled = generator.mapping(z, c, truncation_psi=0.25, truncation_center=mean)
        torch.testing.assert_close(pulled, 0.25 * full + 0.75 * mean.expand(4, 8)[:, None])


def test_w_avg_moves_only_when_asked(conditional):
    generator = copy.deepcopy(conditional[0]).train()
    z, c, before = torch.randn(4, 8), torch.randn(4, 5), generator.mapping.w_avg.clone()
    w = generator.mapping(z, c)
    torch.testing.assert_close(generator.mapping.w_avg, before, rtol=0, atol=0)
    generator(z, c, update_emas=True)
    torch.testing.assert_close(generator.mapping.w_avg, 0.998 * before + 0.002 * w[:, 0].mean(0))


# --------------------------------------------------------------------------------------- noise, batches, dtypes


def test_images_do_not_depend_on_the_batch(conditional):
    generator, _ = conditional
    z, c = torch.randn(5, 8), torch.randn(5, 5)
    together = generator(z, c, noise_mode="const")
    alone = torch.cat([generator(z[i : i + 1], c[i : i + 1], noise_mode="const") for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_noise_modes(conditional):
    generator, _ = conditional
    ws = generator.mapping(torch.randn(1, 8), torch.randn(1, 5)).expand(4, -1, -1)
    random, const, none = (generator.synthesis(ws, noise_mode=mode) for mode in ("random", "const", "none"))
    assert (random[0] - random[1]).abs().max() > 1e-3
    assert (const[0] - const[1]).abs().max() < 1e-4
    assert (const - none).abs().max() > 1e-3
    with pytest.raises(GankitError, match="did you mean 'const'"):
        generator.synthesis(ws, noise_mode="constant")
    with batch_random("noise", total=4):
        whole = generator.synthesis(ws)
    with batch_random("noise", total=4, start=2, count=2):
        torch.testing.assert_close(generator.synthesis(ws[2:]), whole[2:], rtol=1e-4, atol=1e-4)


def test_without_noise_there_are_no_noise_tensors():
    generator = StyleGAN2((3, 8, 8), CondSpec(), use_noise=False, **TINY)
    assert not [name for name in generator.state_dict() if "noise" in name]
    z = torch.randn(2, 8)
    torch.testing.assert_close(generator(z), generator(z))


def test_autocast(conditional):
    """Half precision inside, float32 where it matters: styles, image, logits."""
    generator, discriminator = conditional
    z, c = torch.randn(4, 8), torch.randn(4, 5)
    seen = {}
    hooks = [
        generator.synthesis.b8.conv0.register_forward_hook(lambda m, i, o: seen.update(conv=o.dtype)),
        generator.synthesis.b8.conv0.affine.register_forward_hook(
            lambda m, i, o: seen.update(styles=o.dtype)
        ),
        discriminator.b16.register_forward_hook(lambda m, i, o: seen.update(block=o[0].dtype)),
    ]
    images = generator(z, c, noise_mode="const")
    (logits,) = discriminator(images, c)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half_images = generator(z, c, noise_mode="const")
        (half_logits,) = discriminator(images, c)
    for hook in hooks:
        hook.remove()
    assert seen == {"conv": torch.bfloat16, "styles": torch.float32, "block": torch.bfloat16}
    assert half_images.dtype == half_logits.dtype == torch.float32
    torch.testing.assert_close(half_images, images, rtol=0.1, atol=0.05 * images.abs().max().item())
    torch.testing.assert_close(half_logits, logits, rtol=0.1, atol=0.1 * logits.abs().max().item())


def test_channels_last_weights_keep_all_maps_channels_last(conditional):
    """Convolutions in channels-last are twice as fast on a CPU; no layer may fall back."""
    generator, discriminator = (
        copy.deepcopy(net).to(memory_format=torch.channels_last) for net in conditional
    )
    formats = []
    for module in [*generator.synthesis.modules(), *discriminator.modules()]:
        if type(module).__name__ in ("SynthesisLayer", "Conv2dLayer"):
            module.register_forward_hook(
                lambda m, i, o: formats.append(o.is_contiguous(memory_format=torch.channels_last))
            )
    z, c = torch.randn(4, 8), torch.randn(4, 5)
    images = generator(z, c, noise_mode="const")
    (logits,) = discriminator(images.contiguous(), c)
    assert formats == [True] * (5 + 8)
    expected = conditional[0](z, c, noise_mode="const")
    torch.testing.assert_close(images, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits, conditional[1](expected, c)[0], rtol=1e-3, atol=1e-3)


def test_odd_batches(conditional):
    _, discriminator = conditional
    for batch in (1, 3, 5, 6):
        assert discriminator(torch.randn(batch, 3, 16, 16), torch.randn(batch, 5))[0].shape == (batch, 1)


# -------------------------------------------------------------------------------------------------- derivatives


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
def test_r1_and_path_length_reach_every_parameter(architecture):
    torch.manual_seed(0)
    generator = StyleGAN2((3, 8, 8), CondSpec(), architecture=architecture, **TINY)
    ws = generator.mapping(torch.randn(2, 8))
    image = generator.synthesis(ws, noise_mode="const")
    (jacobian,) = torch.autograd.grad((image * torch.randn_like(image)).sum(), ws, create_graph=True)
    jacobian.square().sum().backward()
    flat = {name for name, p in generator.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    additive = {name for name in flat if name.endswith(("bias", "noise_strength"))}
    assert flat == additive  # piecewise linear: what is only added has no second derivative

    discriminator = StyleGAN2Discriminator((3, 8, 8), CondSpec(), architecture=architecture, **SMALL)
    x = torch.randn(4, 3, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(discriminator(x)[0].sum(), x, create_graph=True)
    gradient.square().sum().backward()
    weights = {name: p.grad for name, p in discriminator.named_parameters() if name.endswith("weight")}
    assert all(grad is not None and grad.abs().sum() > 0 for grad in weights.values())


def test_second_derivatives_are_right():
    torch.manual_seed(0)
    generator = StyleGAN2(
        (1, 4, 4), CondSpec(), z_dim=2, w_dim=2, mapping_layers=1, channel_base=8, channel_max=2
    ).double()
    discriminator = StyleGAN2Discriminator((1, 4, 4), CondSpec(), channel_base=8, channel_max=2).double()
    ws = torch.randn(2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda ws: generator.synthesis(ws, noise_mode="none"), ws)
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: discriminator(x)[0], x)


@pytest.mark.parametrize("target", [StyleGAN2, StyleGAN2Discriminator])
def test_every_option_is_explained(target):
    assert all(option.help and not option.required for option in options_of(target).values())
