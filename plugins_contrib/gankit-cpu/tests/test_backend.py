"""The op backend `cpu`: where it runs, what it says of itself, and core's self-test of each operator that it has."""

from __future__ import annotations

import pytest
import torch

from gankit.core.cuda import dispatch
from gankit_cpu import kernels, onednn
from gankit_cpu.backend import CPUKernels

CPU = torch.device("cpu")
OWN = [name for name in dispatch.OPERATORS if hasattr(CPUKernels, name)]


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.setattr(dispatch, "_choices", {})
    monkeypatch.setattr(dispatch, "requested", "auto")


@pytest.mark.parametrize("operator", dispatch.OPERATORS)
@pytest.mark.parametrize("name", ["cpu"])
def test_self_tests_pass(operator, name):
    if operator not in OWN:  # `auto` takes the composite
        assert dispatch.choose(operator, CPU).name == "composite"
        return
    result = dispatch.self_test(operator, name, CPU)
    assert result.passed, result.failure
    assert 0 < result.error < 1e-5
    assert dispatch.choose(operator, CPU).name == name


def test_where_it_runs():
    backend = CPUKernels()
    assert backend.obstacle(CPU) is None
    assert backend.obstacle(torch.device("cuda")) == "its kernels are for CPUs"
    with pytest.raises(ValueError, match="cpu does not run on meta here"):
        dispatch.choose("modulated_conv2d", torch.device("meta"), "cpu")


def test_what_a_run_records():
    used = dispatch.backends_in_use(CPU)
    assert used.keys() == {"composite", "cpu"}
    assert used["cpu"].startswith("gankit-cpu 0.1.0, llvmlite ")


def test_failures(monkeypatch):
    monkeypatch.setattr(kernels, "_failures", [])
    monkeypatch.setattr(onednn, "failures", [])
    assert CPUKernels().failures() == []
    monkeypatch.setattr(kernels, "_missing", ["llvmlite cannot be imported: none here"])
    assert CPUKernels().failures() == []
    assert CPUKernels().summary() == "no kernels by LLVM: llvmlite cannot be imported: none here"
    monkeypatch.setattr(onednn, "failures", ["RuntimeError: no such overload"])
    assert CPUKernels().failures() == ["RuntimeError: no such overload"]
