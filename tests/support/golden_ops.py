"""Runs one golden case of an operator through an implementation and checks value, first and second order gradients."""

from __future__ import annotations

import torch
from golden_utils import Case, load_golden

from gankit.core import cuda

FILES = (
    *("ops_bias_act", "ops_upfirdn2d", "ops_conv2d_resample", "ops_modconv_sg2", "ops_modconv_sg3"),
    "ops_filtered_lrelu",
)
CASES = [(name, case) for name in FILES for case in load_golden(name).cases]
IDS = [f"{name}-{case.name}" for name, case in CASES]

# Variables and the vectors that their gradients are contracted with; names of StyleGAN3's convolution differ.
VECTORS = {"x": "vx", "b": "vb", "w": None, "weight": "vw", "styles": "vs"}
STYLEGAN3_NAMES = {"w": "weight", "s": "styles"}


def check(name: str, case: Case, impl: str, device: torch.device | str = "cpu") -> None:
    """The pass rule; values ten times tighter. Every output of the case must have been checked."""
    renamed = STYLEGAN3_NAMES if name == "ops_modconv_sg3" else {}
    original = {new: old for old, new in renamed.items()}
    kwargs = {key: value for key, value in case.kwargs.items() if key != "fused_modconv"}
    inputs = {renamed.get(key, key): value.clone().to(device) for key, value in case.inputs.items()}
    operator = getattr(cuda, case.call)
    if case.call == "setup_filter":
        case.check("f", operator(**kwargs, impl=impl), factor=0.1)
        return
    if case.call == "modulated_conv2d":
        inputs["resample_filter"] = inputs.pop("f", None)
        kwargs["normalize"] = name == "ops_modconv_sg3"
    elif case.call not in ("bias_act", "filtered_lrelu"):
        inputs.setdefault("f", None)
    dy = inputs.pop("dy").requires_grad_()
    vectors = {key: inputs.pop(v) for key, v in VECTORS.items() if v in inputs}
    variables = {key: inputs[key].requires_grad_() for key in VECTORS if key in inputs}

    checked = {"y"}
    y = operator(**inputs, **kwargs, impl=impl)
    case.check("y", y, factor=0.1)
    gradients = torch.autograd.grad(y, list(variables.values()), dy, create_graph=True)
    for key, gradient in zip(variables, gradients):
        case.check(f"d{original.get(key, key)}", gradient)
        checked.add(f"d{original.get(key, key)}")
    if vectors:
        contraction = sum((g * vectors[key]).sum() for key, g in zip(variables, gradients))
        second = torch.autograd.grad(
            contraction, [dy, *variables.values()], allow_unused=True, materialize_grads=True
        )
        for key, gradient in zip(["dy", *variables], second):
            label = f"d2_{original.get(key, key)}"
            if label in case.outputs:
                case.check(label, gradient)
                checked.add(label)
    assert checked == set(case.outputs)


def worst_in_half_precision(impl: str, dtype: torch.dtype) -> float:
    """Largest error of the values of all cases for inputs that are rounded to half precision, against the reference of
    the same in float64, as a share of the largest value of each."""
    worst = 0.0
    for name, case in CASES:
        if case.call == "setup_filter":
            continue
        renamed = STYLEGAN3_NAMES if name == "ops_modconv_sg3" else {}
        kwargs = {key: value for key, value in case.kwargs.items() if key != "fused_modconv"}
        inputs = {renamed.get(k, k): v for k, v in case.inputs.items() if k != "dy" and not k.startswith("v")}
        filters = {k: inputs.pop(k) for k in ("f", "fu", "fd") if k in inputs}
        if case.call == "modulated_conv2d":
            filters = {"resample_filter": filters.get("f")}
            kwargs["normalize"] = name == "ops_modconv_sg3"
        elif case.call not in ("bias_act", "filtered_lrelu"):
            filters.setdefault("f", None)
        half = {key: value.to(dtype) for key, value in inputs.items()}
        exact = {key: value.double() for key, value in half.items()}
        operator = getattr(cuda, case.call)
        y = operator(**half, **filters, **kwargs, impl=impl)
        expected = operator(**exact, **filters, **kwargs, impl="reference")
        assert y.dtype == dtype
        if expected.numel():
            worst = max(worst, ((y.double() - expected).abs().max() / expected.abs().max()).item())
    return worst
