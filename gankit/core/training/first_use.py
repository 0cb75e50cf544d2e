"""Checks of what the plugins of a training step return, made while they are used for the first time.

Nothing is computed for it: for the length of the first step, the plugins' methods hand their results to the checks of
`gankit.core.interfaces.contracts`. Later steps run the plugins as they are.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from gankit.core.interfaces import contracts
from gankit.core.interfaces.conditions import Conditioner
from gankit.core.interfaces.labels import Label
from gankit.core.interfaces.networks import FeatureNetwork
from gankit.core.interfaces.training import Guidance
from gankit.core.training.phases import Parts


@contextlib.contextmanager
def first_use(parts: Parts, *, fresh: bool = True) -> Iterator[None]:
    """Context of a step in which the results of `parts` are checked; raises ContractError for the first wrong one.

    Args:
        parts: the plugins of the step.
        fresh: check the values of the first images too. Networks that have begun to train, be it by one step, may have
            diverged, which is not a plugin's fault.
    """
    with contextlib.ExitStack() as stack:
        for plugin, method, check in _checks(parts, fresh):
            stack.enter_context(_looked_at(plugin, method, check))
        yield


def _checks(parts: Parts, fresh: bool) -> Iterator[tuple[Any, str, Callable[..., None]]]:
    """Yield (plugin, name of a method, check); a check is called with the method's result and its arguments."""
    G, D, loss, augmentation = parts.G, parts.D, parts.loss, parts.augmentation
    batches: set[int] = set()  # sizes of the batches that D has seen
    unseen = {G, augmentation} if fresh else set()  # whose values are to be checked

    def values(plugin: Any, value: torch.Tensor) -> None:
        if plugin in unseen:
            unseen.remove(plugin)
            contracts.image_range(plugin, value)

    def images(value: Any, ws: torch.Tensor, *_: Any) -> None:
        contracts.images(G, value, len(ws))
        values(G, value)

    def augmented(value: Any, given: torch.Tensor, *_: Any) -> None:
        contracts.augmented(augmentation, value, given)  # type: ignore[arg-type]
        values(augmentation, value)

    yield G, "mapping", lambda value, z, *_: contracts.ws(G, value, len(z))
    yield G, "synthesis", images
    yield D, "features", lambda value, images, *_: batches.add(len(images))
    yield D, "score", lambda value, *_: contracts.logits(D, value, batches)
    yield loss, "d_loss", lambda value, real, *_: contracts.losses(loss, value, len(real[0]), "d_loss")
    yield loss, "g_loss", lambda value, fake, *_: contracts.losses(loss, value, len(fake[0]), "g_loss")
    for conditioner in filter(None, (parts.conditioner, parts.d_conditioner)):
        yield conditioner, "encode", functools.partial(_encoded, conditioner)
    for regularizer in parts.regularizers.values():
        yield regularizer, "penalty", lambda value, *_, r=regularizer: contracts.penalty(r, value)
    for guidance in parts.guidance.values():
        yield guidance, "loss", functools.partial(_guided, guidance)
    if augmentation is not None:
        yield augmentation, "forward", augmented
    owners: list[nn.Module] = [G, D, *parts.regularizers.values(), *parts.guidance.values()]
    for network in {module for owner in owners for module in owner.modules()}:
        if isinstance(network, FeatureNetwork):
            yield network, "forward", functools.partial(_mapped, network)


def _encoded(conditioner: Conditioner, value: Any, labels: Sequence[Label], *_: Any) -> None:
    contracts.condition(conditioner, value, len(labels))


def _guided(guidance: Guidance, value: Any, images: torch.Tensor, *_: Any) -> None:
    contracts.losses(guidance, value, len(images), "loss")


def _mapped(network: FeatureNetwork, value: Any, images: torch.Tensor, *more: Any) -> None:
    if not more:  # arguments that the contract does not know ask for other results
        contracts.feature_maps(network, value, images)


@contextlib.contextmanager
def _looked_at(plugin: Any, name: str, check: Callable[..., None]) -> Iterator[None]:
    """Context in which a method (or the forward pass of a submodule) of a plugin hands its result and its arguments to
    `check`.

    The object gets another class meanwhile, not another attribute: so copies that are made of it call their own method.
    """
    method = getattr(plugin, name)
    if isinstance(method, nn.Module):
        plugin, name = method, "forward"
    kind = type(plugin)

    class LookedAt(kind):  # type: ignore[misc, valid-type]
        __slots__ = ()

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        value = getattr(kind, name)(self, *args, **kwargs)
        check(value, *args, *kwargs.values())
        return value

    LookedAt.__name__, LookedAt.__qualname__, LookedAt.__module__ = (
        kind.__name__,
        kind.__qualname__,
        kind.__module__,
    )
    setattr(LookedAt, name, call)
    plugin.__class__ = LookedAt
    try:
        yield
    finally:
        plugin.__class__ = kind
