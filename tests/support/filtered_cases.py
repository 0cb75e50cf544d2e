"""What tests of filtered_lrelu share: its definition, random calls, and calls of the path without gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import strategies as st

from gankit.core import cuda


def by_definition(x, fu, fd, b, up, down, padding, gain, slope, clamp, flip):
    x = x if b is None else x + b[:, None, None]
    x = cuda.upfirdn2d(x, fu, up=up, padding=padding, gain=up**2, flip_filter=flip)
    x = F.leaky_relu(x, slope) * gain
    x = x if clamp is None else x.clamp(-clamp, clamp)
    return cuda.upfirdn2d(x, fd, down=down, flip_filter=flip)


@st.composite
def calls(draw):
    def taps():
        side = st.integers(1, 9)
        return draw(st.one_of(st.none(), st.tuples(side), st.tuples(side), st.tuples(side, side)))

    return {
        "size": (draw(st.integers(0, 3)), draw(st.integers(4, 9)), draw(st.integers(4, 9))),
        "fu": taps(),
        "fd": taps(),
        "bias": draw(st.booleans()),
        "up": draw(st.integers(1, 4)),
        "down": draw(st.integers(1, 4)),
        "padding": draw(st.lists(st.integers(-6, 9), min_size=4, max_size=4)),
        "gain": draw(st.sampled_from([1, 2**0.5])),
        "slope": draw(st.sampled_from([0.2, 0.0, 1.0, -0.3])),
        "clamp": draw(st.sampled_from([None, 0.4, 1e4])),
        "flip": draw(st.booleans()),
        "channels_last": draw(st.booleans()),
        "block": draw(st.sampled_from([1, 2**21])),
    }


def check_sampling(call, channels, rates, impl):
    """The path without gradients against the definition, in float32, which a kernel computes or oneDNN."""
    n, h, w = call["size"]
    torch.manual_seed(0)
    x, b = torch.randn(n, channels, h, w), torch.randn(channels)
    fu, fd = (None if shape is None else torch.randn(shape) for shape in (call["fu"], call["fd"]))
    up, down = rates
    b = b if call["bias"] else torch.zeros(channels)
    rest = (up, down, call["padding"], call["gain"], call["slope"], call["clamp"])
    try:
        expected = by_definition(x.double(), fu, fd, b.double(), *rest, call["flip"])
        assert expected.numel() or n == 0
    except (RuntimeError, ValueError, AssertionError):
        return
    before = x.clone()
    with torch.no_grad():
        y = cuda.filtered_lrelu(x, fu, fd, b if call["bias"] else None, *rest, call["flip"], impl=impl)
    # of the largest sum of absolute values that rounding can meet
    largest = [t if t is None else t.double().abs() for t in (x, fu, fd, b)]
    bound = by_definition(*largest, *rest[:4], 1, None, call["flip"]).max() if expected.numel() else 0
    assert ((y.double() - expected).abs() <= 1e-6 * bound).all()
    assert y.shape == expected.shape
    assert torch.equal(x, before)


RATES = [(1, 1), (2, 2), (4, 2), (2, 1), (3, 3), (4, 1)]
SAMPLING = [  # up, down, taps, whether fd has two dimensions; the last two not by a kernel
    (2, 2, 12, False),
    (2, 2, 5, False),
    (4, 2, 24, False),
    (4, 2, 12, True),
    (4, 2, 7, False),
    (2, 1, 6, True),
    (2, 2, 9, True),
    (1, 1, 4, False),
    (3, 2, 9, False),
    (1, 2, 6, True),
]


def sampled(up, down, taps, square=False, clamp=None, dtype=torch.float32, bias=True, channels=23):
    """The path without gradients, and the definition in float64."""
    torch.manual_seed(0)
    x, b, f = torch.randn(2, channels, 20, 17).to(dtype), torch.randn(channels), torch.rand(taps) * up / taps
    fd = torch.rand(taps, taps + 1) / taps**2 if square else f
    rest = (up, down, (taps, taps + 1, taps, taps - 1), 1.3, 0.2, clamp)
    with torch.no_grad():
        y = cuda.filtered_lrelu(x, f, fd, b if bias else None, *rest)
    return y, by_definition(x.double(), f, fd, b.double() * bias, *rest, False)
