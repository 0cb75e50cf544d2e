"""Random numbers keyed by a sample's position in the run, independent of process and micro-batch.

Inside `batch_random(...)` every draw is made for the whole batch from a generator seeded by (seed, images seen, phase),
and the rows of the current micro-batch are returned. So each image gets the same latents, noise and augmentation for
any number of processes and micro-batches, and a resumed run continues with the numbers of the uninterrupted one.
Outside of it, the functions are torch's own.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterator
from contextvars import ContextVar

import torch
from torch import Tensor


class _BatchRandom:
    def __init__(self, key: tuple[int | str, ...], total: int, start: int, count: int) -> None:
        digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
        self.seed = int.from_bytes(digest, "little") >> 1
        self.total, self.start, self.count = total, start, count
        self.generators: dict[torch.device, torch.Generator] = {}

    def generator(self, device: torch.device) -> torch.Generator:
        if device not in self.generators:
            self.generators[device] = torch.Generator(device).manual_seed(self.seed)
        return self.generators[device]


class Supply:
    """Standard normal numbers given by the caller, see `supplied`.

    Attributes:
        numbers: [B, N]; None draws from torch.
        used: count of numbers taken from each row so far.
    """

    def __init__(self, numbers: Tensor | None = None) -> None:
        self.numbers, self.used = numbers, 0

    def take(self, fn, shape: tuple[int, ...], device: torch.device, **kwargs) -> Tensor:
        if fn is not torch.randn:
            raise ValueError(
                "only normal numbers can be supplied from outside, and this network draws others"
            )
        start, self.used = self.used, self.used + math.prod(shape[1:])
        if self.numbers is None:
            return fn(shape, device=device, **kwargs)
        return self.numbers[:, start : self.used].unflatten(1, shape[1:])


_current: ContextVar[_BatchRandom | Supply | None] = ContextVar("gankit_batch_random", default=None)


@contextlib.contextmanager
def supplied(supply: Supply) -> Iterator[None]:
    """Context in which `randn` takes its numbers from `supply`, in order; makes noise an input of exported networks."""
    token = _current.set(supply)
    try:
        yield
    finally:
        _current.reset(token)


@contextlib.contextmanager
def batch_random(*key: int | str, total: int, start: int = 0, count: int | None = None) -> Iterator[None]:
    """Context in which draws are keyed by `key`, for rows [start, start + count) of a batch of `total` rows."""
    count = total - start if count is None else count
    if not 0 <= start <= start + count <= total:
        raise ValueError(f"rows {start}..{start + count} are not within a batch of {total}")
    token = _current.set(_BatchRandom(key, total, start, count))
    try:
        yield
    finally:
        _current.reset(token)


def _draw(fn, shape: tuple[int, ...], device: torch.device | str | None, **kwargs) -> Tensor:
    device = torch.device(device or "cpu")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    state = _current.get()
    if state is None:
        return fn(shape, device=device, **kwargs)
    if isinstance(state, Supply):
        return state.take(fn, shape, device, **kwargs)
    generator = state.generator(device)
    if shape[0] > state.count:
        raise ValueError(
            f"a draw of {shape[0]} rows inside a micro-batch of {state.count}: the first axis is the batch"
        )
    full = fn((state.total, *shape[1:]), device=device, generator=generator, **kwargs)
    return full[state.start : state.start + shape[0]]


def randn(*shape: int, device: torch.device | str | None = None) -> Tensor:
    """N(0, 1), float32. The first axis is the batch."""
    return _draw(torch.randn, shape, device, dtype=torch.float32)


def rand(*shape: int, device: torch.device | str | None = None) -> Tensor:
    """U[0, 1), float32. The first axis is the batch."""
    return _draw(torch.rand, shape, device, dtype=torch.float32)


def randint(low: int, high: int, shape: tuple[int, ...], device: torch.device | str | None = None) -> Tensor:
    """Integers in [low, high). The first axis is the batch."""
    return _draw(lambda s, **kw: torch.randint(low, high, s, **kw), tuple(shape), device)


def shared_rand(*shape: int, device: torch.device | str | None = None) -> Tensor:
    """U[0, 1), float32, the same numbers in every micro-batch and process of a batch."""
    state = _current.get()
    if not isinstance(state, _BatchRandom):
        return torch.rand(shape, device=device)
    return torch.rand(shape, generator=state.generator(torch.device("cpu"))).to(device or "cpu")
