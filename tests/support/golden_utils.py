"""Reads the reference vectors in `tests/golden`: inputs and outputs of the original implementations at tiny sizes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

GOLDEN = Path(__file__).parent.parent / "golden"


@dataclass
class Case:
    name: str
    kwargs: dict[str, Any]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    tolerance: dict[str, float]
    call: str

    def check(self, name: str, actual: Tensor, *, factor: float = 1.0) -> None:
        """Assert the pass rule max|y - expected| <= 1e-4 absmax + 20 noise + 1e-6, times `factor`."""
        expected = self.outputs[name]
        assert actual.shape == expected.shape, f"{self.name}.{name}: {actual.shape} != {expected.shape}"
        error = (
            (actual.detach().cpu().double() - expected.double()).abs().max().item()
            if expected.numel()
            else 0.0
        )
        assert error <= factor * self.tolerance[name], f"{self.name}.{name}: error {error:.3g}"


@dataclass
class Golden:
    meta: dict[str, Any]
    tensors: dict[str, Tensor]
    cases: list[Case]

    def state(self, prefix: str = "state/") -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}


def load_golden(name: str) -> Golden:
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        meta = json.loads(file.metadata()["golden"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    cases = []
    for case in meta["cases"]:
        cases.append(
            Case(
                name=case["name"],
                call=case["call"],
                kwargs=case["kwargs"],
                inputs={k: tensors[v] for k, v in case["inputs"].items()},
                outputs={k: tensors[v["key"]] for k, v in case["outputs"].items()},
                tolerance={
                    k: 1e-4 * v["absmax"] + 20 * v.get("noise", 0) + 1e-6 for k, v in case["outputs"].items()
                },
            )
        )
    return Golden(meta, tensors, cases)


__all__ = ["GOLDEN", "Case", "Golden", "load_golden", "torch"]
