"""Kernels for the modulated convolution on a CPU: against torch's convolutions in float64, and where they are taken."""

from __future__ import annotations

import functools
import sys

import pytest
import torch
from kernel_cases import FILTERS, exact, tensors
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from gankit.core import cuda
from gankit.core.cuda import ConstantWeights
from gankit_cpu import kernels, modulated_sampling
from gankit_cpu.llvm import finish, machine, modulated, winograd_tiles

DTYPES = [torch.float32, torch.bfloat16]
FORMS = [(torch.float32, 1), (torch.bfloat16, 1), (torch.bfloat16, 2)]


PAYS = modulated_sampling._kernels_pay


@pytest.fixture(autouse=True)
def paying(monkeypatch):
    """On a CPU without AMX, and in float32 also for others than StyleGAN3."""
    monkeypatch.setattr(modulated_sampling, "bf16_units", lambda: ["AVX512_BF16"])
    monkeypatch.setattr(modulated_sampling, "_kernels_pay", lambda x, normalize: PAYS(x, True))


def forget_plans(monkeypatch, module):
    monkeypatch.setattr(module, "_plan", functools.cache(module._plan.__wrapped__))


@pytest.fixture
def taken(monkeypatch):
    calls, function = [], modulated.run

    def run(*arguments):
        y = function(*arguments)
        calls.append(y is not None)
        return y

    monkeypatch.setattr(modulated, "run", run)
    return calls


@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [None, *FILTERS])
@pytest.mark.parametrize("noise", [None, (1, 1), "map", "maps"])
@pytest.mark.parametrize("clamp", [None, 0.5])
@pytest.mark.parametrize("act", ["lrelu", "linear"])
def test_modulated_conv2d(taken, dtype, name, noise, clamp, act):
    x, w, s = tensors(dtype)
    up = 1 if name is None else 2
    size = (36 * up, 32 * up)
    shape = {"map": size, "maps": (3, 1, *size)}.get(noise, noise)
    options = {
        "up": up,
        "flip_weight": up == 1,
        "resample_filter": None if name is None else FILTERS[name],
        "padding": 1,
        "noise": None if noise is None else torch.randn(shape),
        "b": torch.randn(48),
        "act": act,
        "gain": 1.7,
        "clamp": clamp,
    }
    y = cuda.modulated_conv2d(x, w, s, **options)
    assert taken == [up == 1 or dtype == torch.bfloat16]
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=torch.channels_last)
    expected = exact(x, w, s, **options)
    largest = exact(x, w, s, **{**options, "clamp": None}).abs().max().item()
    tolerance = 2e-5 if dtype == torch.float32 else 2**-7 * largest
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=tolerance)


@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES)
def test_that_of_stylegan3(taken, dtype):
    x, w, s = tensors(dtype)
    options = {"padding": 2, "normalize": True, "input_gain": torch.tensor(0.7)}
    y, expected = cuda.modulated_conv2d(x, w, s, **options), exact(x, w, s, **options)
    assert taken == [True]
    torch.testing.assert_close(
        y.double(),
        expected,
        rtol=0,
        atol=2e-5 if dtype == torch.float32 else 0.02 * expected.abs().max().item(),
    )


@torch.no_grad()
@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, True),
        ({"side": 32}, False),  # below 1024 pixels
        ({"side": 32, "dtype": torch.bfloat16}, False),
        ({"dtype": torch.bfloat16}, True),
        ({"i": 16, "o": 32}, True),
        ({"i": 15}, False),
        ({"o": 15}, False),
        ({"i": 31, "dtype": torch.bfloat16}, False),
        ({"o": 15, "dtype": torch.bfloat16}, False),
        ({"act": "relu"}, False),
        ({"act": "lrelu", "alpha": 1.5}, False),
        ({"padding": (1, 2, 1, 1)}, False),
        ({"up": 2, "f": "symmetric"}, False),
        ({"up": 2, "padding": 2, "f": "symmetric", "dtype": torch.bfloat16}, True),
        ({"up": 2, "o": 31, "f": "symmetric", "dtype": torch.bfloat16}, False),  # too few for the filter
        ({"up": 2, "o": 16, "f": "symmetric", "dtype": torch.bfloat16}, False),
        (
            {"up": 2, "padding": -1, "f": "symmetric", "dtype": torch.bfloat16},
            False,
        ),  # cut off before the filter
        ({"up": 3, "padding": 1, "f": "symmetric", "dtype": torch.bfloat16}, False),
        ({"up": 2, "f": "square", "dtype": torch.bfloat16}, False),
        ({"up": 2, "f": "oblong", "dtype": torch.bfloat16}, False),
    ],
)
def test_where_they_are_taken(taken, changed, expected):
    changed = {
        "side": 36,
        "i": 40,
        "o": 48,
        "dtype": torch.float32,
        "up": 1,
        "f": None,
        "padding": 1,
        **changed,
    }
    x, w, s = tensors(*(changed.pop(name) for name in ("dtype", "side", "i", "o")))
    torch.manual_seed(1)
    filters = {**FILTERS, "square": torch.rand(4, 4), "oblong": torch.rand(2, 4), None: None}
    options = {**changed, "resample_filter": filters[changed.pop("f")], "flip_weight": changed["up"] == 1}
    options.pop("f", None)
    y = cuda.modulated_conv2d(x, w, s, **options)
    assert any(taken) == expected
    right = exact(x, w, s, **options)
    tolerance = (1e-5 if x.dtype == torch.float32 else 2e-2) * right.abs().max().item()
    torch.testing.assert_close(y.double(), right, rtol=0, atol=tolerance)


@torch.no_grad()
def test_amx_is_left_to_onednn(monkeypatch, taken):
    x, w, s = tensors(torch.bfloat16)
    monkeypatch.setattr(modulated_sampling, "bf16_units", lambda: ["AVX512_BF16", "AMX"])
    cuda.modulated_conv2d(x, w, s, padding=1)
    assert taken == []


@torch.no_grad()
def test_float32_is_left_to_onednn_but_for_stylegan3(monkeypatch, taken):
    """LLVM takes memory, and StyleGAN3 has it anyway."""
    monkeypatch.setattr(modulated_sampling, "_kernels_pay", PAYS)
    x, w, s = tensors()
    loaded, load = [], kernels.load
    monkeypatch.setattr(kernels, "load", lambda name: loaded.append(name) or load(name))
    cuda.modulated_conv2d(x, w, s, padding=1)
    cuda.modulated_conv2d(x, w, s, padding=1, up=2, flip_weight=False, resample_filter=FILTERS["symmetric"])
    cuda.modulated_conv2d(x, w[:3, :, :1, :1], s, demodulate=False)
    assert loaded == []
    cuda.modulated_conv2d(x, w, s, padding=2, normalize=True)
    assert taken == [True]


@torch.no_grad()
@pytest.mark.parametrize("avx2", [True, False])
@pytest.mark.parametrize(("dtype", "up"), FORMS)
def test_a_cpu_without_instructions_for_bfloat16(monkeypatch, taken, dtype, up, avx2):
    monkeypatch.setattr(winograd_tiles, "features", lambda: {"avx2": avx2})
    for module in (machine, winograd_tiles):
        monkeypatch.setattr(module, "multiplies_pairs", lambda: False)
    for module in (winograd_tiles, finish):
        forget_plans(monkeypatch, module)
        monkeypatch.setattr(module, "kernel", functools.cache(module.kernel.__wrapped__))
    x, w, s = tensors(dtype)
    options = {"padding": 1, "up": up, "flip_weight": up == 1, "resample_filter": FILTERS["symmetric"]}
    y, right = cuda.modulated_conv2d(x, w, s, **options), exact(x, w, s, **options)
    tolerance = 2e-5 if dtype == torch.float32 else 2**-7 * right.abs().max().item()
    torch.testing.assert_close(y.double(), right, rtol=0, atol=tolerance)
    assert taken == [avx2 or dtype == torch.float32]


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "up"), FORMS)
def test_an_image_is_the_same_in_every_batch_and_on_any_number_of_threads(threads, dtype, up):
    x, w, s = tensors(dtype)
    options = {
        "padding": 1, "up": up, "flip_weight": up == 1, "resample_filter": FILTERS["symmetric"], "demodulate": False,
    }  # fmt: skip
    pictures = []
    for count in (1, 2, 5):
        threads(count)
        pictures.append(cuda.modulated_conv2d(x, w, s, **options))
        pictures.append(
            torch.cat([cuda.modulated_conv2d(x[i : i + 1], w, s[i : i + 1], **options) for i in range(3)])
        )
    assert all(torch.equal(picture, pictures[0]) for picture in pictures)


@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_are_made_once_and_again_when_they_change(monkeypatch, dtype):
    calls, function = [], winograd_tiles.weights
    monkeypatch.setattr(winograd_tiles, "weights", lambda *a: calls.append(1) or function(*a))
    x, w, s = tensors(dtype)
    weights = ConstantWeights()
    for _ in range(3):
        with weights.kept():
            y = cuda.modulated_conv2d(x, w, s, padding=1)
            cuda.modulated_conv2d(x[:, :, :, :31], w, s, padding=1)  # the same for maps of any size
    assert len(calls) == 1
    w.mul_(2)
    with weights.kept():
        again = cuda.modulated_conv2d(x, w, s, padding=1, demodulate=False)
    assert len(calls) == 2
    torch.testing.assert_close(
        again, cuda.modulated_conv2d(x, w, s, padding=1, demodulate=False), rtol=0, atol=0
    )
    assert y.isfinite().all()
    other = cuda.modulated_conv2d(x, w.contiguous(memory_format=torch.channels_last), s, padding=1)
    tolerance = 1e-6 if dtype == torch.float32 else 0.02  # of the sums for demodulation
    torch.testing.assert_close(other, cuda.modulated_conv2d(x, w, s, padding=1), rtol=0, atol=tolerance)


@torch.no_grad()
@pytest.mark.parametrize("stage", ["kernel", "run"])
def test_kernels_that_fail_are_replaced_with_one_warning(monkeypatch, stage):
    x, w, s = tensors()
    monkeypatch.setattr(kernels, "_failures", [])

    def broken(*arguments):
        raise RuntimeError("no such instruction")

    class Broken:
        _start = broken

    forget_plans(monkeypatch, winograd_tiles)
    monkeypatch.setattr(winograd_tiles, "kernel", broken if stage == "kernel" else lambda kind: Broken())
    with pytest.warns(RuntimeWarning, match="no such instruction") as seen:
        results = [cuda.modulated_conv2d(x, w, s, padding=1) for _ in range(2)]
    assert len(seen) == 1
    for y in results:
        torch.testing.assert_close(y.double(), exact(x, w, s, padding=1), rtol=0, atol=2e-5)


@torch.no_grad()
def test_without_llvmlite_operators_of_torch_do_it_in_silence(monkeypatch):
    x, w, s = tensors()
    monkeypatch.setattr(kernels, "_failures", [])
    monkeypatch.setattr(kernels, "_missing", [])
    for name in ("modulated", "winograd_tiles", "finish", "epilogue_code", "machine"):
        monkeypatch.delitem(sys.modules, f"gankit_cpu.llvm.{name}")
    monkeypatch.setitem(sys.modules, "llvmlite", None)
    y = cuda.modulated_conv2d(x, w, s, padding=1)
    torch.testing.assert_close(y.double(), exact(x, w, s, padding=1), rtol=0, atol=2e-5)
    assert "llvmlite cannot be imported" in kernels.obstacle()


@torch.no_grad()
@pytest.mark.parametrize("up", [1, 2])
def test_modes_that_look_at_operators(taken, up):
    x, w, s = tensors()
    options = {"padding": 1, "up": up, "flip_weight": up == 1, "resample_filter": FILTERS["symmetric"]}
    expected = exact(x, w, s, **options)
    with FakeTensorMode() as mode:
        fake = [mode.from_tensor(t) for t in (x, w, s)]
        own = {**options, "resample_filter": mode.from_tensor(FILTERS["symmetric"])}
        assert cuda.modulated_conv2d(*fake, **own).shape == expected.shape
    graph = make_fx(lambda x: cuda.modulated_conv2d(x, w, s, **options))(x)
    assert not any(taken)
    torch.testing.assert_close(graph(x).double(), expected, rtol=0, atol=2e-5)


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "up"), FORMS)
def test_what_is_no_number_stays_so(taken, dtype, up):
    x, w, s = tensors(dtype)
    options = {"padding": 1, "up": up, "flip_weight": up == 1, "resample_filter": FILTERS["symmetric"]}
    x[1, 3, 20, 10] = torch.nan
    y = cuda.modulated_conv2d(x, w, s, act="lrelu", clamp=1, **options)
    assert taken == [True]
    places = y[1, :, 20 * up, 10 * up]
    assert places.isnan().all()
    assert y[0].isfinite().all()
    assert y[1, :, :8].isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES)
def test_views_and_defaults_of_torch(taken, dtype):
    x, w, s = tensors(dtype)
    expected = cuda.modulated_conv2d(x, w, s, padding=1)
    whole = torch.zeros(3, 38, 34, 41, dtype=dtype)  # an odd number of channels
    view = whole[:, 1:-1, 1:-1, 1:].permute(0, 3, 1, 2)
    view.copy_(x)
    assert torch.equal(cuda.modulated_conv2d(view, w, s, padding=1), expected)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            machine.channels_in_groups.cache_clear()
            assert torch.equal(cuda.modulated_conv2d(x, w, s, padding=1), expected)
    finally:
        torch.set_default_dtype(torch.float32)
    assert taken == [True] * 3


@torch.no_grad()
def test_parameters_that_may_want_gradients(recwarn):
    """Grad mode decides, not what tensors could ask for."""
    x, w, s = tensors(torch.bfloat16)
    x = x.contiguous(memory_format=torch.channels_last)
    b = torch.randn(48)
    for t in (x, w, s, b):
        t.requires_grad_()
    with torch.inference_mode():
        plain = [t.detach().clone() for t in (x, w, s, b)]
    cuda.modulated_conv2d(x, w, s, padding=1, b=b, noise=torch.randn(36, 32).requires_grad_(), act="lrelu")
    for maps, weight, styles, bias in ((x, w, s, b), plain):
        cuda.modulated_conv2d(maps, weight[:3, :, :1, :1], styles, demodulate=False, b=bias[:3])
        cuda.modulated_conv2d(maps, weight, styles, padding=1, b=bias)
    assert not recwarn
    assert kernels.obstacle() is None
