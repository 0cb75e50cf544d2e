"""The op backend against the reference, over shapes, layouts, factors, paddings and filters; its conformance."""

from __future__ import annotations

import implementation_cases
import pytest
from implementation_cases import (  # noqa: F401  run here, for the op backend
    test_bias_act,
    test_conv2d_resample,
    test_filtered_lrelu,
    test_helpers_keep_the_size,
    test_modulated_conv2d,
    test_upfirdn2d,
)

import gankit.testing

TUNED = {
    "gankit_cpu.modulated_sampling.BLOCK_BYTES": "block",
    "gankit_cpu.epilogue.BLOCK_BYTES": "block",
    "gankit_cpu.modulated_sampling.FOLD": "fold",
}


@pytest.fixture(autouse=True)
def _backend(monkeypatch):
    monkeypatch.setattr(implementation_cases, "IMPL", "cpu")
    monkeypatch.setattr(implementation_cases, "TUNED", TUNED)


class TestConformance(gankit.testing.ConformanceSuite):
    package = "gankit-cpu"
