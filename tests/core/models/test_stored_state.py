"""Weights that lie in the model's file: what is adopted, when their memory may go, that nothing is ever lost."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from torch import nn

import gankit
from gankit.core import cuda
from gankit.core.cuda import ConstantWeights, inference, native, onednn
from gankit.core.models import build, model_folder, stored_state
from gankit.core.runtime import devices, tensor_files

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pagemap is Linux's")


def stored(folder, **tensors):
    path = folder / "x.safetensors"
    tensor_files.save_tensors(path, tensors)
    return tensor_files.load_tensors(path)[0]


def resident(tensor):
    """How many of its pages are in memory that is this process's."""
    first, end = devices._pages(tensor)
    with open("/proc/self/pagemap", "rb") as file:
        file.seek(first * 8)
        return sum(entry >> 63 for entry in memoryview(file.read((end - first) * 8)).cast("Q"))


@linux
def test_memory_goes_and_values_stay(tmp_path):
    values = torch.randn(64, 64, 3, 3)
    tensor = stored(tmp_path, w=values)["w"]
    assert torch.equal(tensor, values)
    assert devices.unchanged_in_file(tensor)
    assert resident(tensor) > 30
    devices.forget(tensor)
    assert resident(tensor) < 30
    assert torch.equal(tensor, values)


@linux
@pytest.mark.parametrize("change", ["in place", "data", "numpy", "one value"])
def test_changed_values_are_not_forgotten(tmp_path, change):
    tensor = stored(tmp_path, w=torch.randn(64, 64, 3, 3))["w"]
    if change == "in place":
        tensor.mul_(2)
    elif change == "data":
        tensor.data.mul_(2)
    elif change == "numpy":
        tensor.numpy()[:] = 1
    else:
        tensor.data[40, 1, 1, 1] = 7
    assert not devices.unchanged_in_file(tensor)


def test_other_tensors_are_not_in_files():
    assert not devices.unchanged_in_file(torch.randn(64, 64, 3, 3))
    assert not devices.unchanged_in_file(torch.zeros(0))
    assert not devices.unchanged_in_file(torch.randn(3))
    assert not devices.unchanged_in_file(torch.randn(64, 64, device="meta"))


@linux
def test_a_kernel_that_does_not_tell(tmp_path, monkeypatch):
    tensor = stored(tmp_path, w=torch.randn(64, 64, 3, 3))["w"]

    def refuse(*arguments, **options):
        raise PermissionError

    monkeypatch.setattr("builtins.open", refuse)
    assert not devices.unchanged_in_file(tensor)


@linux
def test_a_view_across_its_file_is_left_alone(tmp_path):
    tensor = stored(tmp_path, w=torch.randn(64, 64, 3, 3))["w"]
    assert not devices.unchanged_in_file(tensor.transpose(0, 1))


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 4)
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("narrow", torch.zeros(2, dtype=torch.float16))
        self.a.bias.requires_grad_(False)


def test_tensors_are_adopted_where_types_agree(tmp_path):
    module, state = Odd(), copy.deepcopy(Odd().state_dict())
    state["narrow"] = torch.tensor([1.0, 2.0])
    tensors = stored(tmp_path, **state)
    stored_state.load_stored(module, tensors, tmp_path, adopt=True)
    for name in ("a.weight", "a.bias", "mean"):
        assert module.state_dict()[name].data_ptr() == tensors[name].data_ptr()
    assert isinstance(module.a.weight, nn.Parameter)
    assert (module.a.weight.requires_grad, module.a.bias.requires_grad) == (True, False)
    assert module.narrow.dtype == torch.float16
    assert module.narrow.tolist() == [1, 2]
    other = Odd()
    stored_state.load_stored(other, tensors, tmp_path)
    assert other.a.weight.data_ptr() != tensors["a.weight"].data_ptr()
    assert torch.equal(other.a.weight, module.a.weight)


def test_a_module_that_saves_itself_in_a_way_of_its_own_is_copied(tmp_path):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = torch.zeros(2)

        def state_dict(self, *arguments, **options):
            return {"elsewhere.hidden": self.hidden}

    module = Own()
    stored_state.load_stored(
        module, stored(tmp_path, **{"elsewhere.hidden": torch.ones(2)}), tmp_path, adopt=True
    )
    assert module.hidden.tolist() == [1, 1]


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


@linux
def test_a_loaded_model_lies_in_its_file_and_may_be_changed(tmp_path):
    pytest.importorskip("gankit_avatars")
    stored = gankit.load("avatars", device="cpu")  # in fp16, which is widened into memory
    model_folder.save_model(
        tmp_path,
        stored.recipe,
        stored.conditioner,
        stored.generator.state_dict(),
        nimg=1,
        encoders=stored.conditioner.identity(),
    )
    pipe = gankit.load(tmp_path, device="cpu")
    own = [
        p
        for m in pipe.generator.modules()
        if getattr(m, "any_layout", False)
        for p in m.parameters(recurse=False)
    ]
    large = [p for p in own if p.numel() > 10000]
    assert large
    assert all(devices.unchanged_in_file(p) for p in large)
    picture = pipe(seeds=0)[0]
    before = [p.clone() for p in own]
    with torch.no_grad():
        for p in own:
            p.mul_(0.5)
    assert not any(devices.unchanged_in_file(p) for p in large)
    assert pipe(seeds=0)[0].tobytes() != picture.tobytes()
    with torch.no_grad():
        for p, value in zip(own, before):
            p.copy_(value)
    assert pipe(seeds=0)[0].tobytes() == picture.tobytes()
    assert (
        gankit.load("avatars", device="cpu")(seeds=0)[0].tobytes() == picture.tobytes()
    )  # the file was not written


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
