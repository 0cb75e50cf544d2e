"""Checks of what the plugins of a training step return, made while they are used for the first time.

Nothing is computed for it: for the length of the first step, the plugins' methods hand their results to the checks of
`gankit.core.interfaces.contracts`. Later steps run the plugins as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from gankit.core.interfaces import contracts
from gankit.core.interfaces.networks import FeatureNetwork
from gankit.core.training.step import Parts


@contextlib.contextmanager
def first_use(parts: Parts, *, fresh: bool = True) -> Iterator[None]:
    """Context of a step in which the results of `parts` are checked; raises ContractError for the first wrong one.

    Args:
        parts: the plugins of the step.
        fresh: check the values of the first images too. Networks that have begun to train, be it by one step, may have
            diverged, which is not a plugin's fault.
    """
    G, D, loss = parts.G, parts.D, parts.loss
    batches: set[int] = set()  # sizes of the batches that D has seen
    unseen = {"images", "augmented"} if fresh else set()  # whose values are to be checked

    def values(plugin: Any, value: torch.Tensor, what: str) -> None:
        if what in unseen:
            unseen.remove(what)
            contracts.image_range(plugin, value)

    def images(value: Any, ws: torch.Tensor, *_: Any) -> None:
        contracts.images(G, value, len(ws))
        values(G, value, "images")

    def augmented(value: Any, given: torch.Tensor, *_: Any) -> None:
        contracts.augmented(parts.augmentation, value, given)  # type: ignore[arg-type]
        values(parts.augmentation, value, "augmented")

    with contextlib.ExitStack() as stack:

        def look(plugin: Any, method: str, check: Callable[..., None]) -> None:
            stack.enter_context(_looked_at(plugin, method, check))

        look(G, "mapping", lambda value, z, *_: contracts.ws(G, value, len(z)))
        look(G, "synthesis", images)
        look(D, "features", lambda value, images, *_: batches.add(len(images)))
        look(D, "score", lambda value, *_: contracts.logits(D, value, batches))
        look(loss, "d_loss", lambda value, real, *_: contracts.losses(loss, value, len(real[0]), "d_loss"))
        look(loss, "g_loss", lambda value, fake, *_: contracts.losses(loss, value, len(fake[0]), "g_loss"))
        for conditioner in filter(None, (parts.conditioner, parts.d_conditioner)):
            look(
                conditioner,
                "encode",
                lambda value, labels, *_, c=conditioner: contracts.condition(c, value, len(labels)),
            )
        for regularizer in parts.regularizers.values():
            look(regularizer, "penalty", lambda value, *_, r=regularizer: contracts.penalty(r, value))
        for guidance in parts.guidance.values():
            look(
                guidance,
                "loss",
                lambda value, images, *_, g=guidance: contracts.losses(g, value, len(images), "loss"),
            )
        if parts.augmentation is not None:
            look(parts.augmentation, "forward", augmented)
        owners: list[nn.Module] = [G, D, *parts.regularizers.values(), *parts.guidance.values()]
        for network in {module for owner in owners for module in owner.modules()}:
            if isinstance(network, FeatureNetwork):
                look(
                    network,
                    "forward",  # more arguments are a network's own, for other results
                    lambda value, images, *more, n=network: (
                        None if more else contracts.feature_maps(n, value, images)
                    ),
                )
        yield


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
