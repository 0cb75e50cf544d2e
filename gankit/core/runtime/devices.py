"""Device choice, bf16 support, memory of CPU tensors, and error messages for out-of-memory."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import torch

from gankit.core.runtime import distributed
from gankit.errors import GankitError, unknown

P = ParamSpec("P")
T = TypeVar("T")


def pick_device(name: str | torch.device, local_rank: int = 0) -> torch.device:
    """'auto' | 'cpu' | 'cuda' | 'mps' (or 'cuda:1') -> a device that is available; 'cuda' takes GPU `local_rank`.

    Raises GankitError for an unknown or unavailable device."""
    name = str(name)
    kind = name.partition(":")[0]
    if not re.fullmatch(r"auto|(cpu|cuda|mps)(:\d+)?", name):
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
    return torch.device(name)


@contextlib.contextmanager
def settings(device: torch.device) -> Iterator[None]:
    """Context in which torch is set as gankit computes, whatever the program around it has set; restored afterwards.

    Float32 and the CPU are the defaults of new tensors, there are gradients and no autocast; a GPU is the current
    device, with cuDNN's benchmark mode. Threads may be in it at the same time: settings that all threads share are
    restored by the last one."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if torch.is_autocast_enabled(
            device.type
        ):  # its cache would keep weights from before a step of the optimizer
            stack.enter_context(torch.autocast(device.type, enabled=False, cache_enabled=False))
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(device))
        stack.enter_context(_shared_settings(device))
        yield


@contextlib.contextmanager
def unchanged() -> Iterator[None]:
    """Context after which default dtype and device, gradient mode and random state are as before, whatever code of
    others has done in it."""
    dtype, device, state = torch.get_default_dtype(), torch.get_default_device(), torch.get_rng_state()
    try:
        with torch.set_grad_enabled(torch.is_grad_enabled()):
            yield
    finally:
        torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            torch.set_default_device(device)
        torch.set_rng_state(state)


_inside: list[tuple[torch.dtype, bool]] = []  # what the threads that are in `_shared_settings` found there
_lock = threading.Lock()


@contextlib.contextmanager
def _shared_settings(device: torch.device) -> Iterator[None]:
    """The part of `settings` that is the same in all threads: default dtype and cuDNN's benchmark mode."""
    with _lock:
        _inside.append((torch.get_default_dtype(), torch.backends.cudnn.benchmark))
        torch.set_default_dtype(torch.float32)
        torch.backends.cudnn.benchmark |= device.type == "cuda"
    try:
        yield
    finally:
        with _lock:
            first = _inside[0]
            _inside.pop()
            if not _inside:
                torch.set_default_dtype(first[0])
                torch.backends.cudnn.benchmark = first[1]


def isolated(function: Callable[P, T]) -> Callable[P, T]:
    """Decorator: runs a function in the `settings` of its keyword-only argument `device`, else of the CPU."""
    defaults = {"device": "cpu", **(function.__kwdefaults__ or {})}

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        name = str({**defaults, **kwargs}["device"])
        with settings(pick_device(name, distributed.world_from_env().local_rank)):
            return function(*args, **kwargs)

    return call


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
