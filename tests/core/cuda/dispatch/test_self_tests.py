"""The self-tests of operators find wrong values and derivatives, and change nothing else."""

from __future__ import annotations

import warnings

import pytest
import torch

from gankit.core.cuda import dispatch, selftest

CPU = torch.device("cpu")


@pytest.mark.parametrize("operator", dispatch.OPERATORS)
@pytest.mark.parametrize("name", dispatch.PLAIN)
def test_self_tests_pass(operator, name):
    result = dispatch.self_test(operator, name, CPU)
    assert result.passed
    assert 0 < result.error < 1e-5  # float32 against float64: zero would mean that nothing was compared


@pytest.mark.parametrize("operator", dispatch.OPERATORS)
def test_self_tests_find_wrong_values_and_derivatives(operator):
    right = dispatch.COMPOSITE[operator]

    class WrongGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, dy):
            return dy * 1.01

    for wrong in (
        lambda *a: right(*a) + 0.01,
        lambda *a: WrongGradient.apply(right(*a)),
        lambda *a: right(*a)[:1],
    ):
        assert not selftest.check(operator, wrong, CPU).passed
    with pytest.raises(ValueError, match="no self-test of an operator 'bias_acts'"):
        selftest.check("bias_acts", lambda *a: 1, CPU)
    assert "raised ZeroDivisionError" in selftest.check(operator, lambda *a: 1 // 0, CPU).failure


def test_a_self_test_hides_no_other_warning(monkeypatch):
    right = dispatch.COMPOSITE["bias_act"]

    def warns(*arguments):
        warnings.warn("something failed (in this test)", RuntimeWarning, stacklevel=1)
        return right(*arguments)

    monkeypatch.setitem(dispatch.COMPOSITE, "bias_act", warns)
    with pytest.warns(RuntimeWarning, match="in this test"):
        assert dispatch.self_test("bias_act", "composite", torch.device("cpu")).passed


def test_self_tests_leave_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert dispatch.self_test("modulated_conv2d", "composite", CPU).passed
    assert torch.equal(torch.rand(3), expected)
