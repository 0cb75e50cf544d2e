"""StyleGAN-XL's generator: official weights and outputs, stages, class embedding, means of w for each class."""

from __future__ import annotations

import copy
import os

import pytest
import torch
from golden_utils import load_golden
from safetensors.torch import save_file

from gankit.core.config import recipe as recipes
from gankit.core.interfaces.conditions import CondSpec
from gankit.core.interfaces.labels import Vocabulary
from gankit.core.models import build, model_folder
from gankit.core.models.warm_start import transfer
from gankit.errors import GankitError
from gankit.plugins.generators.stylegan_xl import StyleGANXL

TINY = {"z_dim": 4, "w_dim": 8, "embed_dim": 6, "channel_base": 64, "channel_max": 4, "num_layers": 4}


def official(name: str):
    """A network built from the arguments of the official one, with its weights, and the reference data."""
    golden = load_golden(name)
    init = golden.meta["init"]
    kwargs = dict(init.get("stem", init["kwargs"]))
    stages = {}
    if "stem" in init:
        stages = {
            "head_layers": (init["kwargs"]["head_layers"],),
            "up_factors": (init["kwargs"]["up_factor"],),
        }
    size = init["kwargs"]["img_resolution"]
    c_dim, shape = kwargs.pop("c_dim"), (kwargs.pop("img_channels"), size, size)
    for key in ("img_resolution", "num_fp16_res", "mapping_kwargs", "magnitude_ema_beta"):
        kwargs.pop(key, None)
    generator = StyleGANXL(
        shape, CondSpec(c_dim=c_dim), embed_dim=init["class_embedding"][1], **stages, **kwargs
    )
    state = golden.state()
    table = state.pop(
        "mapping.embed.weight"
    )  # has rows for classes that are not used, or all of them are not
    if c_dim:
        state["mapping.embed.weight"] = table[:c_dim]
    assert {k: v.shape for k, v in generator.state_dict().items()} == {k: v.shape for k, v in state.items()}
    generator.load_state_dict(state, strict=True)
    return generator, golden


@pytest.mark.parametrize("name", ["net_sgxl_g", "net_sgxl_g_uncond", "net_sgxl_superres"])
def test_golden(name):
    generator, golden = official(name)
    assert generator.num_ws == golden.meta["num_ws"]
    assert generator.synthesis.layer_names == golden.meta["layer_names"]
    for layer_name, spec in golden.meta.get("layer_specs", {}).items():
        layer = generator.synthesis.get_submodule(layer_name)
        assert layer.padding == spec["padding"], layer_name
        assert (layer.up, layer.down) == (spec["up_factor"], spec["down_factor"])
        assert layer.spec.target.cutoff == pytest.approx(spec["out_cutoff"])
        assert layer.spec.target.half_width == pytest.approx(spec["out_half_width"])
    for case in golden.cases:
        network = copy.deepcopy(generator)
        z, c = case.inputs.get("z"), case.inputs.get("c")
        if case.name == "synth_grad":
            ws = case.inputs["ws"].requires_grad_()
            img = network.synthesis(ws)
            case.check("img", img)
            case.check("dws", torch.autograd.grad(img, ws, case.inputs["dimg"])[0])
        elif case.name == "w_avg_update":
            case.check("ws", network.mapping(z, c, update_emas=True))
            case.check("after.mapping.w_avg", network.mapping.w_avg)
        else:
            ws = network.mapping(z, c, **case.kwargs["mapping"])
            case.check("ws", ws)
            case.check("img", network.synthesis(ws))
    assert len(golden.cases) == 5


@pytest.mark.parametrize(
    ("side", "heads", "num_ws", "millions", "head_millions", "last_names"),
    [
        (16, (), 12, 101.88, 101.88, ["L7_36_1024", "L8_36_1024", "L9_16_1024", "L10_16_3"]),
        (32, (7,), 17, 151.70, 70.27, ["L9_36_1024", "L10_52_1024", "L15_32_1024", "L16_32_3"]),
        (64, (7,) * 2, 22, 201.52, 70.27, ["L14_52_1024", "L15_84_1024", "L20_64_1024", "L21_64_3"]),
        (128, (7,) * 3, 27, 225.85, 44.79, ["L20_148_1024", "L21_148_861", "L24_148_512", "L26_128_3"]),
        (256, (7,) * 4, 32, 233.38, 13.53, ["L24_148_609", "L26_276_431", "L29_276_256", "L31_256_3"]),
        (512, (7,) * 5, 37, 235.47, 3.81, ["L29_276_304", "L33_532_152", "L35_512_128", "L36_512_3"]),
        (
            1024,
            (7,) * 5 + (5,),
            40,
            235.80,
            0.86,
            ["L34_532_152", "L35_1044_114", "L38_1024_64", "L39_1024_3"],
        ),
    ],
)
def test_published_stages(side, heads, num_ws, millions, head_millions, last_names):
    """Names and parameter counts of the release, measured by its constructors (1000 ImageNet classes)."""
    with torch.device("meta"):
        generator = StyleGANXL((3, side, side), CondSpec(c_dim=1000), head_layers=heads)
    names = generator.synthesis.layer_names
    assert set(last_names) <= set(names)
    assert "L8_36_1024" not in names or not heads
    assert generator.num_ws == num_ws == len(names) + 1
    assert sum(p.numel() for p in generator.parameters()) / 1e6 == pytest.approx(millions, abs=0.006)
    head = names[-heads[-1] - 1 :] if heads else None
    parts = [generator] if head is None else [generator.synthesis.get_submodule(name) for name in head]
    assert sum(p.numel() for part in parts for p in part.parameters()) / 1e6 == pytest.approx(
        head_millions, abs=0.006
    )


def test_a_layer_of_the_same_name_keeps_its_own_filters():
    """The first layer of a head may be called as the critically sampled one that it replaces."""
    torch.manual_seed(0)
    options = {"channel_base": 1024, "channel_max": 16, "z_dim": 8, "w_dim": 16, "embed_dim": 8}
    before = StyleGANXL((3, 32, 32), CondSpec(c_dim=2), head_layers=(7,), **options)
    after = StyleGANXL((3, 64, 64), CondSpec(c_dim=2), head_layers=(7, 7), **options)
    name = "synthesis.L14_52_16"
    old, own = (net.get_submodule(name).down_filter.clone() for net in (before, after))
    assert not torch.allclose(old, own, atol=1e-3)
    done = transfer(after, before.state_dict())
    assert torch.equal(after.get_submodule(name).down_filter, own)
    assert torch.equal(after.get_submodule(name).weight, before.get_submodule(name).weight)
    assert f"{name}.down_filter [12]" in done.fresh


def test_a_stage_goes_on_from_its_stem():
    """All but the critically sampled layers is taken over, and the mapping network draws the same w."""
    torch.manual_seed(0)
    stem = StyleGANXL((3, 16, 16), CondSpec(c_dim=3), **TINY)
    stage = StyleGANXL((3, 32, 32), CondSpec(c_dim=3), head_layers=(4,), **TINY)
    done = transfer(stage, stem.state_dict())
    assert not done.resized
    assert {name.split(".")[1].split("_")[0] for name in done.unused} == {"L2", "L3", "L4"}
    assert {name.split(".")[1].split("_")[0] for name in done.fresh} == {"L3", "L4", "L5", "L6", "L7"}
    z, c = torch.randn(2, 4), torch.eye(3)[:2]
    w, w_stem = stage.mapping(z, c)[:, 0], stem.mapping(z, c)[:, 0]
    torch.testing.assert_close(w, w_stem)
    maps = [generator.synthesis.input(w) for generator in (stem, stage)]
    for name in ("L0_36_4", "L1_36_4"):
        maps = [g.synthesis.get_submodule(name)(x, w, False) for g, x in zip((stem, stage), maps)]
    torch.testing.assert_close(*maps)


@pytest.mark.parametrize("shape", [(1, 32, 64), (4, 96, 48), (3, 40, 40)])
def test_any_size_any_channels(shape):
    generator = StyleGANXL(shape, CondSpec(c_dim=2), head_layers=(4,), **TINY)
    images = generator(torch.randn(2, 4), torch.eye(2))
    assert images.shape == (2, *shape)
    images.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in generator.parameters())


def test_truncation_goes_to_the_mean_of_the_condition():
    generator = StyleGANXL((3, 16, 16), CondSpec(c_dim=3), **TINY)
    means = torch.randn(3, 8)
    generator.mapping.w_avg.copy_(means)
    c = torch.tensor([[0.0, 1, 0], [0, 0, 0], [1, 0, 1]])  # a class, none, two tags
    ws = generator.mapping(torch.randn(3, 4), c, truncation_psi=0)
    expected = torch.stack([means[1], means.mean(0), (means[0] + means[2]) / 2])
    torch.testing.assert_close(ws, expected[:, None].expand(-1, generator.num_ws, -1))


def test_means_follow_their_class_only():
    generator = StyleGANXL((3, 16, 16), CondSpec(c_dim=3), w_avg_beta=0.5, **TINY)
    c = torch.eye(3)[[1, 1]]
    w = generator.mapping(torch.randn(2, 4), c, update_emas=True)[:, 0]
    assert torch.equal(generator.mapping.w_avg[[0, 2]], torch.zeros(2, 8))
    torch.testing.assert_close(generator.mapping.w_avg[1], w[0] / 4 + w[1] / 2)


def test_class_table(tmp_path):
    """Starts the embedding; a model that was trained from it loads without it."""
    file, table = tmp_path / "table.safetensors", torch.randn(3, 6)
    save_file({"any": table}, file)
    spec = {"name": "stylegan-xl", "class_table": str(file), **TINY}
    page = {"data": {"size": 16}, "conditioner": "class", "generator": spec}
    recipe = recipes.parse(page, "test")
    conditioner = build.build_conditioner(recipe, Vocabulary(classes={"a": 1, "b": 1, "c": 1}))
    generator = build.build_generator(recipe, conditioner)
    assert torch.equal(generator.mapping.embed.weight, table)
    assert generator.mapping.embed.weight.requires_grad
    with pytest.raises(GankitError, match=r"generator.class_table .* must hold one tensor \[4, 6\]"):
        StyleGANXL((3, 16, 16), CondSpec(4), class_table=str(file), **TINY)
    folder = tmp_path / "model"
    folder.mkdir()
    model_folder.save_model(folder, recipe, conditioner, generator, nimg=0, encoders={})
    os.remove(file)
    again = model_folder.load_model(folder).generator
    assert torch.equal(again.mapping.embed.weight, table)
    with pytest.raises(GankitError, match="no such file"):
        build.build_generator(recipe, conditioner)


@pytest.mark.parametrize(
    ("shape", "options", "words"),
    [
        ((3, 32, 32), {"head_layers": (4,), "up_factors": (2, 2)}, "1 head_layers and 2 up_factors"),
        ((3, 48, 48), {"head_layers": (4,), "up_factors": (3,)}, "powers of 2"),
        ((3, 33, 32), {"head_layers": (4,)}, "multiples of 2"),
        ((3, 32, 32), {"head_layers": (2,)}, r"head_layers \[2\]"),
    ],
)
def test_wrong_options_are_named(shape, options, words):
    with pytest.raises(GankitError, match=words):
        StyleGANXL(shape, CondSpec(), **{**TINY, **options})
