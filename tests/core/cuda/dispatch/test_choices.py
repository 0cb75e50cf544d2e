"""Which implementation is chosen, why, and what is said about it."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gankit.core import cuda
from gankit.core.cuda import dispatch, selftest
from gankit.errors import GankitError
from gankit.plugins.op_backends import triton

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def calls(monkeypatch):
    """(implementation, operator) of each call."""
    made = []

    def spy(name, operator, function):
        return lambda *arguments: made.append((name, operator)) or function(*arguments)

    for name, table in (("reference", dispatch.REFERENCE), ("composite", dispatch.COMPOSITE)):
        for operator, function in list(table.items()):
            monkeypatch.setitem(table, operator, spy(name, operator, function))
    return made


def test_argument_beats_environment_beats_auto(calls, monkeypatch):
    x = torch.zeros(1, 1, 2, 2)
    cuda.bias_act(x)
    monkeypatch.setattr(dispatch, "requested", "reference")
    cuda.bias_act(x)
    cuda.upsample2d(x, None)
    cuda.bias_act(x, impl="composite")
    assert calls == [
        ("composite", "bias_act"),
        ("reference", "bias_act"),
        ("reference", "upfirdn2d"),
        ("composite", "bias_act"),
    ]
    assert "GANKIT_OPS=reference" in dispatch.choose("bias_act", CPU).reason


def test_unknown_value_of_the_environment(monkeypatch):
    monkeypatch.setattr(dispatch, "requested", "composit")
    with pytest.raises(GankitError, match="in GANKIT_OPS 'composit'; did you mean 'composite'"):
        cuda.bias_act(torch.zeros(1, 1))


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True,
                          text=True, cwd=Path(__file__).parent, check=False)  # fmt: skip


def test_environment_is_read():
    code = "import torch; from gankit.core.cuda.dispatch import choose; print(choose('bias_act', torch.device('cpu')))"
    done = run(code, GANKIT_OPS="reference")
    assert "GANKIT_OPS=reference asks for it" in done.stdout, done.stderr


def test_triton_is_refused_where_it_cannot_run(monkeypatch):
    x = torch.zeros(1, 1, 2, 2)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(
        ValueError, match="impl='triton': triton does not run on cpu here: it needs an NVIDIA GPU"
    ):
        cuda.bias_act(x, impl="triton")
    monkeypatch.setattr(dispatch, "requested", "triton")
    with pytest.raises(GankitError, match=r"GANKIT_OPS=triton: .* use 'auto' or 'composite'"):
        cuda.bias_act(x)


# -------------------------------------------------------------------------- on a GPU that this machine need not have


@pytest.fixture
def ampere(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 0))
    fake = type("Kernels", (), {"bias_act": lambda *a: "kernel", "upfirdn2d": lambda *a: "other"})
    monkeypatch.setattr(triton, "kernels", lambda: fake)


def chosen(operator="bias_act"):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        choice = dispatch.choose(operator, GPU)
    return choice, [str(w.message) for w in caught]


def test_auto_takes_a_kernel_that_passes_its_self_test(ampere, monkeypatch):
    tested = []
    monkeypatch.setattr(dispatch, "self_test", lambda *a: tested.append(a) or selftest.Result(2e-7))
    for _ in range(2):
        choice, messages = chosen()
        assert (choice.name, choice.function(), messages) == ("triton", "kernel", [])
    assert tested == [("bias_act", "triton", GPU)]  # once
    assert "2e-07" in choice.reason


@pytest.mark.parametrize("operator", dispatch.OPERATORS)
def test_auto_leaves_small_tensors_to_plain_torch(operator, monkeypatch):
    monkeypatch.setattr(triton.Triton, "obstacle", lambda self, device: None)
    monkeypatch.setattr(triton.Triton, "add_rgb", lambda *a: None, raising=False)
    monkeypatch.setattr(dispatch, "self_test", lambda *a: selftest.Result(2e-7))

    def function(elements, impl):
        return dispatch.function(operator, SimpleNamespace(device=GPU, numel=lambda: elements), impl)

    composite = dispatch.COMPOSITE[operator]
    assert function(triton.SMALL, "auto") is not composite
    always = operator in ("filtered_lrelu", "add_rgb")
    assert (function(triton.SMALL - 1, "auto") is not composite) == always
    assert function(triton.SMALL - 1, "triton") is not composite


def test_auto_avoids_a_kernel_that_fails_its_self_test_with_one_warning(ampere, monkeypatch):
    monkeypatch.setattr(dispatch, "self_test", lambda *a: selftest.Result(0.3, "was wrong by 3.0e-01"))
    choice, messages = chosen()
    assert choice.name == "composite"
    assert choice.function is dispatch.COMPOSITE["bias_act"]
    assert len(messages) == 1
    assert "the self-test of bias_act was wrong by 3.0e-01" in messages[0]
    assert "report it with what `gankit doctor` prints" in messages[0]
    assert chosen()[1] == []


def test_missing_triton_is_told_once(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))

    def missing():
        raise ImportError("No module named 'triton'")

    monkeypatch.setattr(triton, "kernels", missing)
    first, messages = chosen()
    assert first.name == "composite"
    assert len(messages) == 1
    assert "Triton cannot be imported (No module named 'triton')" in messages[0]
    assert chosen("upfirdn2d")[1] == []


def test_old_gpus_get_composites(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Some GPU")
    choice, _ = chosen()
    assert choice.name == "composite"
    assert "Some GPU has a compute capability below 8.0" in choice.reason


def test_an_image_is_made_of_parts_where_no_backend_has_it_whole(ampere, monkeypatch):
    """Each part is chosen by itself."""
    monkeypatch.setattr(dispatch, "self_test", lambda *a: selftest.Result(2e-7))
    assert chosen("add_rgb")[0].name == "parts"
