"""StyleGAN3's generator: official weights and outputs, geometry, sizes, running statistics, equivariance."""

from __future__ import annotations

import copy
import math

import pytest
import runs
import torch
from golden_utils import load_golden
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import gankit
from gankit.core.cuda import values_only
from gankit.core.interfaces.conditions import CondSpec
from gankit.core.models.warm_start import transfer
from gankit.errors import GankitError
from gankit.plugins.generators.stylegan3 import StyleGAN3, bands

OFFICIAL = ["net_sg3_t", "net_sg3_r", "net_sg3_r_default_layers"]
R = {"conv_kernel": 1, "use_radial_filters": True, "channel_base": 65536, "channel_max": 1024}
TINY = {"z_dim": 8, "w_dim": 8, "channel_base": 64, "channel_max": 4, "num_layers": 4}


def official(name: str) -> tuple[StyleGAN3, object]:
    """A network built from the arguments of the official one, with its weights, and the reference data."""
    golden = load_golden(name)
    kwargs = dict(golden.meta["init"]["kwargs"])
    size, cond = kwargs.pop("img_resolution"), CondSpec(c_dim=kwargs.pop("c_dim"))
    shape = (kwargs.pop("img_channels"), size, size)
    kwargs.pop("num_fp16_res")
    kwargs["mapping_layers"] = kwargs.pop("mapping_kwargs", {}).get("num_layers", 2)
    generator = StyleGAN3(shape, cond, **kwargs)
    state = golden.state()
    assert {k: v.shape for k, v in generator.state_dict().items()} == {k: v.shape for k, v in state.items()}
    for key, value in generator.state_dict().items():
        if key.endswith("_filter"):
            torch.testing.assert_close(value, state[key], rtol=0, atol=1e-6)
    generator.load_state_dict(state, strict=True)
    return generator, golden


@pytest.mark.parametrize("name", OFFICIAL)
def test_golden(name):
    generator, golden = official(name)
    assert generator.num_ws == golden.meta["num_ws"]
    assert generator.synthesis.layer_names == golden.meta["layer_names"]
    for case in golden.cases:
        network = copy.deepcopy(generator)
        z, c = case.inputs.get("z"), case.inputs.get("c")
        if case.name == "synth_grad":
            ws = case.inputs["ws"].requires_grad_()
            img = network.synthesis(ws)
            case.check("img", img)
            case.check("dws", torch.autograd.grad(img, ws, case.inputs["dimg"])[0])
            with torch.no_grad():  # computed in blocks of rows
                case.check("img", network.synthesis(ws))
        elif case.name == "input_layer":
            case.check("x", network.synthesis.input(case.inputs["w"]))
        elif case.name == "transform":
            network.synthesis.input.transform.copy_(case.inputs["transform"])
            case.check("img", network(z, c))
        elif case.name == "update_emas":
            case.check("img", network(z, c, update_emas=True))
            state = network.state_dict()
            for key in case.outputs.keys() - {"img"}:
                case.check(key, state[key.removeprefix("after.")])
        else:
            ws = network.mapping(z, c, **case.kwargs["mapping"])
            case.check("ws", ws)
            if "img" in case.outputs:
                case.check("img", network.synthesis(ws))
    assert {case.name for case in golden.cases} == {
        "plain",
        "trunc",
        "cutoff",
        "transform",
        "update_emas",
        "synth_grad",
        "input_layer",
    }


@pytest.mark.parametrize(
    ("side", "t_count", "r_count"),
    [(256, 28_472_133, 18_816_387), (512, 24_873_519, 16_665_594), (1024, 22_313_167, 15_093_151)],
)
def test_published_parameter_counts(side, t_count, r_count):
    """Of the official constructors, measured (specifications of StyleGAN3, configurations T and R)."""
    for options, count in (({}, t_count), (R, r_count)):
        with torch.device("meta"):
            generator = StyleGAN3((3, side, side), CondSpec(), **options)
        assert sum(p.numel() for p in generator.parameters()) == count
        assert len(generator.state_dict()) == 114


def test_geometry_of_the_paper():
    """Rates, cutoffs, half-widths and channels at 256 px; paddings and taps of both configurations."""
    chain = bands(
        (3, 256, 256),
        num_layers=14,
        num_critical=2,
        first=(2, 2**2.1),
        last_stopband_rel=2**0.3,
        channel_base=32768,
        channel_max=512,
    )
    assert [band.rate for band in chain] == [
        16,
        16,
        16,
        32,
        32,
        64,
        64,
        128,
        128,
        128,
        256,
        256,
        256,
        256,
        256,
    ]
    assert [band.channels for band in chain] == [512] * 9 + [362, 256, 181, 128, 128, 3]
    assert [band.size[0] - band.rate for band in chain] == [20] * 13 + [0, 0]
    assert chain[9].cutoff == pytest.approx(45.2548, abs=1e-4)
    assert [chain[i].half_width for i in (0, 4, 12)] == pytest.approx([6, 8, 29.5865], abs=1e-4)
    expected = {
        3: {"same": (9, 8), "double": (-6, -9), "last": (-11, -12)},
        1: {"same": (11, 10), "double": (-2, -5), "last": (-9, -10)},
    }
    for kernel, paddings in expected.items():
        with torch.device("meta"):
            generator = StyleGAN3((3, 256, 256), CondSpec(), conv_kernel=kernel)
        layers = [generator.synthesis.get_submodule(name) for name in generator.synthesis.layer_names]
        for i, layer in enumerate(layers):
            case = "last" if i == 13 else "double" if layer.up == 4 else "same"
            want = (0, 0) if i == 14 else paddings[case]
            assert tuple(layer.padding) == want * 2, (kernel, i)


@settings(max_examples=12, deadline=None)
@given(
    start=st.tuples(st.integers(5, 15), st.integers(5, 15)),
    doublings=st.integers(0, 2),
    image_channels=st.sampled_from([1, 3, 4]),
    kernel=st.sampled_from([1, 3]),
    c_dim=st.sampled_from([0, 3]),
)
def test_any_size_any_channels(start, doublings, image_channels, kernel, c_dim):
    shape = (image_channels, *(side << doublings for side in start))
    generator = StyleGAN3(
        shape, CondSpec(c_dim=c_dim), conv_kernel=kernel, use_radial_filters=kernel == 1, **TINY
    )
    images = generator(torch.randn(2, 8), torch.randn(2, c_dim) if c_dim else None)
    assert images.shape == (2, *shape)
    images.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in generator.parameters())


def shifted(generator: StyleGAN3, z: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """The image under a translation by (x, y), in units of the shorter side."""
    generator = copy.deepcopy(generator)
    generator.synthesis.input.transform[0, 2] = -x
    generator.synthesis.input.transform[1, 2] = -y
    return generator(z)


@pytest.mark.parametrize("shape", [(3, 64, 64), (3, 32, 64), (3, 64, 32)])
def test_translation_moves_the_picture(shape):
    """The point of the architecture, and proof that coordinates have one unit on both axes."""
    torch.manual_seed(0)
    generator = StyleGAN3(
        shape, CondSpec(), **{**TINY, "channel_base": 512, "channel_max": 16, "num_layers": 6}
    )
    z = torch.randn(1, 8)
    side = min(shape[1:])
    with torch.no_grad():
        still = generator(z)
        for dx, dy in ((side // 8, 0), (0, side // 8)):
            moved = shifted(generator, z, dx / side, dy / side)
            h, w = shape[1:]
            error = (moved[:, :, dy:, dx:] - still[:, :, : h - dy, : w - dx]).square().mean().sqrt()
            assert 20 * math.log10(2 / error) > 60
            assert error < 0.02 * still.std()


def test_quarter_turn_of_configuration_r():
    torch.manual_seed(0)
    options = {**TINY, "channel_base": 512, "channel_max": 16, "num_layers": 6}
    generator = StyleGAN3((3, 32, 32), CondSpec(), conv_kernel=1, use_radial_filters=True, **options)
    z = torch.randn(1, 8)
    with torch.no_grad():
        still = generator(z)
        generator.synthesis.input.transform[:2, :2] = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
        turned = generator(z)
    best = min((turned - still.rot90(k, (2, 3))).square().mean().sqrt() for k in (1, 3))
    assert best < 0.02 * still.std()


def test_running_magnitudes_move_only_when_asked():
    torch.manual_seed(0)
    generator = StyleGAN3((3, 16, 16), CondSpec(), **TINY)
    before = copy.deepcopy(generator.state_dict())
    generator(torch.randn(3, 8))
    assert all(torch.equal(before[key], value) for key, value in generator.state_dict().items())
    generator(torch.randn(3, 8), update_emas=True)
    moved = {key for key, value in generator.state_dict().items() if not torch.equal(before[key], value)}
    magnitudes = {f"synthesis.{name}.magnitude_ema" for name in generator.synthesis.layer_names}
    assert moved == magnitudes | {"mapping.w_avg"}


def test_bf16_stays_close():
    torch.manual_seed(0)
    generator = StyleGAN3((3, 32, 32), CondSpec(), **{**TINY, "channel_max": 16, "channel_base": 512})
    z = torch.randn(2, 8)
    with torch.no_grad():
        expected = generator(z)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            automatic = generator(z)
        by_input = generator.synthesis(generator.mapping(z).bfloat16())
    for actual in (automatic, by_input):
        assert actual.dtype == torch.float32
        assert (actual - expected).square().mean().sqrt() < 0.02 * expected.std()
        assert not torch.equal(actual, expected)


def test_large_images_are_made_one_after_the_other(monkeypatch):
    torch.manual_seed(0)
    generator = StyleGAN3((3, 32, 32), CondSpec(), **TINY)
    ws = generator.mapping(torch.randn(5, 8)).detach()
    batches = []
    layer = generator.synthesis.get_submodule(generator.synthesis.layer_names[0])
    layer.register_forward_hook(lambda module, arguments, y: batches.append(len(y)))
    with torch.no_grad():
        expected = generator.synthesis(ws)
        monkeypatch.setattr(values_only, "MAP_BYTES", 2 * 52 * 52 * 4 * 4)  # two samples of the largest map
        actual = generator.synthesis(ws)
        assert batches == [5, 2, 2, 1]
        torch.testing.assert_close(actual, expected)
        generator.synthesis(ws, update_emas=True)
    generator.synthesis(ws)  # with gradients
    assert batches == [5, 2, 2, 1, 5, 5]
    generator.requires_grad_(False)
    generator.synthesis(ws.requires_grad_())
    assert batches == [5, 2, 2, 1, 5, 5, 5]


@pytest.mark.parametrize(
    ("shape", "options", "words"),
    [
        ((3, 4, 4), {}, "larger than 4 pixels"),
        ((3, 40, 33), {}, "halved often enough"),
        ((3, 32, 32), {"num_layers": 2}, "num_layers 2"),
        ((3, 32, 32), {"num_critical": 0}, "num_critical 0"),
        ((3, 32, 32), {"channel_base": 4, "num_layers": 6}, "channel_base 4"),
        ((3, 36, 36), {"first_stopband": 2.1}, "multiples of 8"),
    ],
)
def test_wrong_options_are_named(shape, options, words):
    with pytest.raises(GankitError, match=words):
        StyleGAN3(shape, CondSpec(), **{**TINY, **options})


def test_wrong_ws_are_named():
    generator = StyleGAN3((3, 16, 16), CondSpec(), **TINY)
    with pytest.raises(ValueError, match="ws must be"):
        generator.synthesis(torch.zeros(1, 2, 8))


@pytest.mark.parametrize(("side", "num_layers"), [(32, 4), (16, 4), (32, 6), (32, 3)])
def test_weights_go_over_to_another_size(side, num_layers):
    """Layers by number, whatever sizes are in their names."""
    torch.manual_seed(0)
    options = {**TINY, "channel_base": 256}
    small = StyleGAN3((3, 16, 16), CondSpec(), **options)
    large = StyleGAN3((3, side, side), CondSpec(), **{**options, "num_layers": num_layers})
    done = transfer(large, small.state_dict())
    (*hidden, rgb), (*new_hidden, new_rgb) = small.synthesis.layer_names, large.synthesis.layer_names
    for old, new in [*zip(hidden, new_hidden), (rgb, new_rgb)]:
        a, b = small.synthesis.get_submodule(old), large.synthesis.get_submodule(new)
        assert torch.equal(a.weight, b.weight)
        assert torch.equal(a.affine.weight, b.affine.weight)
    assert torch.equal(small.synthesis.input.freqs, large.synthesis.input.freqs)
    assert len({name.split(".")[1] for name in done.unused}) == max(4 - num_layers, 0)
    if (side, num_layers) == (16, 4):
        z = torch.randn(2, 8)
        torch.testing.assert_close(small(z), large(z))


@pytest.mark.parametrize("micro_batch", [8, 2])
def test_training_moves_running_magnitudes_once_a_step(micro_batch, images, tmp_path):
    """In D's phase, as in the originals, and over the whole batch however it is split."""
    spec = {**TINY, "name": "stylegan3", "mapping_layers": 1, "magnitude_ema_beta": 0.5}
    changes = {
        **runs.TINY,
        "generator": {**spec, "channel_base": 64},
        "regularizers": {},
        "train.images": 8,
        "train.micro_batch": micro_batch,
        "train.style_mixing": 0,
    }
    changes = {key: value for key, value in changes.items() if not key.startswith("generator.")}
    folder = gankit.train("stylegan2", tmp_path / "run", data=str(images), overrides=changes, quiet=True)
    state = load_file(folder / "generator.safetensors")
    generator = StyleGAN3((3, 16, 16), CondSpec(), **{key: v for key, v in spec.items() if key != "name"})
    generator.load_state_dict(state)
    power = generator.synthesis.input(torch.zeros(1, 8)).square().mean()  # hardly depends on w so early
    assert abs(power - 1) > 0.1
    assert state["synthesis.L0_36_4.magnitude_ema"] == pytest.approx((1 + power.item()) / 2, rel=0.02)


def test_exports_with_any_batch_size():
    generator = StyleGAN3((3, 16, 16), CondSpec(), **{**TINY, "num_layers": 3}).eval().requires_grad_(False)
    z = torch.randn(3, 8)
    program = torch.export.export(
        generator, (z,), dynamic_shapes={"z": {0: torch.export.Dim("batch", max=64)}}
    )
    for count in (2, 5):
        z = torch.randn(count, 8)
        torch.testing.assert_close(program.module()(z), generator(z))
