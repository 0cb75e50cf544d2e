"""StyleGAN-XL's discriminator against the reference vectors; several feature networks together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conditioning_utils import make_open_clip
from golden_utils import load_golden
from projected_networks import Pyramid, renamed
from safetensors.torch import save_file
from torch import nn

from gankit.core.config import options
from gankit.core.interfaces.conditions import CondSpec
from gankit.core.models import stored_state
from gankit.errors import GankitError
from gankit.plugins.discriminators.heads import Head, head_plan
from gankit.plugins.discriminators.projected import ProjectedFeatures
from gankit.plugins.discriminators.stylegan_xl import NETWORKS
from gankit.plugins.losses.hinge import Hinge

CNN = {"name": "timm-cnn", "model": "test_efficientnet.r160_in1k", "pretrained": False}
VIT = {"name": "timm-vit", "model": "test_vit.r160_in1k", "pretrained": False}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return make_open_clip(tmp_path_factory.mktemp("clip"), image_layers=4)


def test_projections_and_heads_equal_reference():
    """From the stored feature maps on; the reference's own backbone is a stand-in."""
    golden = load_golden("net_sgxl_d")
    case, train = golden.cases
    backbone, single = "tf_efficientnet_lite0", golden.meta["init"]["single_disc"]
    state = golden.state()
    features = [case.outputs[f"feat{i}.{backbone}"] for i in range(4)]
    projector = ProjectedFeatures(
        Pyramid(tuple(x.shape[1] for x in features)), proj_type=2, cout=6, expand=True
    )
    scratch = f"feature_networks.{backbone}.scratch."
    projector.scratch.load_state_dict(
        {k.removeprefix(scratch): v for k, v in state.items() if k.startswith(scratch)}
    )
    maps = projector.project(features)
    for i, x in enumerate(maps):
        case.check(f"csm{i}.{backbone}", x)

    heads = nn.ModuleList()
    for i, nominal in enumerate(golden.meta["init"]["resolutions"][backbone]):
        widths = [single["ndf"]] * len(head_plan(nominal, nominal)[0])
        code = {"c_dim": single["c_dim"], "cmap_dim": single["cmap_dim"], "embed_dim": 24, "equalised": True}
        heads.append(Head(maps[i].shape[1], widths, 4, **code))
    named = renamed(state, f"discriminators.{backbone}.mini_discs.")
    # the reference's tables have rows for classes that it does not use
    named = {k: v[:, : single["c_dim"]] if k.endswith("embed.weight") else v for k, v in named.items()}
    heads.load_state_dict(named)
    for each in (case, train):
        heads.train(each is train)
        c = case.inputs["c"]
        scores = [head.score(head.features(x), c).flatten(1) for head, x in zip(heads, maps)]
        each.check("logits.0", torch.cat(scores, dim=1))


def build(shape=(3, 64, 64), c_dim=0, **extra):
    given = {"name": "stylegan-xl", "features": {"cnn": CNN, "vit": VIT}, "side": 64, "cout": 8, **extra}
    return options.build("discriminator", given, shape, CondSpec(c_dim))


def test_official_networks_and_names():
    """The defaults' names are those of the official state dict; heads have 13.76 M parameters for 1000 classes."""
    assert list(NETWORKS) == ["deit_base_distilled_patch16_224", "tf_efficientnet_lite0"]
    with torch.device("meta"):
        heads = [
            Head(c, *head_plan(n, 7 * n // 8), c_dim=1000, embed_dim=320, equalised=True)
            for n, c in ((128, 64), (64, 64), (32, 128), (16, 256))
        ]
    assert sum(p.numel() for head in heads for p in head.parameters()) / 1e6 == pytest.approx(
        13.76, abs=0.006
    )
    names = set(build(c_dim=3).state_dict())
    for name in (
        "feature_networks.cnn.scratch.layer0_ccm.weight",
        "feature_networks.vit.scratch.layer3_csm.out_conv.bias",
        "discriminators.vit.mini_discs.2.main.0.main.0.weight_orig",
        "discriminators.cnn.mini_discs.3.cls.weight_v",
        "discriminators.cnn.mini_discs.0.embed_proj.weight",
    ):
        assert name in names


@pytest.mark.slow
def test_networks_of_the_paper_at_full_size():
    """DeiT-base and EfficientNet-Lite0, with random weights: 64 logits of each, 13.76 M trained parameters for each."""
    features = {name: {**spec, "pretrained": False} for name, spec in NETWORKS.items()}
    D = build(shape=(3, 32, 32), c_dim=1000, features=features, side=224, cout=64)
    with torch.no_grad():
        logits = D(torch.randn(2, 3, 32, 32), torch.eye(1000)[:2])
    assert [list(x.shape) for x in logits] == [[2, 64], [2, 64]]
    trained = sum(p.numel() for p in D.parameters() if p.requires_grad)
    assert trained / 2e6 == pytest.approx(13.76, abs=0.006)
    outputs = [[tuple(x) for x in network.outputs] for network in D.feature_networks.values()]
    assert outputs == [[(64, 2), (64, 4), (128, 8), (256, 16)]] * 2


def test_both_networks_judge_and_train():
    D = build(c_dim=3)
    images, c = torch.randn(2, 3, 64, 64, requires_grad=True), torch.eye(3)[:2]
    logits = D(images, c)
    assert len(logits) == 2
    assert all(x.shape[0] == 2 and x.dim() == 2 for x in logits)
    loss = Hinge().g_loss(logits)
    alone = [Hinge().g_loss([x]) for x in logits]
    torch.testing.assert_close(loss, alone[0] + alone[1])
    loss.sum().backward()
    trained = {name: p for name, p in D.named_parameters() if p.requires_grad}
    assert all(name.startswith("discriminators.") for name in trained)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained.values())
    assert images.grad.abs().sum() > 0
    assert set(stored_state.frozen_networks(D)) == {
        "feature_networks.cnn.pretrained",
        "feature_networks.vit.pretrained",
    }


def test_transformers_see_small_images_only():
    D = build(shape=(3, 192, 128))
    assert D.entries == {"cnn": (192, 128), "vit": (96, 64)}
    assert all(x.isfinite().all() for x in D(torch.randn(2, 3, 192, 128)))


@pytest.mark.parametrize("features", [{}, {"a.b": CNN}])
def test_unfit_names_of_networks(features):
    with pytest.raises(GankitError, match=r"discriminator\.features"):
        build(features=features)


def test_two_networks_of_one_plugin_survive_a_recipe():
    spec = {"name": "stylegan-xl", "features": {"one": {**CNN, "seed": 1}, "two": {**CNN, "seed": 2}}}
    resolved = options.check("discriminator", spec)
    assert options.check("discriminator", resolved) == resolved
    assert [x["name"] for x in resolved["features"].values()] == ["timm-cnn"] * 2
    with pytest.raises(GankitError, match=r"unknown feature 'one'"):
        options.check("discriminator", {"name": "stylegan-xl", "features": {"one": {}}})


def test_class_table(tmp_path):
    table = torch.randn(3, 16)
    save_file({"any": table}, tmp_path / "table.safetensors")
    D = build(c_dim=3, embed_dim=16, class_table=str(tmp_path / "table.safetensors"))
    assert all(
        torch.equal(head.embed.weight, table.T) and head.embed.weight.requires_grad for head in D.heads()
    )
    assert len(D.heads()) == 8
    with pytest.raises(GankitError, match=r"must hold one tensor \[4, 16\]"):
        build(c_dim=4, embed_dim=16, class_table=str(tmp_path / "table.safetensors"))
    with pytest.raises(GankitError, match="no such file"):
        build(c_dim=3, class_table=str(tmp_path / "none.safetensors"))


def test_a_discriminator_on_three_kinds_of_networks(clip):
    model, weights = clip
    tower = {"name": "clip-image", "model": model, "pretrained": str(weights)}
    D = build(shape=(4, 32, 64), c_dim=2, features={"cnn": CNN, "vit": VIT, "clip": tower})
    logits = D(torch.randn(2, 4, 32, 64), torch.eye(2))
    assert len(logits) == 3
    assert all(x.isfinite().all() for x in logits)
    torch.cat(logits, 1).sum().backward()
    assert all(p.grad is not None for p in D.parameters() if p.requires_grad)
