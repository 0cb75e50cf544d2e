"""Projected GAN's discriminator: reference vectors, sizes, options, gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from golden_utils import load_golden
from projected_networks import Pyramid, renamed
from torch import nn

from gankit.core.interfaces.conditions import Condition, CondSpec
from gankit.errors import GankitError
from gankit.plugins.discriminators.heads import Head, head_plan
from gankit.plugins.discriminators.projected import ProjectedDiscriminator, ProjectedFeatures
from gankit.plugins.features.inception import Inception

# ------------------------------------------------------------------------------------------ reference vectors


@pytest.mark.parametrize("name", ["net_pg_d_ccm", "net_pg_d_csm", "net_pg_d_csm_cond"])
def test_projections_and_heads_equal_reference(name):
    """From the stored feature maps on; the reference's own backbone is a stand-in."""
    golden = load_golden(name)
    case = golden.cases[0]
    options = golden.meta["init"]["kwargs"]["backbone_kwargs"]
    single = golden.meta["init"]["single_disc"]
    features = [case.outputs[f"feat{i}"] for i in range(4)]
    projector = ProjectedFeatures(
        Pyramid(tuple(x.shape[1] for x in features)),
        proj_type=options["proj_type"],
        cout=options["cout"],
        expand=options["expand"],
    )
    state = golden.state()
    scratch = "feature_network.scratch."
    projector.scratch.load_state_dict(
        {k.removeprefix(scratch): v for k, v in state.items() if k.startswith(scratch)}
    )
    assert [x.channels for x in projector.outputs] == golden.meta["init"]["channels"]
    maps = projector.project(features)
    for i, x in enumerate(maps):
        case.check(f"{'csm' if options['proj_type'] == 2 else 'ccm'}{i}", x)

    heads = nn.ModuleList()
    for i, nominal in enumerate(golden.meta["init"]["resolutions"][: options["num_discs"]]):
        widths = [single["ndf"]] * len(head_plan(nominal, nominal)[0])
        condition = {"c_dim": 0}
        if options["cond"]:
            condition = {
                "c_dim": single["c_dim"],
                "cmap_dim": single["cmap_dim"],
                "embed_dim": single["embedding_dim"],
            }
        heads.append(Head(maps[i].shape[1], widths, 4, separable=options["separable"], **condition))
    prefix = "discriminator.mini_discs."
    heads.load_state_dict(renamed(state, prefix))
    c = case.inputs.get("c")

    def logits():
        return torch.cat([head.score(head.features(x), c).flatten(1) for head, x in zip(heads, maps)], dim=1)

    heads.eval()
    case.check("logits", logits())
    for train in golden.cases[1:]:
        heads.train()
        train.check("logits", logits())
        after = heads.state_dict()
        checked = [key for key in train.outputs if key.startswith("after.")]
        assert checked
        for key in checked:
            train.check(key, after[key.removeprefix(f"after.{prefix}")])


# --------------------------------------------------------------------------------------------- the discriminator


@pytest.mark.parametrize(
    ("shape", "side", "entry", "logits"),
    [
        ((3, 64, 64), 64, (64, 64), 4),
        ((1, 64, 64), 128, (128, 128), 4),
        ((4, 32, 48), 64, (64, 96), None),
        ((3, 32, 32), 32, (32, 32), 4),
        (
            (3, 72, 72),
            64,
            (64, 64),
            4,
        ),  # enters as it is, but for the nearest multiple of the coarsest stride
        ((3, 160, 128), 64, (160, 128), None),
    ],
)
def test_sizes(shape, side, entry, logits):
    network = ProjectedDiscriminator(shape, CondSpec(), feature=Pyramid(), side=side, cout=8)
    assert network.entry == entry
    images = torch.randn(2, *shape, requires_grad=True)
    (y,) = network(images)
    assert y.shape[0] == 2
    assert logits is None or y.shape[1] == logits
    y.sum().backward()
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize("proj_type", [0, 1, 2])
@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_options(proj_type, separable, norm):
    network = ProjectedDiscriminator(
        (3, 64, 64),
        CondSpec(),
        feature=Pyramid(),
        side=64,
        cout=8,
        proj_type=proj_type,
        separable=separable,
        norm=norm,
    )
    assert network.batch_statistics == ("batch norm" if norm == "batch" else "")
    images = torch.randn(3, 3, 64, 64)
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert all(name.startswith("discriminator.mini_discs.") for name in trained)
    before = copy.deepcopy(network.state_dict())
    (logits,) = network(images)
    logits.sum().backward()
    network.load_state_dict(before)  # singular vectors move with each forward in training mode
    (others,) = network(torch.cat([images[:1], torch.randn(2, 3, 64, 64)]))
    assert torch.allclose(logits[0], others[0], atol=1e-5) == (norm != "batch")
    assert all(p.grad is not None for name, p in network.named_parameters() if name in trained)


def test_patches():
    """Every scale has one down block: many logits, each of a small part of the image."""
    network = ProjectedDiscriminator((3, 64, 64), CondSpec(), feature=Pyramid(), side=64, cout=8, patch=True)
    assert [len(head.main) for head in network.heads] == [2] * 4
    (logits,) = network(torch.randn(2, 3, 64, 64))
    sides = [64 // stride // 2 - 3 for stride in (2, 4, 8)]  # the coarsest map of 4x4 leaves a kernel of 2x2
    assert logits.shape == (2, sum(side**2 for side in sides) + 1)


def test_scales_mixed_as_the_paper_describes():
    """s_l = A_l(up2(u(s_(l+1) + u(c_l)))) with residual units u, and no lateral one at the coarsest scale."""
    torch.manual_seed(0)
    projected = ProjectedFeatures(Pyramid(), proj_type=2, cout=8, expand=True, residual_csm=True)
    assert not any(p.requires_grad for p in projected.parameters())
    maps = projected.pretrained(torch.randn(2, 3, 64, 64))
    mixed = projected.project(maps)
    scratch = projected.scratch
    below = None
    for level in (3, 2, 1, 0):
        csm = scratch[f"layer{level}_csm"]
        x = scratch[f"layer{level}_ccm"](maps[level])
        if below is not None:
            x = x + csm["lateral_unit"].conv(x) + below
        else:
            assert "lateral_unit" not in csm
        x = x + csm["sum_unit"].conv(x)
        up = nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        below = csm["out_conv"](up)
        torch.testing.assert_close(mixed[level], below, rtol=1e-4, atol=1e-4)


def test_condition_is_scored_apart_from_features():
    network = ProjectedDiscriminator(
        (3, 64, 64), CondSpec(c_dim=5), feature=Pyramid(), side=64, cout=8
    ).eval()
    images, c = torch.randn(2, 3, 64, 64), torch.randn(2, 5)
    features = network.features(images)
    (one,), (other,) = network.score(features, Condition(c)), network.score(features, c.flip(0))
    assert not torch.allclose(one, other)
    assert torch.allclose(network(images, c)[0], one)
    with pytest.raises(ValueError, match=r"\[B, 5\]"):
        network(images)


def test_gradient_penalty_differentiates_twice():
    """R1 of a projected discriminator: the gradient of |dD/dx|^2 reaches every trained weight that scales it."""
    network = ProjectedDiscriminator((3, 64, 64), CondSpec(), feature=Pyramid(), side=64, cout=8)
    images = torch.randn(2, 3, 64, 64, requires_grad=True)
    (slope,) = torch.autograd.grad(network(images)[0].sum(), images, create_graph=True)
    slope.square().sum().backward()
    grads = {name: p.grad for name, p in network.named_parameters() if name.endswith("weight_orig")}
    assert all(grad is not None and grad.isfinite().all() and grad.any() for grad in grads.values())


def test_transformer_maps_become_a_pyramid():
    """Section 2b: 1x1 convolutions to width/8 ... width, maps of strides 4, 8, 16, 32."""
    transformer = Pyramid((48,) * 4, (16,) * 4)
    network = ProjectedDiscriminator(
        (3, 64, 64), CondSpec(), feature=transformer, side=64, cout=8, proj_type=0
    )
    maps = network.feature_network(torch.randn(2, 3, 64, 64))
    assert [tuple(x.shape[1:]) for x in maps] == [(6, 16, 16), (12, 8, 8), (24, 4, 4), (48, 2, 2)]
    assert network.feature_network.input_multiple == 32
    assert network(torch.randn(2, 3, 64, 64))[0].isfinite().all()


def test_unfit_feature_network_is_explained():
    with pytest.raises(GankitError, match="taps"):
        ProjectedDiscriminator((3, 64, 64), CondSpec(), feature=Pyramid((8, 8), (4, 16)), side=64)


def test_inception_has_a_pyramid_of_maps():
    network = Inception(pretrained=False)
    images = torch.rand(2, 3, 96, 64) * 2 - 1
    maps = network(images)
    assert [tuple(x.shape) for x in maps] == [
        (2, tap.channels, 96 // tap.stride, 64 // tap.stride) for tap in network.taps
    ]
    D = ProjectedDiscriminator((3, 64, 64), CondSpec(), feature=network, side=128, cout=8)
    assert all(logits.shape[0] == 2 for logits in D(images[:, :, :64]))
