"""Low-pass filters of alias-free networks (StyleGAN3, Karras et al. 2021, appendix C.1)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def design_lowpass_filter(
    numtaps: int, cutoff: float, width: float, fs: float, radial: bool = False
) -> Tensor | None:
    """Kaiser-windowed low-pass filter with a sum of 1, in float32.

    Args:
        numtaps: taps along each axis; 1 means no filter.
        cutoff: frequency with gain 1/2, in the unit of `fs`, at most fs / 2.
        width: width of the transition band around `cutoff`, in the unit of `fs`, > 0.
        fs: sampling rate of the signal to be filtered.
        radial: if True, return an isotropic kernel [numtaps, numtaps] (jinc times the product of two Kaiser windows);
            needs an even `numtaps`. Otherwise return 1-D taps [numtaps] of a separable filter.

    Returns:
        The taps, or None for `numtaps` 1.

    Raises:
        ValueError: an argument is out of range; the message names it.
    """
    if numtaps < 1 or (radial and numtaps > 1 and numtaps % 2):
        raise ValueError(f"numtaps must be at least 1, and even for a radial filter, not {numtaps}")
    if numtaps == 1:
        return None
    if not (0 < cutoff <= fs / 2 and width > 0):
        raise ValueError(
            f"cutoff must lie in (0, fs / 2] and width above 0; got cutoff {cutoff}, width {width}, fs {fs}"
        )
    window = np.kaiser(numtaps, _beta(numtaps, width / (fs / 2)))
    t = (np.arange(numtaps) - (numtaps - 1) / 2) / fs
    if not radial:
        taps = np.sinc(2 * cutoff * t) * window
    else:
        r = torch.from_numpy(np.hypot(*np.meshgrid(t, t)))
        jinc = torch.special.bessel_j1(2 * math.pi * cutoff * r) / (math.pi * r)
        taps = jinc.numpy() * np.outer(window, window)
    return torch.from_numpy(taps / taps.sum()).float()


def _beta(numtaps: int, width: float) -> float:
    """Kaiser window parameter beta for a transition band of `width` times half the sampling rate."""
    attenuation = 2.285 * (numtaps - 1) * math.pi * width + 7.95  # dB
    if attenuation > 50:
        return 0.1102 * (attenuation - 8.7)
    if attenuation > 21:
        return 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    return 0.0
