"""Device choice, bf16 support, memory of CPU tensors, and error messages for out-of-memory."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
from collections.abc import Iterator

import torch

from gankit.errors import GankitError, unknown


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """'auto' | 'cpu' | 'cuda' | 'mps' (or 'cuda:1') -> a device that is available; 'cuda' takes GPU `local_rank`.

    Also makes a GPU the current device and turns cuDNN's benchmark mode on. Raises GankitError for an unknown or
    unavailable device."""
    kind = name.partition(":")[0]
    if kind not in ("auto", "cpu", "cuda", "mps"):
        raise GankitError(unknown("device", name, ["auto", "cpu", "cuda", "mps"]))
    if kind == "cuda" and not torch.cuda.is_available():
        raise GankitError(
            "--device cuda: torch sees no CUDA device here; use --device cpu, or install a CUDA build of torch"
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise GankitError("--device mps: this torch or machine has no MPS; use --device cpu")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        name = kind
    if name == "cuda":
        name = f"cuda:{local_rank}"
    device = torch.device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
    return device


# private function of torch.cpu that tests for a unit -> name of the unit
BF16_UNITS = {"_is_avx512_bf16_supported": "AVX512_BF16", "_is_amx_tile_supported": "AMX"}


def has_fast_bf16(device: torch.device) -> bool:
    """True if the device computes in bf16 faster than in fp32: a GPU with native bf16, a CPU with AVX512_BF16 or AMX.

    With AVX512_BF16 alone a training step was 2.1 times as fast for StyleGAN2 at 128 px and 1.1 times for the small
    networks of the recipe `avatars`; emulated bf16 is slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return bool(bf16_units())
    return False


@functools.cache
def bf16_units() -> list[str]:
    """Names of this CPU's bf16 units, such as 'AMX'."""
    return [name for question, name in BF16_UNITS.items() if getattr(torch.cpu, question, bool)()]


def multiplies(dtype: torch.dtype, device: torch.device) -> bool:
    """True if matrix products and convolutions in this half precision are not slower than in float32.

    On some CPUs, such as those with AVX2 only, oneDNN has no kernels for them, and torch's own take 3 to 100 times as
    long as float32. True also if torch does not tell."""
    kind = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(dtype)
    if device.type != "cpu" or kind is None:
        return True
    question = getattr(torch.ops.mkldnn, f"_is_mkldnn_{kind}_supported", None)
    return question is None or bool(question())


def keep_freed_memory() -> None:
    """Make glibc's malloc keep freed memory of CPU tensors for reuse; no effect with other C libraries.

    By default glibc returns large blocks to the kernel at once and gets them back, zeroed and page by page, at the next
    operation; on a virtual machine this took half of a training's CPU time.
    """
    libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    if libc is None or not hasattr(libc, "gnu_get_libc_version"):
        return
    mmap_max, trim_threshold, top_pad, arena_max = -4, -1, -2, -8  # names of mallopt(3)
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)
    libc.mallopt(top_pad, 2**27)
    libc.mallopt(arena_max, 1)  # other arenas, those of autograd's threads, cannot hold large blocks


@contextlib.contextmanager
def memory_advice(advice: str) -> Iterator[None]:
    """Context manager that turns an out-of-memory error of any device into a GankitError ending in `advice`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        if text.startswith("DataLoader worker"):
            raise GankitError(
                "a process that decodes images has died, perhaps for lack of (shared) memory: use fewer --workers, or "
                f"--workers 0 for none ({text.splitlines()[0]})"
            ) from error
        oom = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
            phrase in text for phrase in ("can't allocate memory", "not enough memory", "out of memory")
        )
        if not oom:
            raise
        raise GankitError(f"out of memory: {advice}") from error
