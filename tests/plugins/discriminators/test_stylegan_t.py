"""StyleGAN-T's discriminator against the reference vectors; crops, groups, mistakes."""

from __future__ import annotations

import pytest
import torch
from golden_utils import load_golden
from hypothesis import given, settings
from hypothesis import strategies as st

from gankit.core.interfaces.conditions import Condition, CondSpec
from gankit.errors import GankitError
from gankit.plugins.discriminators.stylegan_t import BatchNormLocal, StyleGANTDiscriminator, TokenHead
from gankit.plugins.features.timm_vit import TimmViT

TINY_VIT = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 12, "num_heads": 2, "mlp_ratio": 2}


def tiny_vit(**changes):
    return TimmViT(pretrained=False, model_args={**TINY_VIT, **changes})


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
