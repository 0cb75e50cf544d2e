"""Kernels for CPUs: what they are made of, threads, and what `gankit doctor` says of them."""

from __future__ import annotations

import ctypes
import threading
import warnings

import numpy as np
import pytest
import torch

from gankit.core.cuda import dispatch, native
from gankit.core.cuda.native import LANES, filters, machine
from gankit.core.cuda.native.machine import FLOAT, FLOATS, HALF, HALVES, Code

EVERY_HALF = np.arange(2**16).astype(np.uint16)  # the values of a bfloat16, as bits


def run(pointers, build, *arrays):
    code = Code(pointers)
    build(code, *code.arguments)
    code.compiled()(*[array.ctypes.data_as(ctypes.c_void_p) for array in arrays])


def test_widening_and_rounding_are_those_of_torch():
    torch.manual_seed(0)
    random = torch.randint(-(2**31), 2**31, (2**16,), dtype=torch.int64).to(torch.int32).view(torch.float32)
    ties = torch.from_numpy(EVERY_HALF.astype(np.uint32) << 16 | 0x8000).view(torch.float32)
    x = torch.cat([random, ties, torch.tensor([torch.inf, -torch.inf, torch.nan, -0.0] * 4)])
    y = np.zeros(len(x), np.uint16)

    def rounded(code, source, target):
        with code.loop(0, len(x), LANES) as i:
            code.store(code.rounded(code.load(source, i, FLOATS)), target, i)

    run([FLOAT, HALF], rounded, x.numpy(), y)
    actual = torch.from_numpy(y).view(torch.bfloat16)
    torch.testing.assert_close(actual, x.bfloat16(), rtol=0, atol=0, equal_nan=True)

    def widened(code, x, y):
        with code.loop(0, 2**16, LANES) as i:
            code.store(code.widened(code.load(x, i, HALVES)), y, i)

    x, wide = EVERY_HALF, np.zeros(2**16, np.float32)
    run([HALF, FLOAT], widened, x, wide)
    expected = torch.from_numpy(x).view(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(wide.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("team", [True, False])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_all_threads_work_at_once_and_errors_come_back(monkeypatch, team, count):
    if not team:
        monkeypatch.setattr(machine, "_openmp", lambda: None)
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        together = threading.Barrier(count)
        seen = []

        def work():
            together.wait(20)
            seen.append(threading.get_ident())

        machine.on_all_threads(work)
        assert len(set(seen)) == count
        with pytest.raises(ZeroDivisionError):
            machine.on_all_threads(lambda: 1 // 0)
        failing = iter([True])

        def one_fails():
            if next(failing, False):
                raise KeyError("first")

        with pytest.raises(KeyError, match="first"):
            machine.on_all_threads(one_fails)
    finally:
        torch.set_num_threads(before)


def test_doctor_tells_of_kernels(gankit_cli, monkeypatch):
    monkeypatch.setattr(dispatch, "_choices", {})
    assert "LLVM     llvmlite" in gankit_cli("doctor").out
    monkeypatch.setattr(native, "_failures", ["llvmlite cannot be imported: none here"])
    result = gankit_cli("doctor")
    assert result.code == 0
    assert "LLVM     no kernels for CPUs: llvmlite cannot be imported: none here" in result.out


def test_doctor_finds_a_kernel_that_fails_or_is_wrong(gankit_cli, monkeypatch):
    monkeypatch.setattr(dispatch, "_choices", {})
    monkeypatch.setattr(native, "_failures", [])
    right = filters.run
    monkeypatch.setattr(filters, "run", lambda x, y, *rest: (right(x, y, *rest), y.mul_(1.01)))
    result = gankit_cli("doctor")
    assert result.code == 1
    assert "was wrong by" in result.out

    def broken(*arguments):
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(filters, "run", broken)
    result = gankit_cli("doctor")
    assert result.code == 1
    assert "FAILED: raised RuntimeError: no such instruction" in result.out
    assert "Traceback" not in result.out + result.err


def test_a_self_test_hides_no_other_warning(monkeypatch):
    right = dispatch.COMPOSITE["bias_act"]

    def warns(*arguments):
        warnings.warn("torch's interface to oneDNN failed (in this test)", RuntimeWarning, stacklevel=1)
        return right(*arguments)

    monkeypatch.setitem(dispatch.COMPOSITE, "bias_act", warns)
    with pytest.warns(RuntimeWarning, match="in this test"):
        assert dispatch.self_test("bias_act", "cpu", torch.device("cpu")).passed
