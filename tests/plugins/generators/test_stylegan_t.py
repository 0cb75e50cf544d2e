"""StyleGAN-T: generator and discriminator against the reference vectors, and what the paper promises of them."""

from __future__ import annotations

import copy

import pytest
import torch
from golden_utils import load_golden
from hypothesis import given, settings
from hypothesis import strategies as st

from gankit.core.interfaces.conditions import Condition, CondSpec
from gankit.errors import GankitError
from gankit.plugins.discriminators.stylegan_t import BatchNormLocal, StyleGANTDiscriminator, TokenHead
from gankit.plugins.features.timm_vit import TimmViT
from gankit.plugins.generators.stylegan_t import StyleGANT

TINY = {"channel_base": 128, "channel_max": 16, "num_res_blocks": 1, "z_dim": 8}
TINY_VIT = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 12, "num_heads": 2, "mlp_ratio": 2}


def tiny_vit(**changes):
    return TimmViT(pretrained=False, model_args={**TINY_VIT, **changes})


# ------------------------------------------------------------------------------------------------ generator


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


# -------------------------------------------------------------------------------------------- discriminator


def _check_head(case, head, state):
    head.load_state_dict(state)
    c = case.inputs["c"].clone().requires_grad_(True) if "c" in case.inputs else None
    x = case.inputs["x"].clone().requires_grad_(True)
    logits = head.eval().score(head.features(x), c)
    case.check("logits_eval", logits)
    inputs = {"dx": x, "dc": c} if c is not None else {"dx": x}
    grads = torch.autograd.grad(logits, list(inputs.values()), case.inputs["dlogits"])
    for name, grad in zip(inputs, grads):
        case.check(name, grad)
    case.check("logits_train", head.train().score(head.features(x), c))
    after = head.state_dict()
    for name in case.outputs:
        if name.startswith("after."):
            case.check(name, after[name.removeprefix("after.")])


@pytest.mark.parametrize("index", [0, 1, 2])
def test_heads_equal_reference(index):
    golden = load_golden("net_sgt_disc_heads")
    case = golden.cases[index]
    head = TokenHead(case.kwargs["channels"], case.kwargs["c_dim"], case.kwargs.get("cmap_dim", 64))
    _check_head(case, head, golden.state(f"state_{case.name}/"))


@pytest.mark.parametrize("name", ["net_sgt_d", "net_sgt_d_uncond"])
def test_discriminator_equals_reference(name):
    golden = load_golden(name)
    case, train = golden.cases
    images = case.inputs["img"].clone().requires_grad_(True)
    c = case.inputs.get("c")
    cond = CondSpec(c_dim=0 if c is None else c.shape[1])
    network = StyleGANTDiscriminator(
        tuple(images.shape[1:]), cond, feature=tiny_vit(), side=64, crop_probability=0
    )
    prefix = "dino.model.model."
    state = golden.state()
    backbone = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    network.dino.network.load_state_dict(backbone)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    assert torch.allclose(network.dino.scale.flatten(), 0.5 / std)
    assert torch.allclose(network.dino.shift.flatten(), (0.5 - mean) / std)
    network.heads.load_state_dict(
        {k.removeprefix("heads."): v for k, v in state.items() if k.startswith("heads.")}
    )

    for i, tokens in enumerate(network.eval().dino.token_maps(network._enter(images))):
        case.check(f"feat{i}", tokens)
    (logits,) = network(images, c)
    case.check("logits", logits)
    (gradient,) = torch.autograd.grad(logits.sum(), images)
    if "dimg" in case.outputs:
        case.check("dimg", gradient)
    else:
        case.check("dimg_sub4", gradient[:, :, ::4, ::4])

    (logits,) = network.train()(images, c)
    train.check("logits", logits)
    after = network.heads.state_dict()
    for key in train.outputs:
        if key.startswith("after."):
            train.check(key, after[key.removeprefix("after.")])


@settings(deadline=None, max_examples=25)
@given(batch=st.integers(1, 24), group=st.integers(1, 8))
def test_batch_norm_local_normalises_each_group(batch, group):
    x = torch.randn(batch, 3, 5) * 3 + 2
    y = BatchNormLocal(3, group)(x)
    size = max(n for n in range(1, group + 1) if batch % n == 0)
    for start in range(0, batch, size):
        part = x[start : start + size].transpose(0, 1).flatten(1)
        expected = (part - part.mean(1, keepdim=True)) / (
            part.var(1, correction=0, keepdim=True) + 1e-5
        ).sqrt()
        assert torch.allclose(y[start : start + size].transpose(0, 1).flatten(1), expected, atol=1e-4)


def test_large_images_are_cropped_with_one_coin():
    network = StyleGANTDiscriminator(
        (3, 96, 96), CondSpec(), feature=tiny_vit(), side=64, crop_probability=0.5
    )
    images = torch.arange(96.0).expand(2, 3, 96, 96)  # each column holds its own number
    cropped = 0
    torch.manual_seed(0)
    for _ in range(40):
        out = network._enter(images)
        assert out.shape == (2, 3, 64, 64)
        assert torch.equal(out[0], out[1])
        cropped += torch.equal(out, out.round())
    assert 8 < cropped < 32


def test_rectangular_images_and_several_conditions():
    network = StyleGANTDiscriminator((4, 32, 48), CondSpec(c_dim=5), feature=tiny_vit(), side=32).eval()
    assert network.entry == (32, 48)
    features = network.features(torch.rand(2, 4, 32, 48) * 2 - 1)
    c = torch.randn(2, 5)
    (one,) = network.score(features, Condition(c))
    (other,) = network.score(features, Condition(c.flip(0)))
    assert one.shape == (2, 5 * 2 * 3)
    assert not torch.allclose(one, other)
    assert network.score(features, c)[0].equal(one)


def test_discriminator_mistakes_are_explained():
    from gankit.plugins.features.timm_cnn import TimmCNN

    with pytest.raises(GankitError, match="token maps"):
        StyleGANTDiscriminator(
            (3, 32, 32), CondSpec(), feature=TimmCNN(model="test_resnet", pretrained=False)
        )
    with pytest.raises(GankitError, match="too few patches"):
        StyleGANTDiscriminator((3, 32, 32), CondSpec(), feature=tiny_vit(), side=16)
    network = StyleGANTDiscriminator((3, 32, 32), CondSpec(c_dim=4), feature=tiny_vit(), side=32)
    with pytest.raises(ValueError, match=r"\[B, 4\]"):
        network(torch.randn(1, 3, 32, 32))


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
