"""Checks of op backends: core's self-test of every operator that they have, wherever they can run."""

from __future__ import annotations

import difflib
from collections.abc import Callable

import torch

from gankit.core.cuda import dispatch
from gankit.core.interfaces.op_backend import OpBackend
from gankit.testing.common import Subject


def _devices() -> list[torch.device]:
    cuda = [torch.device("cuda")] if torch.cuda.is_available() else []
    return [torch.device("cpu"), *cuda]


def check_op_backend_declares(subject: Subject) -> None:
    """Types of device and operators are known ones, and obstacles are sentences."""
    found: OpBackend = subject.build()
    assert isinstance(found, OpBackend), f"{subject}: {type(found).__name__} is no OpBackend"
    unknown = [name for name in found.devices if name not in ("cpu", "cuda", "mps")]
    assert not unknown, f"{subject}: devices has {unknown}, which are no types of device"
    for name in vars(type(found)):
        near = difflib.get_close_matches(name, dispatch.OPERATORS, n=1, cutoff=0.8)
        assert name in dispatch.OPERATORS or not near, (
            f"{subject}: {name} is no operator; is {near[0]} meant?"
        )
    own = [name for name in dispatch.OPERATORS if hasattr(found, name)]
    assert own, f"{subject}: has none of the operators {', '.join(dispatch.OPERATORS)}"
    for name, size in found.smallest.items():
        assert name in own, f"{subject}: smallest names {name!r}, which it does not have"
        assert isinstance(size, int), f"{subject}: smallest[{name!r}] is {size!r}, not a number of elements"
        assert size >= 0, f"{subject}: smallest[{name!r}] is {size}"
    for device in _devices():
        reason = found.obstacle(device)
        told = reason is None or (isinstance(reason, str) and len(reason) > 10)
        assert told, f"{subject}: obstacle({device.type}) is {reason!r}, neither None nor a reason"


def check_op_backend_operators(subject: Subject) -> None:
    """Values and two orders of derivatives of every operator that it has are those of the reference."""
    found: OpBackend = subject.build()
    for device in _devices():
        if found.obstacle(device):
            continue
        for operator in dispatch.OPERATORS:
            if hasattr(found, operator):
                result = dispatch.self_test(operator, subject.name, device)
                assert result.passed, f"{subject}: {operator} on {device.type} {result.failure}"


CHECKS: dict[str, list[Callable[[Subject], None]]] = {
    "op-backend": [check_op_backend_declares, check_op_backend_operators],
}
