"""`gankit doctor`: one page, exit code 0 where all is well, 1 where a self-test or the choice fails, no traceback."""

from __future__ import annotations

import pytest
import torch

from gankit.core.cuda import dispatch


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.setattr(dispatch, "_choices", {})
    monkeypatch.setattr(dispatch, "requested", "auto")


def test_page(gankit_cli):
    result = gankit_cli("doctor")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert len(lines) < 60
    assert torch.__version__ in result.out
    assert "all is well" in lines[-1]
    for operator in dispatch.OPERATORS:
        rows = [line.split() for line in lines if line.startswith(operator)]
        assert [operator, "cpu", "cpu", "tensors", "are", "on", "cpu"] in rows
        for name in ("reference", "cpu"):
            (error,) = [row[3] for row in rows if row[1:3] == ["cpu", name] and len(row) == 4]
            assert 0 < float(error) < 1e-5


def test_a_wrong_operator_is_found(gankit_cli, monkeypatch):
    right = dispatch.COMPOSITE["upfirdn2d"]
    monkeypatch.setitem(dispatch.COMPOSITE, "upfirdn2d", lambda *arguments: 1.01 * right(*arguments))
    result = gankit_cli("doctor")
    assert result.code == 1
    (row,) = [line for line in result.out.splitlines() if "FAILED:" in line]
    assert row.split()[:3] == ["upfirdn2d", "cpu", "cpu"]
    assert "was wrong by" in row
    assert "Traceback" not in result.out + result.err
    assert "see FAILED above" in result.out


def test_an_operator_that_raises_is_found(gankit_cli, monkeypatch):
    monkeypatch.setitem(dispatch.COMPOSITE, "bias_act", lambda *arguments: 1 // 0)
    result = gankit_cli("doctor")
    assert result.code == 1
    assert "FAILED: raised ZeroDivisionError" in result.out
    assert "Traceback" not in result.out + result.err


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("tritton", "unknown implementation in GANKIT_OPS 'tritton'; did you mean 'triton'"),
        ("triton", "GANKIT_OPS=triton: no Triton kernel runs on cpu here"),
    ],
)
def test_a_bad_environment_is_on_the_page(gankit_cli, monkeypatch, value, message):
    monkeypatch.setattr(dispatch, "requested", value)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    result = gankit_cli("doctor")
    assert result.code == 1
    assert message in result.out
    assert "Traceback" not in result.out + result.err
