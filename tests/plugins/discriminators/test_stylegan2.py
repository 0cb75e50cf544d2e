"""StyleGAN2's discriminator: official weights and outputs, scores of other conditions."""

from __future__ import annotations

import pytest
import torch
from stylegan2_networks import conditional_pair, official

from gankit.plugins.discriminators.stylegan2 import StyleGAN2Discriminator

DISCRIMINATORS = ["net_sg2_d_orig", "net_sg2_d_resnet", "net_sg2_d_resnet_cond", "net_sg2_d_skip"]


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_discriminator_golden(name):
    renamed = {"num_layers": "mapping_layers", "mbstd_num_channels": "mbstd_channels"}
    discriminator, golden = official(name, StyleGAN2Discriminator, renamed)
    for case in golden.cases:
        img = case.inputs["img"].requires_grad_()
        (logits,) = discriminator(img, case.inputs.get("c"))
        case.check("logits", logits)
        case.check("dimg", torch.autograd.grad(logits, img, case.inputs["dlogits"])[0])


@pytest.fixture(scope="module")
def conditional():
    return conditional_pair()


def test_score_of_other_conditions_reuses_features(conditional):
    _, discriminator = conditional
    images, c = torch.randn(4, 3, 16, 16), torch.randn(4, 5)
    features = discriminator.features(images)
    order = torch.tensor([2, 0, 3, 1])
    (scores,) = discriminator.score(features, c[order])
    torch.testing.assert_close(scores, discriminator(images, c[order])[0])
    torch.testing.assert_close(
        discriminator.score(features[order], c[order])[0], discriminator.score(features, c)[0][order]
    )
    assert not torch.allclose(scores, discriminator.score(features, c)[0])
