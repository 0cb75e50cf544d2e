"""State dicts that lie in files: which tensors are adopted."""

from __future__ import annotations

import copy

import torch
from torch import nn

from gankit.core.models import stored_state
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
