"""What tests of kernels share."""

from __future__ import annotations

import torch


def around(n, channels, h, w, dtype):
    """A map within a larger one, whose every value is 7."""
    whole = torch.full((n + 2, h + 2, w + 2, channels + 3), 7.0, dtype=dtype)
    return whole, whole[1 : n + 1, 1 : h + 1, 1 : w + 1, 1 : channels + 1].permute(0, 3, 1, 2)
