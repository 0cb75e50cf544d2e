"""Memory of tensors: freed, or given back where the values lie in a file; CPUs without products in half precision."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from runs import Result, tiny_set

from gankit.core.runtime import devices

PAGE_FAULTS = """
import resource, sys, torch
from gankit.core.runtime import devices
if sys.argv[1] == "keep":
    devices.keep_freed_memory()
def work():
    for _ in range(10):
        x = torch.zeros(4, 64, 200, 200)  # 41 MB: above 32 MB glibc never learns to keep them
        y = x * 2 + 1
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_freed_memory_is_kept() -> None:
    def faults(mode: str) -> int:
        command = [sys.executable, "-c", PAGE_FAULTS, mode]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert faults("keep") < 0.5 * faults("as it was")  # the heap may still grow by a tensor or two


def test_what_a_cpu_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    ops = type("ops", (), {"_is_mkldnn_bf16_supported": lambda: False})
    monkeypatch.setattr(torch.ops, "mkldnn", ops)
    assert not devices.multiplies(torch.bfloat16, cpu)
    assert devices.multiplies(torch.float16, cpu)  # as torch does not tell
    assert devices.multiplies(torch.float32, cpu)
    assert devices.multiplies(torch.bfloat16, gpu)


@pytest.mark.parametrize("has", [True, False])
def test_training_in_bf16_where_products_are_slow_is_in_fp32(
    gankit_cli: Callable[..., Result],
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    has: bool,
) -> None:
    monkeypatch.setattr(devices, "multiplies", lambda dtype, device: has)
    options = tiny_set(train__precision="bf16", train__images=8)
    done = gankit_cli("train", "stylegan2", "--data", images, "--out", tmp_path / "run", *options)
    assert done.code == 0
    assert ("train.precision = 'bf16': this CPU has no products in bf16" in done.out + done.err) == (not has)
    line = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])
    assert line["machine"]["precision"] == ("bf16" if has else "fp32")
