"""Winograd's minimal filtering along both axes as one kernel: every kind of machine code, against float64."""

from __future__ import annotations

import llvmlite.binding as llvm
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import around, epilogue, finished, nothing_around

from gankit_cpu.epilogue import Epilogue
from gankit_cpu.llvm import machine, winograd_tiles
from gankit_cpu.llvm.winograd_tiles import Kind

SIZES = [
    (False, False, 8, 2),
    (False, False, 6, 1),
    (True, False, 8, 2),
    (True, False, 5, 1),
    (True, True, 8, 2),
]
KINDS = [Kind(half, pairs, turned, *sizes) for turned in (False, True) for half, pairs, *sizes in SIZES]
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
