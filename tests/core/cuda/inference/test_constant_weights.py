"""Weights in files give their memory for what is made of them."""

from __future__ import annotations

import pytest
import torch
from weight_files import linux, resident, stored

from gankit.core import cuda
from gankit.core.cuda import ConstantWeights, inference, native, onednn
from gankit.core.runtime import devices


@linux
@torch.no_grad()
@pytest.mark.parametrize(
    ("side", "dtype", "without"),
    [
        (8, torch.float32, True),
        (40, torch.float32, True),
        (8, torch.bfloat16, True),
        (40, torch.bfloat16, False),
    ],
)
def test_a_weight_gives_its_memory_for_what_is_made_of_it(tmp_path, monkeypatch, side, dtype, without):
    """With kernels for this CPU and `without`."""
    if without:
        monkeypatch.setattr(native, "_failures", ["none in this test"])
    elif "AMX" in devices.bf16_units():
        pytest.skip("these maps take no kernel on this CPU")
    monkeypatch.setattr(inference, "FOLD", 1e9)
    monkeypatch.setattr(onednn, "multiplies_like", lambda x: True)
    values = torch.randn(64, 64, 3, 3)
    weight = stored(tmp_path, w=values)["w"]
    x, s = torch.randn(2, 64, side, side).to(dtype), torch.rand(2, 64)
    expected = cuda.modulated_conv2d(x, values, s, padding=1)
    weights = ConstantWeights(most=values.nbytes)
    for _ in range(2):
        with weights.kept():
            assert torch.equal(cuda.modulated_conv2d(x, weight, s, padding=1), expected)
    assert resident(weight) < 30
    (ready,) = weights.known.values()
    (kernel,) = ready.kernels.values()
    size = sum(part.numel() * part.element_size() for part in kernel.parts)
    points = {8: 9, 40: 18}[side] if without else 16  # numbers that are made of 9 of the weight
    assert size * 9 == points * values.numel() * dtype.itemsize
    assert kernel.extra == size - values.nbytes
    with weights.kept():  # maps of another kind ask for the weight again
        y = cuda.modulated_conv2d(x.float()[:, :, :7], weight, s, padding=1)
    torch.testing.assert_close(y, cuda.modulated_conv2d(x.float()[:, :, :7], values, s, padding=1))
    assert torch.equal(weight, values)


@linux
@torch.no_grad()
def test_without_room_a_weight_keeps_its_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(inference, "FOLD", 1e9)
    weight = stored(tmp_path, w=torch.randn(64, 64, 3, 3))["w"]
    x, s = torch.randn(1, 64, 40, 40), torch.rand(1, 64)
    with ConstantWeights(most=0).kept():
        cuda.modulated_conv2d(x, weight, s, padding=1)
    assert resident(weight) > 30
