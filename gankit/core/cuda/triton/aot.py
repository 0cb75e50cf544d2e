"""Compiles every kernel in every configuration ahead of time, which needs no GPU, and reads what the assembler made of
it: registers, shared memory, spills. `python -m gankit.core.cuda.triton.aot [--all]` prints the table.

A process with TRITON_INTERPRET=1 cannot compile.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import compiler as nvidia
from triton.compiler import ASTSource

from gankit.core.cuda.triton import activate, epilogue, filtered_kernel, resample
from gankit.core.cuda.triton.launch import Variant

SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}  # bytes of shared memory that one block may have
CUOBJDUMP = Path(nvidia.__file__).parent / "bin" / "cuobjdump"


@dataclass(frozen=True)
class Report:
    name: str
    capability: int
    registers: int
    shared: int  # bytes
    stack: int  # bytes of a thread
    spills: int  # instructions that load or store local memory

    @property
    def fits(self) -> bool:
        return self.spills == 0 and self.stack == 0 and self.shared <= SHARED_LIMIT[self.capability]


def variants(dtypes: tuple[torch.dtype, ...]) -> Iterator[Variant]:
    """Every kernel of the package in every tuning configuration, for tensors of `dtypes`."""
    for module in MODULES:
        yield from module.variants(dtypes)


def compile_ahead(variant: Variant, capability: int) -> Report:
    names = variant.kernel.arg_names
    signature = {name: variant.types.get(name, "constexpr") for name in names}
    aligned = {  # as torch allocates
        (i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name].startswith("*")
    }
    compiled = triton.compile(
        ASTSource(variant.kernel, signature, variant.constants, aligned),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": variant.num_warps, "num_stages": variant.num_stages},
    )
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        command = [str(CUOBJDUMP), "-res-usage", "-sass", str(cubin)]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    usage = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", text)
    if usage is None:
        raise RuntimeError(f"cuobjdump reports no resource usage for {variant.name}: {text[:200]}")
    registers, stack, local = map(int, usage.groups())
    # dynamic shared memory is known to Triton only
    return Report(
        variant.name, capability, registers, compiled.metadata.shared, stack + local,
        len(re.findall(r"\b(?:LDL|STL)\b", text)),
    )  # fmt: skip


MODULES = [activate, resample, epilogue, filtered_kernel]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="float16, bfloat16 and float32, not float16 alone")
    parser.add_argument(
        "--match", default="", help="only variants whose name matches this regular expression"
    )
    parser.add_argument("--capability", type=int, action="append", choices=sorted(SHARED_LIMIT))
    options = parser.parse_args()
    dtypes = (torch.float16, torch.bfloat16, torch.float32) if options.all else (torch.float16,)
    bad, total = [], 0
    for variant in variants(dtypes):
        if not re.search(options.match, variant.name):
            continue
        for capability in options.capability or sorted(SHARED_LIMIT):
            report = compile_ahead(variant, capability)
            total += 1
            line = (
                f"{'ok ' if report.fits else 'BAD'} sm_{capability} {report.registers:3d} registers "
                f"{report.shared:6d} B shared {report.spills} spills {report.stack} B stack  {report.name}"
            )
            print(line, flush=True)
            bad += [] if report.fits else [line]
    print(f"{total} compiled, {len(bad)} beyond the limits", *bad, sep="\n")
    return 1 if bad or not total else 0


if __name__ == "__main__":
    sys.exit(main())
