"""Checks that a plugin keeps the contract of its kind: its class, methods and attributes, and what its methods return.

`built` is called once for every plugin that is constructed. The checks of results are called at the first use: by the
first step of a training (`core/training/phases.py`), when a model draws, and by conformance tests. Tensors on the
meta device have shapes only, so their values are not checked.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gankit.core.interfaces.conditions import Condition, Conditioner, CondSpec
from gankit.core.interfaces.data import Source
from gankit.core.interfaces.labels import COMMON, Label, plain, usable
from gankit.core.interfaces.networks import Discriminator, FeatureNetwork, Generator, Tap
from gankit.core.interfaces.training import AdversarialLoss, Augmentation, Guidance, Optimizer, Regularizer
from gankit.errors import GankitError

# Largest mean of |x| that is taken for images in [-1, 1]. Untrained networks leave that range: StyleGAN2's initial
# images have means up to 1.8 and single values up to 8.4. Images in [-255, 255] or [0, 255] have means around 100.
FAR = 20.0


class ContractError(GankitError, AssertionError):
    """A plugin does not keep its contract; in a conformance test, a failed assertion."""


def require(sound: bool, plugin: Any, fault: str) -> None:
    """Raise ContractError unless `sound`; `fault` is what the plugin does wrong, without a subject."""
    if not sound:
        name = getattr(plugin, "_registered_as", type(plugin).__name__)
        raise ContractError(f"{name} {fault}; mend the plugin, or tell its authors")


# ------------------------------------------------------------------------------------------------ after building


def construct(
    target: Any, kind: str, base: str, title: str, positional: Sequence[Any], options: Mapping[str, Any]
) -> Any:
    """Call a plugin's class or factory function, and check what it makes.

    Args:
        target: the class or function.
        kind: kind of plugin, a key of `gankit.hookspecs.KINDS`.
        base: name of the kind's base class in `gankit.interfaces`.
        title: the plugin in messages, such as "generator 'mine' of package 'my-package 0.1'".
        positional: arguments that gankit supplies.
        options: keyword arguments.

    Raises ContractError; exceptions of the plugin's own code pass through.
    """
    if fault := fault_of(target, base, len(positional), options):
        raise ContractError(f"{title} {fault}; mend the plugin, or tell its authors")
    plugin = target(*positional, **options)
    with contextlib.suppress(AttributeError):  # of slots; messages then name its class
        plugin._registered_as = title
    built(plugin, kind, base, positional)
    return plugin


def fault_of(target: Any, base: str, positional: int, options: Iterable[str]) -> str:
    """What a plugin's class or factory function does wrong, as far as can be told before it is called; '' if nothing.

    Args:
        target: the class or function.
        base: name of the kind's base class in `gankit.interfaces`.
        positional: number of arguments that gankit supplies.
        options: names of keyword arguments.
    """
    if not callable(target):
        return f"is of type {type(target).__name__}, neither a class nor a function"
    if inspect.isclass(target) and _contract(target, base) is None:
        return f"is a {target.__name__}, which does not derive from gankit's {base}"
    if missing := sorted(getattr(target, "__abstractmethods__", ())):
        return f"lacks {' and '.join(missing)}, which {base} demands"
    reason = _mismatch(target, positional, options)
    return reason and f"cannot be built: its constructor {reason}"


def _contract(cls: type, base: str) -> type | None:
    """gankit's class `base` among the parents of a class."""
    own = (c for c in cls.__mro__ if c.__module__.partition(".")[0] == "gankit")
    return next((c for c in own if c.__name__ == base), None)


def built(plugin: Any, kind: str, base: str, positional: Sequence[Any] = ()) -> None:
    """Check base class, methods and attributes of a plugin; arguments as in `construct`. Raises ContractError."""
    contract = _contract(type(plugin), base)
    require(
        contract is not None,
        plugin,
        f"is a {type(plugin).__name__}, which does not derive from gankit's {base}",
    )
    # what the base class declares, its parents, and the forms of a kind that has several, such as metrics
    calls: dict[str, inspect.Signature] = {
        name: inspect.signature(value.__func__ if isinstance(value, classmethod) else value)
        for c in type(plugin).__mro__
        if contract is not None
        and c.__module__.partition(".")[0] == "gankit"
        and (issubclass(contract, c) or c.__module__ == contract.__module__)
        for name, value in vars(c).items()
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, classmethod))
    }
    for name, signature in {**calls, **_CALLS.get(kind, {})}.items():
        method = getattr(plugin, name, None)
        require(callable(method), plugin, f"has no method {name}{signature}".replace("(self, ", "("))
        wanted = list(signature.parameters.values())[1:]  # without self
        given = [p for p in wanted if p.kind is p.POSITIONAL_OR_KEYWORD]
        named = [p.name for p in wanted if p.kind is p.KEYWORD_ONLY]
        reason = _mismatch(getattr(method, "forward", method), len(given), named)
        require(not reason, plugin, f"has a method {name} that {reason}")
    if kind in _ATTRIBUTES:
        _ATTRIBUTES[kind](plugin, *positional)


def _mismatch(function: Any, positional: int, named: Iterable[str]) -> str:
    """Why a function cannot be called with so many positional arguments and these named ones, or ''."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a built-in function or class
        return ""
    try:
        signature.bind(*[None] * positional, **dict.fromkeys(named))
    except TypeError as error:
        keywords = f" and {', '.join(named)} by keyword" if named else ""
        count = f"{positional} argument{'s' if positional != 1 else ''} by position"
        return f"takes {signature}, but is called with {count}{keywords} ({error})"
    return ""


# Methods of generators that may be submodules, so that the base class cannot declare them
def _mapping(self, z, cond=None, *, truncation_psi=1, truncation_cutoff=None, update_emas=False): ...  # type: ignore[no-untyped-def]
def _synthesis(self, ws, cond=None, *, noise_mode="random"): ...  # type: ignore[no-untyped-def]


_CALLS = {
    "generator": {"mapping": inspect.signature(_mapping), "synthesis": inspect.signature(_synthesis)},
}


def _whole(plugin: Any, least: int, *names: str) -> None:
    for name in names:
        value = getattr(plugin, name, None)
        sound = value is not None and hasattr(value, "__index__") and value >= least
        require(sound, plugin, f"has {name} = {value!r}, which must be a whole number of at least {least}")


def _generator(G: Generator, image_shape: Sequence[int], cond: CondSpec) -> None:
    _whole(G, 1, "z_dim", "w_dim", "num_ws")
    shape = getattr(G, "image_shape", None)
    sound = isinstance(shape, (tuple, list)) and tuple(shape) == tuple(image_shape)
    require(sound, G, f"has image_shape = {shape!r}, not {tuple(image_shape)}")


def _feature(network: FeatureNetwork) -> None:
    _whole(network, 1, "num_pooled", "input_multiple")
    _whole(network, 0, "num_logits")
    taps = getattr(network, "taps", None)
    sound = isinstance(taps, (list, tuple)) and all(isinstance(tap, Tap) for tap in taps)
    require(sound, network, f"has taps = {taps!r}, which must be a list of Tap")
    name = getattr(network, "name", None)
    require(isinstance(name, str), network, f"has name = {name!r}, which must be a text")


def _regularizer(regularizer: Regularizer) -> None:
    side = getattr(regularizer, "side", None)
    require(side in ("D", "G", "both"), regularizer, f"has side = {side!r}, which must be 'D', 'G' or 'both'")
    _whole(regularizer, 1, "interval")
    precision = getattr(regularizer, "precision", None)
    sound = precision in ("fp32", "mixed")
    require(sound, regularizer, f"has precision = {precision!r}, which must be 'fp32' or 'mixed'")


def _guidance(guidance: Guidance) -> None:
    weight = getattr(guidance, "weight", None)
    require(hasattr(weight, "__float__"), guidance, f"has weight = {weight!r}, which must be a number")


def _augmentation(augmentation: Augmentation, image_shape: Sequence[int]) -> None:
    channels = augmentation.channels
    sound = isinstance(channels, Collection) and bool(channels) and set(channels) <= {1, 3, 4}
    require(sound, augmentation, f"has channels = {channels!r}, which must be out of 1, 3, 4")


_ATTRIBUTES: dict[str, Callable[..., None]] = {
    "generator": _generator,
    "feature": _feature,
    "regularizer": _regularizer,
    "guidance": _guidance,
    "augmentation": _augmentation,
}


def with_vocabulary(conditioner: Conditioner) -> None:
    """Check `spec`, `accepts` and `examples` of a conditioner after `set_vocabulary`. Raises ContractError."""
    spec = getattr(conditioner, "spec", None)
    sound = isinstance(spec, CondSpec) and all(
        isinstance(size, int) and size >= 0 for size in (spec.c_dim, spec.token_dim)
    )
    require(
        sound, conditioner, f"has spec = {spec!r}, which must be a CondSpec of sizes after set_vocabulary"
    )
    accepts = conditioner.accepts
    sound = isinstance(accepts, (set, frozenset)) and all(isinstance(field, str) for field in accepts)
    require(sound, conditioner, f"has accepts = {accepts!r}, which must be a set of names")
    taken = sorted(field for field in accepts - COMMON.keys() if not usable(field))
    require(not taken, conditioner, f"accepts {taken}, of which pipe(name=...) gives no field")
    examples = conditioner.examples()
    sound = isinstance(examples, Mapping) and all(isinstance(x, Sequence) for x in examples.values())
    require(sound, conditioner, f"returned {examples!r} from examples, not lists of values by field")
    for field, values in examples.items():
        try:
            plain(list(values))
        except ValueError as error:
            require(False, conditioner, f"has examples of {field!r} that must be {error}")


# ------------------------------------------------------------------------------------------------- at first use


def _shape(value: Any) -> str:
    """A tensor's shape in messages, or the type of anything else."""
    return str(list(value.shape)) if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _is(value: Any, *shape: int) -> bool:
    return isinstance(value, Tensor) and value.shape == shape and value.is_floating_point()


def _wrong(value: Any, shape: Sequence[int]) -> str:
    """'[4, 3, 15, 16], not [4, 3, 16, 16]', or with dtypes if the shapes are equal."""
    if isinstance(value, Tensor) and list(value.shape) == list(shape):
        return f"of {value.dtype}, not of floats"
    return f"{_shape(value)}, not {list(shape)}"


def ws(G: Generator, value: Any, count: int) -> None:
    """The result of `mapping` for `count` latents."""
    shape = (count, G.num_ws, G.w_dim)
    require(
        _is(value, *shape),
        G,
        f"returned ws {_wrong(value, shape)}, which is [B, num_ws, w_dim], from mapping",
    )


def images(G: Generator, value: Any, count: int) -> None:
    """Shape and type of the result of `synthesis` for `count` ws."""
    shape = (count, *G.image_shape)
    require(_is(value, *shape), G, f"returned images {_wrong(value, shape)}")
    require(value.dtype != torch.float64, G, "returned images of torch.float64, not of torch.float32")


def drawn(plugin: Any, value: Any, shape: Sequence[int]) -> None:
    """Images that a generator or an engine has drawn for sampling: of a shape, in float32."""
    require(_is(value, *shape), plugin, f"returned images {_wrong(value, shape)}")
    require(value.dtype == torch.float32, plugin, f"returned images of {value.dtype}, not of torch.float32")


def image_range(plugin: Any, value: Tensor, what: str = "images") -> None:
    """Values of images, which must be in or around [-1, 1]: finite, and |x| at most FAR on average."""
    if value.is_meta or not value.numel():
        return
    size = value.detach().float().abs().mean().item()
    require(
        size <= FAR,
        plugin,
        f"returned {what} with a mean |x| of {size:.3g}, which must be in or around [-1, 1]",
    )


def logits(D: Discriminator, value: Any, count: int) -> None:
    """The result of `score` for `count` images."""
    listed = isinstance(value, (list, tuple))
    require(listed, D, f"returned {_shape(value)} from score, not a list of logits [B, N]")
    require(bool(value), D, "returned no logits")
    for x in value:
        sound = isinstance(x, Tensor) and x.dim() == 2 and len(x) == count and x.is_floating_point()
        require(sound, D, f"returned logits {_shape(x)}, not [B, N] for a batch of {count}")


def losses(
    plugin: AdversarialLoss | Guidance, value: Any, count: int, what: str, *, trains: bool = False
) -> None:
    """The result of `what`, one loss for each of `count` images; with a gradient if it `trains` a network."""
    require(
        _is(value, count), plugin, f"returned {_shape(value)} from {what}, not one loss an image, [{count}]"
    )
    require(value.requires_grad or not trains, plugin, f"returned losses without a gradient from {what}")


def penalty(regularizer: Regularizer, value: Any) -> None:
    """The result of `penalty`, one number for each image that it looked at."""
    sound = isinstance(value, Tensor) and value.dim() == 1 and value.is_floating_point()
    require(sound, regularizer, f"returned {_shape(value)} from penalty, not one number an image, [B]")


def augmented(augmentation: Augmentation, value: Any, given: Tensor) -> None:
    """The result of an augmentation for images in [-1, 1]."""
    require(_is(value, *given.shape), augmentation, f"returned images {_wrong(value, given.shape)}")


def condition(conditioner: Conditioner, value: Any, count: int, what: str = "encode") -> None:
    """The result of `encode` or `augment` for `count` labels: the parts and widths of `spec`."""
    require(isinstance(value, Condition), conditioner, f"returned {_shape(value)} from {what}, no Condition")
    spec = conditioner.spec
    for part, width, name in (
        (value.embedding, spec.c_dim, "embedding"),
        (value.tokens, spec.token_dim, "tokens"),
    ):
        size = "c_dim" if name == "embedding" else "token_dim"
        shape = f"[{count}, {width}]" if name == "embedding" else f"[{count}, T, {width}]"
        if not width:
            require(part is None, conditioner, f"returned {name} from {what}, but its spec.{size} is 0")
            continue
        sound = (
            isinstance(part, Tensor)
            and part.dim() == (2 if name == "embedding" else 3)
            and (part.shape[0], part.shape[-1]) == (count, width)
        )
        given = "none" if part is None else _shape(part)
        require(sound, conditioner, f"returned {name} {given} from {what}, not {shape} as its spec says")
    if value.tokens is not None:
        mask = value.mask
        sound = isinstance(mask, Tensor) and mask.shape == value.tokens.shape[:2]
        given = "none" if mask is None else _shape(mask)
        wanted = list(value.tokens.shape[:2])
        require(sound, conditioner, f"returned the mask {given} from {what}, not {wanted} as of its tokens")


def feature_maps(network: FeatureNetwork, value: Any, given: Tensor) -> None:
    """The result of `forward` for images [B, 3, H, W]: a map for each tap, of its channels and stride."""
    listed = isinstance(value, (list, tuple))
    require(listed, network, f"returned {_shape(value)} from forward, not a list of feature maps")
    require(
        len(value) == len(network.taps), network, f"returned {len(value)} maps for {len(network.taps)} taps"
    )
    height, width = given.shape[2:]
    for x, tap in zip(value, network.taps):
        shape = [len(given), tap.channels, height // tap.stride, width // tap.stride]
        sound = (
            isinstance(x, Tensor)
            and x.dim() == 4
            and list(x.shape[:2]) == shape[:2]
            and all(abs(a - b) <= 1 for a, b in zip(x.shape[2:], shape[2:]))  # sides may be rounded up
        )
        require(sound, network, f"returned a map {_shape(x)}, its tap says {shape}")


def torch_optimizer(
    plugin: Optimizer, value: Any, parameters: Mapping[str, Mapping[str, nn.Parameter]]
) -> None:
    """The result of `make`: an optimizer that has each parameter in one group, which keeps its 'rate'.

    `parameters` are rate -> name -> parameter."""
    sound = isinstance(value, torch.optim.Optimizer)
    require(sound, plugin, f"returned a {type(value).__name__} from make, not an optimizer of torch")
    found: dict[int, list[Any]] = {}  # parameter -> rates of the groups that have it
    for group in value.param_groups:
        for parameter in group["params"]:
            found.setdefault(id(parameter), []).append(group.get("rate"))
    for rate, named in parameters.items():
        for name, parameter in named.items():
            rates = found.pop(id(parameter), [])
            count = f"put {name} into {len(rates)} groups, not into one"
            require(len(rates) == 1, plugin, count)
            require(
                rates == [rate],
                plugin,
                f"changed the 'rate' of the group of {name}: {rates[0]!r}, not {rate!r}",
            )
    require(not found, plugin, "took parameters that it was not given")


@contextlib.contextmanager
def feature_networks(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Context in which feature maps of all feature networks inside of `modules` are checked."""

    def check(network: nn.Module, given: tuple[Any, ...], named: dict[str, Any], value: Any) -> None:
        if len(given) == 1 and not named:  # arguments that the contract does not know ask for other results
            feature_maps(network, value, given[0])  # type: ignore[arg-type]

    found = {m for module in modules for m in module.modules() if isinstance(m, FeatureNetwork)}
    hooks = [network.register_forward_hook(check, with_kwargs=True) for network in found]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def source(plugin: Source) -> None:
    """The number of images of a source, and label and name of the first of them."""
    count = len(plugin)
    require(count > 0, plugin, f"has {count} images, and raised no error that says so")
    label(plugin, plugin.label(0))
    name = plugin.name(0)
    require(
        isinstance(name, str) and bool(name), plugin, f"returned the name {name!r} for image 0, not a text"
    )


def fingerprint(plugin: Source, value: Any) -> None:
    """The result of `fingerprint`, which may read many files, so that it is asked for only where it is needed."""
    require(
        isinstance(value, str) and bool(value), plugin, f"returned {value!r} from fingerprint, not a text"
    )


def label(plugin: Source, value: Any) -> None:
    """The result of `label`: a Label whose class, tags and texts have their types."""
    require(isinstance(value, Label), plugin, f"returned a {type(value).__name__} from label, not a Label")
    require(
        value.cls is None or isinstance(value.cls, str), plugin, f"returned the class {value.cls!r}, no text"
    )
    sound = isinstance(value.tags, Mapping) and all(0 < weight <= 1 for weight in value.tags.values())
    require(sound, plugin, f"returned the tags {value.tags!r}, which must map names to weights in (0, 1]")
    sound = isinstance(value.texts, tuple) and all(isinstance(text, str) for text in value.texts)
    require(sound, plugin, f"returned the texts {value.texts!r}, which must be a tuple of texts")


def picture(plugin: Source, value: Any) -> None:
    """The result of `image`, a PIL image."""
    from PIL import Image

    sound = isinstance(value, Image.Image)
    require(sound, plugin, f"returned a {type(value).__name__} from image, not an image of PIL")
