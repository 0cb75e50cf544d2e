"""The reader of pickles: values of every protocol, limits, calls that are only remembered."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
from pickle_utils import call, program

from gankit.interop.pickles import Call, DamagedPickle, Ledger, read_pickle
from gankit.interop.torch_files import plain


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_values_of_every_protocol(protocol: int) -> None:
    value = {
        "numbers": [0, 1, -1, 255, 65536, 2**40, -(2**70), 0.5, True, None],
        "texts": ["", "é", "x" * 300, b"", b"\xff" * 300],
        "nested": {"a": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)], 3: {}},
        "sets": {"a", "b"},
    }
    data = pickle.dumps(value, protocol)
    found = read_pickle(io.BytesIO(data), len(data), Ledger())
    assert found == value


@pytest.mark.parametrize(
    "value", [np.float32(0.5), np.float64(-2), np.int64(7), np.bool_(True), np.arange(5), np.array(3.0)]
)
def test_values_of_numpy(value: np.generic) -> None:
    data = pickle.dumps(value, 4)
    assert plain(read_pickle(io.BytesIO(data), len(data), Ledger())) == value.tolist()


def test_instructions_are_limited() -> None:
    data = b"\x80\x04(" + b"}" * 1000 + b"l."
    assert len(read_pickle(io.BytesIO(data), len(data), Ledger(2000))) == 1000
    with pytest.raises(DamagedPickle, match="more instructions"):
        read_pickle(io.BytesIO(data), len(data), Ledger(900))


def test_calls_are_only_remembered() -> None:
    data = program(call("os", "system", "true"))
    found = read_pickle(io.BytesIO(data), len(data), ledger := Ledger())
    assert isinstance(found["G_ema"], Call)
    assert found["G_ema"].args == ("true",)
    assert ledger.called == {"os.system"}
