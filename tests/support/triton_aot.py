"""Compiles every kernel in every configuration ahead of time, which needs no GPU, and reads what the assembler made of
it: registers, shared memory, spills. `python tests/support/triton_aot.py [--all]` prints the table.

A process with TRITON_INTERPRET=1 cannot compile.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import compiler as nvidia
from triton.compiler import ASTSource

from gankit.core.cuda.activations import ACTIVATIONS
from gankit.core.cuda.triton import activate, epilogue, filtered_kernel, resample

SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}  # bytes of shared memory that one block may have
CUOBJDUMP = Path(nvidia.__file__).parent / "bin" / "cuobjdump"


@dataclass(frozen=True)
class Variant:
    """One specialisation of a kernel as `triton.compile` takes it: argument types, constants, warps."""

    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any]
    num_warps: int
    num_stages: int = 1
    label: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        return f"{self.kernel.__name__}[{self.label}]"


TYPE_NAMES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32", torch.float64: "fp64"}


def bias_act_variants(dtypes: tuple[torch.dtype, ...]) -> Iterator[Variant]:
    """Everything that can be launched, up to bias and clamp, which are on: they only add to the kernel."""
    for dtype in dtypes:
        for act, spec in ACTIVATIONS.items():
            for order in (0, 1) if spec.homogeneous else (0, 1, 2):
                for block, warps in activate.CONFIGS:
                    pointer = f"*{TYPE_NAMES[dtype]}"
                    from_output = order > 0 and spec.homogeneous
                    yield Variant(
                        activate.bias_act_kernel,
                        {
                            "x_ptr": pointer, "b_ptr": "*fp32", "dy_ptr": pointer, "ddx_ptr": pointer,
                            "out_ptr": pointer, "n": "i32", "b_step": "i32", "b_size": "i32",
                            "alpha": "fp32", "gain": "fp32", "clamp": "fp32",
                        },
                        {
                            "ACT": act, "BIAS": not from_output, "CLAMP": True, "ORDER": order,
                            "FROM_OUTPUT": from_output, "LONG": False,
                            "COMPUTE": tl.float64 if dtype == torch.float64 else tl.float32, "BLOCK": block,
                        },
                        warps,
                        label=f"{TYPE_NAMES[dtype]} {act} order {order} block {block}",
                    )  # fmt: skip


# Up, down, taps of the layers of StyleGAN2: upsampling with and after a convolution, both gradients, the separable
# 12-tap filter of the augmentation; and 4 for good measure.
RESAMPLED = (
    (1, 1, 4, 4), (2, 1, 4, 4), (1, 2, 4, 4), (2, 1, 12, 1), (1, 2, 1, 12), (4, 1, 8, 8), (1, 4, 8, 8),
)  # fmt: skip


def upfirdn2d_variants(dtypes: tuple[torch.dtype, ...]) -> Iterator[Variant]:
    for dtype in dtypes:
        for up, down, taps_x, taps_y in RESAMPLED:
            for block_x, block_y, block_c, warps in (
                resample.CONTIGUOUS_CONFIGS + resample.CHANNELS_LAST_CONFIGS
            ):
                pointer, sizes = f"*{TYPE_NAMES[dtype]}", resample.upfirdn2d_kernel.arg_names[4:22]
                yield Variant(
                    resample.upfirdn2d_kernel,
                    {"x_ptr": pointer, "f_ptr": "*fp32", "y_ptr": pointer, "gain": "fp32", "channels": "i32"}
                    | dict.fromkeys(sizes, "i32"),
                    {
                        "UP_X": up if taps_x > 1 else 1, "UP_Y": up if taps_y > 1 else 1,
                        "DOWN_X": down if taps_x > 1 else 1, "DOWN_Y": down if taps_y > 1 else 1,
                        "PERIOD_X": up if taps_x > 1 else 1, "PERIOD_Y": up if taps_y > 1 else 1,
                        "TAPS_X": taps_x, "TAPS_Y": taps_y, "CONVOLVE": True,
                        "COMPUTE": tl.float64 if dtype == torch.float64 else tl.float32,
                        "BLOCK_X": block_x, "BLOCK_Y": block_y, "BLOCK_C": block_c,
                    },
                    warps,
                    label=f"{TYPE_NAMES[dtype]} up {up} down {down} taps {taps_x}x{taps_y} "
                    f"tile {block_x}x{block_y}x{block_c}",
                )  # fmt: skip


def epilogue_variants(dtypes: tuple[torch.dtype, ...]) -> Iterator[Variant]:
    for dtype in dtypes:
        for channels_last, configs in (
            (False, epilogue.CONTIGUOUS_CONFIGS),
            (True, epilogue.CHANNELS_LAST_CONFIGS),
        ):
            for block_p, block_c, warps in configs:
                for act in ("linear", "relu", "lrelu"):
                    pointer = f"*{TYPE_NAMES[dtype]}"
                    floats = dict.fromkeys(("alpha", "gain", "clamp"), "fp32")
                    tensors = dict.fromkeys(("x_ptr", "y_ptr", "dy_ptr", "ref_ptr", "dx_ptr"), pointer)
                    sums = dict.fromkeys(("s_ptr", "b_ptr", "noise_ptr", "s_sum_ptr", "g_sum_ptr"), "*fp32")
                    sizes = ("channels", "pixels", "noise_step", "tiles_p", "tiles_c", "splits")
                    types = tensors | sums | floats | dict.fromkeys(sizes, "i32")
                    shared = {
                        "SCALE": True, "ACT": act, "CLAMP": act != "linear", "CHANNELS_LAST": channels_last,
                        "COMPUTE": tl.float64 if dtype == torch.float64 else tl.float32,
                        "BLOCK_P": block_p, "BLOCK_C": block_c,
                    }  # fmt: skip
                    own: dict[str, Any] = {"NOISE": act != "linear", "BIAS": act != "linear"}
                    label = f"{TYPE_NAMES[dtype]} {act} tile {block_p}x{block_c}"
                    yield Variant(epilogue.epilogue_kernel, types, shared | own, warps, label=label)
                    own = {"REF": act != "linear", "STEPS": epilogue.STEPS}
                    yield Variant(epilogue.epilogue_backward_kernel, types, shared | own, warps, label=label)


# up, down, taps and ranks of fu and fd: StyleGAN3-T, its first and last layers, the gradients, StyleGAN3-R.
FILTERED = (
    (2, 2, 12, 12, 1, 1), (4, 2, 24, 12, 1, 1), (2, 4, 12, 24, 1, 1), (1, 1, 1, 1, 1, 1), (2, 1, 12, 12, 1, 1),
    (4, 2, 24, 12, 1, 6), (2, 4, 12, 24, 6, 1), (2, 2, 12, 12, 1, 6), (2, 2, 12, 12, 6, 1),
)  # fmt: skip


def filtered_lrelu_variants(dtypes: tuple[torch.dtype, ...]) -> Iterator[Variant]:
    for dtype in dtypes:
        for up, down, up_taps, down_taps, rank_u, rank_d in FILTERED:
            for tile, warps in filtered_kernel.configs(dtype, (rank_u, rank_d)):
                for role in ("", " sampling", " backward"):  # sampling keeps no bits
                    names = filtered_kernel.filtered_lrelu_kernel.arg_names
                    types = {name: "*fp32" for name in names if name.endswith("_ptr")}
                    types |= {"x_ptr": f"*{TYPE_NAMES[dtype]}", "y_ptr": f"*{TYPE_NAMES[dtype]}"}
                    types["mask_ptr"] = "*u8"
                    types |= {name: "i32" for name in names if name.islower() and name not in types}
                    types |= dict.fromkeys(("gain", "slope", "clamp"), "fp32")
                    read = role == " backward"
                    constants = {
                        "UP": up, "DOWN": down, "UX": up_taps, "UY": up_taps, "DX": down_taps, "DY": down_taps,
                        "RANK_U": rank_u, "RANK_D": rank_d, "BIAS": not read, "CLAMP": not read, "READ": read,
                        "WRITE": role == "", "COMPUTE": tl.float64 if dtype == torch.float64 else tl.float32,
                        "PRECISION": filtered_kernel.precision(dtype),
                    }  # fmt: skip
                    if role == " sampling":
                        del types["mask_ptr"]
                        constants["mask_ptr"] = None
                    constants |= filtered_kernel.tile_constants(
                        tile, up, down, (up_taps,) * 2, (down_taps,) * 2
                    )
                    yield Variant(
                        filtered_kernel.filtered_lrelu_kernel, types, constants, warps,
                        label=f"{TYPE_NAMES[dtype]} up {up} down {down} taps {up_taps}, {down_taps} "
                        f"ranks {rank_u}, {rank_d} tile {tile}{role}",
                    )  # fmt: skip


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
    for family in (bias_act_variants, upfirdn2d_variants, epilogue_variants, filtered_lrelu_variants):
        yield from family(dtypes)


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
