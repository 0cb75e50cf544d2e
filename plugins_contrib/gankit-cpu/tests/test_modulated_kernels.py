"""Kernels for the modulated convolution on a CPU: against torch's convolutions in float64, and where they are taken."""

from __future__ import annotations

import functools
import sys

import llvmlite.binding as llvm
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import FILTERS, around, epilogue, exact, finished, nothing_around, tensors
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from gankit.core import cuda
from gankit.core.cuda import ConstantWeights
from gankit_cpu import kernels, modulated_sampling
from gankit_cpu.epilogue import Epilogue
from gankit_cpu.llvm import finish, machine, modulated, winograd_tiles
from gankit_cpu.llvm.winograd_tiles import Kind

SIZES = [
    (False, False, 8, 2),
    (False, False, 6, 1),
    (True, False, 8, 2),
    (True, False, 5, 1),
    (True, True, 8, 2),
]
KINDS = [Kind(half, pairs, turned, *sizes) for turned in (False, True) for half, pairs, *sizes in SIZES]
DTYPES = [torch.float32, torch.bfloat16]
FORMS = [(torch.float32, 1), (torch.bfloat16, 1), (torch.bfloat16, 2)]


SUM_OF_PAIRS = machine.Code.sum_of_pairs


@pytest.fixture(autouse=True, scope="module")
def pairs():
    """On a CPU without AVX512_BF16, other instructions for what it does."""

    def sum_of_pairs(code, total, x, y):
        for one, other in zip(code.even_and_odd(x), code.even_and_odd(y)):
            total = code.plus(total, one, other)
        return total

    with pytest.MonkeyPatch.context() as patch:
        if not machine.multiplies_pairs():
            patch.setattr(machine.Code, "sum_of_pairs", sum_of_pairs)
        yield


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


@settings(max_examples=80, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    n=st.integers(1, 3),
    size=st.tuples(st.integers(1, 19), st.integers(1, 19)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    channels=st.tuples(st.sampled_from([32, 33, 47, 63, 64, 91]), st.sampled_from([32, 35, 48, 63, 70])),
    noise=st.sampled_from(["none", "one", "each"]),
    act=st.sampled_from(["linear", "lrelu"]),
    clamp=st.sampled_from([None, 0.5]),
    count=st.sampled_from([1, 2, 5]),
    cache=st.sampled_from([1, 2**19]),
    seed=st.integers(0, 99),
)
def test_any_shape(kind, n, size, padding, channels, noise, act, clamp, count, cache, seed):
    torch.manual_seed(seed)
    dtype = torch.bfloat16 if kind.half else torch.float32
    (h, w), (i, o) = size, channels
    if not kind.transposed and (h + 2 * padding[0] < 3 or w + 2 * padding[1] < 3):
        padding = (1, 1)
    _, x = around(n, i, h, w, dtype)
    x.copy_(torch.randn(x.shape))
    weight, styles = torch.randn(o, i, 3, 3), torch.randn(n, i)
    xs, magnitude = ((t * s[:, :, None, None]).double() for t, s in ((x, styles), (x.abs(), styles.abs())))
    if kind.transposed:
        expected, scale = (
            F.conv_transpose2d(t, v.double().transpose(0, 1), stride=2)
            for t, v in ((xs, weight), (magnitude, weight.abs()))
        )
        after = Epilogue(torch.ones(n, o))
    else:
        expected, scale = (
            F.conv2d(t, v.double(), padding=padding) for t, v in ((xs, weight), (magnitude, weight.abs()))
        )
        after = epilogue(n, o, expected.shape[2:], noise, act, clamp)
        expected, scale = finished(expected, after), scale * after.factors.max() + 5
    whole, y = around(n, o, *expected.shape[2:], dtype)
    before, (cache_bytes, tiles) = torch.get_num_threads(), (winograd_tiles.CACHE_BYTES, winograd_tiles.TILES)
    torch.set_num_threads(count)
    winograd_tiles._plan.cache_clear()
    if cache == 1:
        winograd_tiles.CACHE_BYTES, winograd_tiles.TILES = 1, 1
    try:
        winograd_tiles.run(x, y, winograd_tiles.weights(weight, kind), kind, padding, styles, after)
    finally:
        torch.set_num_threads(before)
        winograd_tiles.CACHE_BYTES, winograd_tiles.TILES = cache_bytes, tiles
        winograd_tiles._plan.cache_clear()
    # a tile's rounding is that of its largest terms
    bound = (2**-7 if kind.half else 1e-6) * scale.max()
    assert (y - expected).abs().max() <= bound
    assert nothing_around(whole, y)


@pytest.mark.parametrize("transposed", [False, True])
def test_machine_code_for_pairs(monkeypatch, transposed):
    """Of a CPU that need not be this one."""
    pages = []

    def compiled(text):
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        target = llvm.Target.from_triple("x86_64-unknown-linux-gnu")
        made = target.create_target_machine(cpu="znver4", opt=3)
        pages.append(made.emit_assembly(llvm.parse_assembly(text)))
        return 0

    monkeypatch.setattr(machine.Code, "sum_of_pairs", SUM_OF_PAIRS)
    monkeypatch.setattr(machine, "multiplies_pairs", lambda: True)
    monkeypatch.setattr(machine, "_compile", compiled)
    winograd_tiles.kernel.__wrapped__(Kind(True, True, transposed, 8, 2))
    (page,) = pages
    assert page.count("vdpbf16ps") == 16  # the loop over channels, with its sums in registers
    assert "vcvtne2ps2bf16" in page


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_rounding_is_near_that_of_a_direct_convolution(kind):
    torch.manual_seed(0)
    dtype = torch.bfloat16 if kind.half else torch.float32
    x = torch.randn(1, 256, 32, 32).to(dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(64, 256, 3, 3)
    options = {"stride": 2} if kind.transposed else {"padding": 1}
    function = F.conv_transpose2d if kind.transposed else F.conv2d
    w = weight.transpose(0, 1) if kind.transposed else weight
    expected = function(x.double(), w.double(), **options)
    y = torch.empty_like(expected, dtype=dtype, memory_format=torch.channels_last)
    after = Epilogue(torch.ones(1, 64))
    winograd_tiles.run(x, y, winograd_tiles.weights(weight, kind), kind, (1, 1), torch.ones(1, 256), after)
    error, direct = ((t - expected).square().mean().sqrt() for t in (y, function(x, w.to(dtype), **options)))
    assert error < (2 if kind.half else 3) * direct


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
