"""Networks and regularizers are built from a recipe; weights that operators bring into order stay."""

from __future__ import annotations

import pytest
import torch
from step_contexts import LinearD
from torch import nn

from gankit.core.config import recipe
from gankit.core.models import build
from gankit.errors import GankitError
from gankit.plugins.conditioning.none import NoCondition
from gankit.plugins.regularizers.reconstruction import Reconstruction


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_one_for_both_networks_cannot_be_lazy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lazy step would belong to neither optimizer, and never run."""
    monkeypatch.setattr(Reconstruction, "side", "both")
    monkeypatch.setattr(Reconstruction, "interval", 4)
    page = recipe.read("stylegan2", {"regularizers": {"reconstruction": {}}, "data.size": 8})
    with pytest.raises(GankitError, match=r"'reconstruction' acts on both .* interval 4.*must be 1"):
        build.build_regularizer(page, "reconstruction", LinearD((1, 1, 1)), NoCondition())


def test_weights_that_operators_bring_into_order_stay_where_they_are():
    class Layer(nn.Module):
        any_layout = True

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))
            self.conv = nn.Conv2d(3, 4, 3)

    layer = Layer()
    address = layer.weight.data_ptr()
    assert build.for_sampling(layer, torch.device("cpu")).weight.data_ptr() == address
    assert layer.weight.is_contiguous()
    assert layer.conv.weight.is_contiguous(memory_format=torch.channels_last)
