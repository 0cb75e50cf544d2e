"""What regularizers share: options out of range are named."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gankit.core.config.options import check
from gankit.errors import GankitError
from gankit.plugins.regularizers.attributes import Attributes
from gankit.plugins.regularizers.reconstruction import Reconstruction


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("regularizer", "wrong"),
    [
        (Attributes, {"weight_d": -1.0}),
        (Attributes, {"weight_g": -0.1}),
        (Attributes, {"hidden": 0}),
        (Reconstruction, {"until_kimg": 0.0}),
        (Reconstruction, {"final_weight": -1.0}),
    ],
)
def test_options_out_of_range_are_named(regularizer: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(GankitError, match=next(iter(wrong))):
        regularizer(**wrong)


def test_options() -> None:
    assert check("regularizer", {"name": "r1", "gamma": 4})["gamma"] == 4.0
    with pytest.raises(GankitError, match="form"):
        check("regularizer", {"name": "mismatch", "form": "logistic"})
    with pytest.raises(GankitError, match="did you mean 'decay'"):
        check("regularizer", {"name": "path-length", "deca": 0.1})
