"""Weights that lie in the model's file: what is adopted, and that the file is never written."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import gankit
from gankit.core.models import build, model_folder, stored_state
from gankit.core.runtime import tensor_files


def stored(folder, **tensors):
    path = folder / "x.safetensors"
    tensor_files.save_tensors(path, tensors)
    return tensor_files.load_tensors(path)[0]


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
    picture = pipe(seeds=0)[0]
    before = [p.clone() for p in own]
    with torch.no_grad():
        for p in own:
            p.mul_(0.5)
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
