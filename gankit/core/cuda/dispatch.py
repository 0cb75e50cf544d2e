"""Dispatch of the operators to implementations: definition, composites of torch, kernels of op backends.

- `reference`: the definition, step by step. Slow.
- `composite`: made of torch's operators; they run on every device.
- the name of an op backend, a plugin with kernels for some devices (`triton` is built in).
- `auto`: the first op backend for the type of device that has the operator, no obstacle and a passed self-test; where
  there is none, and for tensors that the backend calls too small, `composite`.

The argument `impl` decides, then the environment variable GANKIT_OPS, else `auto`. The choice is made when an operator
first meets a kind of device and kept. Graphs that are compiled or exported hold composites only, so that a file needs
no gankit to run.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gankit.core.config.registry import registry
from gankit.core.cuda import reference
from gankit.core.cuda.add_rgb import add_rgb
from gankit.core.cuda.bias_act import bias_act
from gankit.core.cuda.conv2d_resample import conv2d_resample
from gankit.core.cuda.filtered_lrelu import filtered_lrelu
from gankit.core.cuda.modulated_conv2d import modulated_conv2d
from gankit.core.cuda.selftest import Result, check
from gankit.core.cuda.upfirdn2d import upfirdn2d
from gankit.core.interfaces.op_backend import OpBackend
from gankit.errors import GankitError, unknown

ENVIRONMENT = "GANKIT_OPS"
KIND = "op-backend"
PLAIN = ("reference", "composite")  # implementations that are always there
OPERATORS = ("bias_act", "upfirdn2d", "filtered_lrelu", "conv2d_resample", "modulated_conv2d", "add_rgb")
Function = Callable[..., Tensor]

# What `auto` means in this process.
requested = os.environ.get(ENVIRONMENT) or "auto"


def _made_of_parts(find: Callable[[str, Tensor], Function]) -> Function:
    """add_rgb, of the operators that `find(name, x)` gives."""

    def modulated(x: Tensor, *rest: Any) -> Tensor:
        return find("modulated_conv2d", x)(x, *rest)

    def resampled(x: Tensor, *rest: Any) -> Tensor:
        return find("upfirdn2d", x)(x, *rest)

    return functools.partial(add_rgb, modulated_conv2d=modulated, upfirdn2d=resampled)


REFERENCE: dict[str, Function] = {name: getattr(reference, name) for name in OPERATORS}
COMPOSITE: dict[str, Function] = {
    "bias_act": bias_act,
    "upfirdn2d": upfirdn2d,
    "filtered_lrelu": filtered_lrelu,
    "conv2d_resample": conv2d_resample,
    "modulated_conv2d": modulated_conv2d,
    "add_rgb": _made_of_parts(lambda name, x: COMPOSITE[name]),
}


@dataclass(frozen=True)
class Choice:
    """The implementation of an operator for a type of device."""

    name: str  # 'reference', 'composite', an op backend, or 'parts' for what is made of other operators
    reason: str
    function: Function
    smallest: int = 0  # elements of x below which the composite takes its place


_choices: dict[tuple[str, str, str], Choice] = {}  # by operator, request and type of device
_failed: dict[
    tuple[str, str], str
] = {}  # why a backend's method is not called any more, by backend and operator
_warned: set[str] = set()


# ------------------------------------------------------------------------------------------------------- choices


def request(impl: str) -> str:
    """`impl`, or what GANKIT_OPS says where that is 'auto'.

    Raises:
        ValueError: `impl` is unknown.
        GankitError: GANKIT_OPS is.
    """
    asked = requested if impl == "auto" else impl
    if asked == "auto" or asked in PLAIN or (KIND, asked) in registry().plugins:
        return asked
    valid = ["auto", *PLAIN, *names()]
    hint = registry().absent()
    if asked == "cpu" and "gankit-cpu" not in hint:
        hint = "'composite' is plain torch, which runs on every device; `pip install gankit-cpu` brings 'cpu'"
    if impl == "auto":
        raise GankitError(unknown(f"implementation in {ENVIRONMENT}", asked, valid, hint=hint))
    raise ValueError(unknown("implementation in impl", str(asked), valid, hint=hint))


def function(operator: str, x: Tensor, impl: str) -> Function:
    """The implementation of `operator` for tensors like `x`; raises what `choose` raises, but not in graphs."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        asked = requested if impl == "auto" else impl
        return (REFERENCE if asked == "reference" else COMPOSITE)[operator]
    choice = _choices.get((operator, requested if impl == "auto" else impl, x.device.type))
    choice = choice or choose(operator, x.device, impl)
    return choice.function if x.numel() >= choice.smallest else COMPOSITE[operator]


def choose(operator: str, device: torch.device, impl: str = "auto") -> Choice:
    """The choice for a device, with its reason. It is made at the first call, which may run a self-test.

    Raises:
        ValueError: `impl` is unknown or cannot run on the device.
        GankitError: the same of GANKIT_OPS.
    """
    asked = request(impl)
    key = (operator, asked, device.type)
    if key not in _choices:
        wish = f"{ENVIRONMENT}={asked}" if impl == "auto" else f"impl={asked!r}"
        if asked == "auto":
            _choices[key] = _choose_backend(operator, device)
        elif asked in PLAIN:
            table = REFERENCE if asked == "reference" else COMPOSITE
            _choices[key] = Choice(asked, f"{wish} asks for it", table[operator])
        else:
            _choices[key] = _asked_backend(operator, device, asked, wish, impl)
    return _choices[key]


def _asked_backend(operator: str, device: torch.device, name: str, wish: str, impl: str) -> Choice:
    """The choice where a backend is asked for by name."""
    chosen = backend(name)
    if reason := obstacle(name, device):
        error = GankitError if impl == "auto" else ValueError
        raise error(f"{wish}: {name} does not run on {device.type} here: {reason}; use 'auto' or 'composite'")
    if not hasattr(chosen, operator):
        return _without(operator, f"{wish}, and {name} leaves it to torch", name)
    return Choice(name, f"{wish} asks for it", method(name, operator))


def _choose_backend(operator: str, device: torch.device) -> Choice:
    """The choice of `auto`: the first backend that can do it, else torch, after a warning if one should have."""
    reasons = []
    for name in names():
        try:
            found = backend(name)
        except GankitError as error:
            reasons.append(str(error))
            _warn_once(f"{error}. Until then the next implementation takes its place")
            continue
        if device.type not in found.devices or not hasattr(found, operator):
            continue
        reason, why = obstacle(name, device), f"tensors are on {device.type}"
        if reason is None and found.self_test:
            result = self_test(operator, name, device)
            why = f"its self-test passed with an error of {result.error:.0e}"
            reason = None if result.passed else f"the self-test of {operator} {result.failure}"
        if reason is None:
            smallest = found.smallest.get(operator, 0)
            why += f"; plain torch below {smallest:,} elements" if smallest else ""
            return Choice(name, why, method(name, operator), smallest)
        reasons.append(reason)
        _warn_once(
            f"op backend {_described(name)} is not used on {device.type}: {reason}. The next implementation takes its "
            "place, slower but equal. If that is unexpected, please report it with what `gankit doctor` prints"
        )
    return _without(operator, "; ".join(reasons) or f"no op backend has it for {device.type}", "auto")


def _without(operator: str, reason: str, impl: str) -> Choice:
    """The choice where no backend has an operator."""
    if operator == "add_rgb":  # its parts may have one
        parts = _made_of_parts(lambda part, x: function(part, x, impl))
        return Choice("parts", "made of modulated_conv2d and upfirdn2d", parts)
    return Choice("composite", reason, COMPOSITE[operator])


def _warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, RuntimeWarning, stacklevel=6)


def backends_in_use(device: torch.device) -> dict[str, str]:
    """Implementations that compute the operators on a device by default: name -> package and version.

    Results agree bit for bit only between processes in which this agrees. `reference` and `composite` are torch's.
    """
    found = {}
    for operator in OPERATORS:
        name = choose(operator, device).name
        if name in PLAIN:
            found[name] = f"torch {torch.__version__}"
        elif name != "parts":
            found[name] = version_of(name)
    return dict(sorted(found.items()))


# ------------------------------------------------------------------------------------------------------ backends


def names() -> list[str]:
    """The registered op backends in the order in which `auto` asks them: those of other packages first."""
    return registry().names(KIND)


@functools.cache
def backend(name: str) -> OpBackend:
    """The op backend of a name; one object for the whole process. Raises GankitError if it cannot be set up."""
    target = registry().load(KIND, name)
    try:
        return target()  # type: ignore[no-any-return]
    except Exception as error:  # a stranger's code: anything may come out of it
        raise GankitError(
            f"op backend {_described(name)} cannot be set up ({_reason(error)}); uninstall that package, or set "
            f"{ENVIRONMENT}=composite"
        ) from error


def obstacle(name: str, device: torch.device) -> str | None:
    """The reason why a backend cannot run on a device, None if it can; an exception in it is a reason, too."""
    try:
        return backend(name).obstacle(device)
    except Exception as error:
        return str(error) if isinstance(error, GankitError) else _reason(error)


def method(name: str, operator: str) -> Function:
    """A backend's method for an operator; calls that it leaves to torch go to the composite.

    If it raises, there is one warning, and the composite takes its place for the rest of the process. Running out of a
    GPU's memory is passed on: the composite needs more of it.
    """
    own = getattr(backend(name), operator)

    def call(*arguments: object) -> Tensor:
        if (name, operator) in _failed:
            return COMPOSITE[operator](*arguments)
        try:
            y = own(*arguments)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of compilers, drivers, kernels
            y = COMPOSITE[operator](*arguments)  # raises by itself what is not the backend's fault
            _failed[name, operator] = _reason(error)
            _warn_once(
                f"{operator} of op backend {_described(name)} failed ({_reason(error)}). Plain torch takes its place, "
                "slower but equal. Please report it with what `gankit doctor` prints"
            )
            return y
        return COMPOSITE[operator](*arguments) if y is NotImplemented else y

    return call


def _described(name: str) -> str:
    return f"{name!r} of package {registry().get(KIND, name).package!r}"


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def version_of(name: str) -> str:
    """Package and version of a backend and of what it `uses`: 'gankit-cpu 0.1.0, llvmlite 0.46.0'."""
    plugin = registry().get(KIND, name)
    known = [f"{plugin.package} {plugin.version}"]
    for package in backend(name).uses:
        try:
            known.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            known.append(f"no {package}")
    return ", ".join(known)


def self_test(operator: str, name: str, device: torch.device) -> Result:
    """Test one implementation on a device where it can run."""
    if name in PLAIN:
        return check(operator, (REFERENCE if name == "reference" else COMPOSITE)[operator], device)
    with warnings.catch_warnings():  # the result says it
        warnings.simplefilter("ignore")
        result = check(operator, method(name, operator), device)
    failed = [*backend(name).failures(), *filter(None, [_failed.get((name, operator))])]
    if result.passed and failed:  # plain torch has stepped in
        return Result(result.error, f"raised {'; '.join(failed)[:300]}")
    return result
