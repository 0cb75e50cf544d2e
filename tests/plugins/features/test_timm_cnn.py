"""Frozen convolutional networks from timm: taps, input range, folded norms, identity."""

from __future__ import annotations

import pytest
import timm
import torch

from gankit.core.runtime.tensor_files import sha256_of
from gankit.errors import GankitError
from gankit.plugins.features.timm_cnn import TimmCNN


@pytest.fixture(scope="module")
def lite0():
    return TimmCNN(pretrained=False)


def test_lite0_taps(lite0):
    """Section 2 of Projected GAN: widths 24, 40, 112, 320 at strides 4, 8, 16, 32."""
    assert [(t.channels, t.stride) for t in lite0.taps] == [(24, 4), (40, 8), (112, 16), (320, 32)]
    maps = lite0(torch.randn(2, 3, 64, 96))
    assert [tuple(x.shape) for x in maps] == [
        (2, t.channels, 64 // t.stride, 96 // t.stride) for t in lite0.taps
    ]
    assert lite0.input_multiple == 32
    assert lite0.pooled(torch.randn(2, 3, 64, 64)).shape == (2, lite0.num_pooled) == (2, 1280)
    assert lite0.logits(torch.randn(2, 3, 64, 64)).shape == (2, lite0.num_logits) == (2, 1000)


@pytest.mark.parametrize(
    "model", ["tf_efficientnet_lite0", "test_resnet", "mobilenetv3_small_050", "densenet121"]
)
def test_folded_norms_change_nothing(model):
    """timm's own model with the same weights and statistics gives the same maps."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        plain = timm.create_model(model, pretrained=False)
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    generator = torch.Generator().manual_seed(0)
    for module in plain.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    plain.eval()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "gankit.plugins.features.timm_models.find_state_dict", lambda hub_id: plain.state_dict()
        )
        folded = TimmCNN(model=model)
    norms = [m for m in folded.network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) < sum(isinstance(m, torch.nn.BatchNorm2d) for m in plain.modules())
    mean, std = (torch.tensor(plain.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    expected = plain.forward_intermediates(((images + 1) / 2 - mean) / std, intermediates_only=True)[-4:]
    for ours, theirs in zip(folded(images), expected):
        assert (ours - theirs).abs().max() <= 1e-3 * theirs.abs().max() + 1e-6
    assert folded.identity()["sha256"] == sha256_of(plain.state_dict())


def test_frozen_but_differentiable(lite0):
    assert not any(p.requires_grad for p in lite0.parameters())
    assert not lite0.train().training
    assert not any(m.training for m in lite0.modules())
    images = torch.randn(1, 3, 64, 64, requires_grad=True)
    sum(x.sum() for x in lite0(images)).backward()
    assert images.grad.abs().sum() > 0


def test_random_weights_follow_the_seed(lite0):
    again, other = TimmCNN(pretrained=False), TimmCNN(pretrained=False, seed=1)
    assert again.identity() == lite0.identity()
    assert other.identity()["sha256"] != lite0.identity()["sha256"]
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(again(images)[0], lite0(images)[0])


def test_building_does_not_disturb_other_random_numbers():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    TimmCNN(model="test_resnet", pretrained=False)
    assert torch.equal(torch.rand(3), expected)


def test_chosen_taps():
    network = TimmCNN(model="test_resnet", pretrained=False, taps=[1, 3])
    assert [(t.channels, t.stride) for t in network.taps] == [(32, 4), (192, 16)]
    assert [x.shape[1] for x in network(torch.randn(1, 3, 64, 64))] == [32, 192]
    with pytest.raises(GankitError, match="0 to 4"):
        TimmCNN(model="test_resnet", pretrained=False, taps=[7])
