"""Which implementation computes an operator.

- `reference`: the definition, step by step. Slow.
- `cpu`: composites of torch's operators, built to be fast on a CPU; they run on every device. Without gradients, a
  kernel compiled for this CPU may do a part (`native`).
- `triton`: one kernel for each operator, for NVIDIA GPUs.
- `auto`: `triton` for CUDA tensors where its self-test passes, but for small ones, else `cpu`.

The argument `impl` decides, then the environment variable GANKIT_OPS, else `auto`. The choice is made when an operator
first meets a kind of device and kept. Graphs that are compiled or exported hold composites only, so that a file needs
no gankit to run.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from gankit.core.cuda import native, reference
from gankit.core.cuda.bias_act import bias_act
from gankit.core.cuda.conv import conv2d_resample, modulated_conv2d
from gankit.core.cuda.filtered_lrelu import filtered_lrelu
from gankit.core.cuda.selftest import Result, check
from gankit.core.cuda.upfirdn2d import upfirdn2d
from gankit.errors import GankitError, unknown

ENVIRONMENT = "GANKIT_OPS"
IMPLEMENTATIONS = ("reference", "cpu", "triton")
VALID = ("auto", *IMPLEMENTATIONS)
OPERATORS = ("bias_act", "upfirdn2d", "filtered_lrelu", "conv2d_resample", "modulated_conv2d")
Function = Callable[..., Tensor]

# Elements below which `auto` leaves tensors on a GPU to plain torch, and where: a call of a custom operator keeps the
# host busy for two to three times as long, which decides where the GPU has little to do.
SMALL = 2**22
PLAIN_IF_SMALL = ("bias_act", "upfirdn2d", "conv2d_resample", "modulated_conv2d")

# What `auto` means in this process.
requested = os.environ.get(ENVIRONMENT) or "auto"

REFERENCE: dict[str, Function] = {name: getattr(reference, name) for name in OPERATORS}
COMPOSITE: dict[str, Function] = {
    "bias_act": bias_act,
    "upfirdn2d": upfirdn2d,
    "filtered_lrelu": filtered_lrelu,
    "conv2d_resample": conv2d_resample,
    "modulated_conv2d": modulated_conv2d,
}


@dataclass(frozen=True)
class Choice:
    name: str
    reason: str
    function: Function
    small: Function | None = None  # takes the place of `function` for tensors of less than SMALL elements


_choices: dict[tuple[str, str, str], Choice] = {}  # by operator, request and type of device
_warned: set[str] = set()


def request(impl: str) -> str:
    """`impl`, or what GANKIT_OPS says where that is 'auto'.

    Raises:
        ValueError: `impl` is unknown.
        GankitError: GANKIT_OPS is.
    """
    asked = requested if impl == "auto" else impl
    if asked in VALID:
        return asked
    if impl == "auto":
        raise GankitError(unknown(f"implementation in {ENVIRONMENT}", asked, VALID))
    raise ValueError(unknown("implementation in impl", str(asked), VALID))


def function(operator: str, x: Tensor, impl: str) -> Function:
    """The implementation of `operator` for tensors like `x`; raises what `request` and `choose` raise."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return (REFERENCE if request(impl) == "reference" else COMPOSITE)[operator]
    choice = _choices.get((operator, requested if impl == "auto" else impl, x.device.type))
    choice = choice or choose(operator, x.device, impl)
    return choice.small if choice.small is not None and x.numel() < SMALL else choice.function


def choose(operator: str, device: torch.device, impl: str = "auto") -> Choice:
    """The choice for a device, with its reason. It is made at the first call, which may run a self-test.

    Raises:
        ValueError: `impl` is unknown or cannot run on the device.
        GankitError: the same of GANKIT_OPS.
    """
    asked = request(impl)
    key = (operator, asked, device.type)
    if key not in _choices:
        _choices[key] = _choose(
            operator, device, asked, f"{ENVIRONMENT}={asked}" if impl == "auto" else f"impl={asked!r}"
        )
    return _choices[key]


def _choose(operator: str, device: torch.device, asked: str, wish: str) -> Choice:
    if asked == "reference":
        return Choice(asked, f"{wish} asks for it", REFERENCE[operator])
    if asked == "cpu":
        return Choice(asked, f"{wish} asks for it", COMPOSITE[operator])
    if asked == "triton":
        reason = obstacle(device)
        if reason:
            error = GankitError if wish.startswith(ENVIRONMENT) else ValueError
            raise error(f"{wish}: no Triton kernel runs on {device.type} here: {reason}; use 'auto' or 'cpu'")
        return Choice(asked, f"{wish} asks for it", getattr(kernels(), operator))
    if device.type != "cuda":
        return Choice("cpu", f"tensors are on {device.type}", COMPOSITE[operator])
    reason = obstacle(device)
    if reason is None:
        result = self_test(operator, "triton", device)
        if result.passed:
            why = f"its self-test passed with an error of {result.error:.0e}"
            small = COMPOSITE[operator] if operator in PLAIN_IF_SMALL else None
            why += f"; plain torch below {SMALL:,} elements" if small else ""
            return Choice("triton", why, getattr(kernels(), operator), small)
        reason = f"the self-test of {operator} {result.failure}"
    message = (
        f"gankit's Triton kernels are not used on {device.type}: {reason}. Plain torch takes their place, slower but "
        "equal. If that is unexpected, please report it with what `gankit doctor` prints"
    )
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, RuntimeWarning, stacklevel=4)
    return Choice("cpu", reason, COMPOSITE[operator])


def obstacle(device: torch.device) -> str | None:
    """What keeps Triton from running on a device, if anything."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if device.type != "cuda" and not (interpreted and device.type == "cpu"):
        return "it needs an NVIDIA GPU, or TRITON_INTERPRET=1 for Triton's interpreter on a CPU"
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        return f"{torch.cuda.get_device_name(device)} has a compute capability below 8.0"
    try:
        kernels()
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    return None


def self_test(operator: str, name: str, device: torch.device) -> Result:
    """Test one implementation on a device where it can run."""
    if name != "triton":
        before = native.obstacle()
        with warnings.catch_warnings():  # the result says it
            warnings.filterwarnings("ignore", "gankit's kernels for CPUs failed", RuntimeWarning)
            result = check(operator, (REFERENCE if name == "reference" else COMPOSITE)[operator], device)
        after = native.obstacle()
        return Result(result.error, f"raised {after}") if result.passed and after != before else result
    with warnings.catch_warnings():  # the result says it
        warnings.simplefilter("ignore")
        result = check(operator, getattr(kernels(), operator), device)
    failed = importlib.import_module("gankit.core.cuda.triton.launch").FAILED
    if result.passed and failed:  # plain torch has stepped in
        return Result(
            result.error, "raised " + "; ".join(f"{type(e).__name__}: {e}" for e in failed.values())[:300]
        )
    return result


def kernels() -> ModuleType:
    """The package of Triton kernels; ImportError where Triton is missing."""
    return importlib.import_module("gankit.core.cuda.triton")


def backends_in_use(device: torch.device) -> dict[str, str]:
    """Placeholder until op backends are plugins."""
    return {requested: torch.__version__}
