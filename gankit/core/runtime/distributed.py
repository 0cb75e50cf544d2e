"""Collective operations of multi-process training and evaluation; each is a no-op for a single process.

Start several processes with `torchrun --nproc-per-node N -m gankit train ...`; NCCL on GPUs, gloo on CPUs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gankit.errors import GankitError


@dataclass(frozen=True)
class World:
    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def main(self) -> bool:
        return self.rank == 0


def world_from_env() -> World:
    """Rank and world size from the variables that torchrun sets; without them, a world of one process.

    Raises GankitError if they are no numbers."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return World()
    given = {name: os.environ.get(name, "0") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    try:
        return World(*(int(value) for value in given.values()))
    except ValueError:
        listed = ", ".join(f"{name}={value}" for name, value in given.items())
        raise GankitError(
            f"{listed}: these must be whole numbers, as torchrun sets them; unset them for one process"
        ) from None


def start(world: World, device: torch.device) -> None:
    if world.size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def stop() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def all_sum(tensor: Tensor) -> Tensor:
    """The tensor, summed over processes in place."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def all_rows(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """All-gather rows [counts[rank], K] with a count for each process -> [sum(counts), K], in order of rank.

    Each process passes at least one row, so that K is known; a process with count 0 adds none."""
    if not dist.is_initialized():
        return rows[: counts[0]]
    padded = rows.new_zeros(max(1, *counts), rows.shape[1])
    mine = counts[dist.get_rank()]
    padded[:mine] = rows[:mine]
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts)])


def from_main(value: Any) -> Any:
    """Broadcast a picklable value from the main process."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def sum_gradients(parameters: Sequence[torch.nn.Parameter], others: Sequence[Tensor] = ()) -> None:
    """Sum gradients and the tensors `others` over processes, in place, with one all-reduce.

    A parameter without a gradient in any process stays without one, so that its optimizer skips it as it would alone.
    """
    if not dist.is_initialized():
        return
    present = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([present, *(t.detach().flatten() for t in (*grads, *others))])
    dist.all_reduce(flat)
    counts, *sums = flat.split([len(grads), *(t.numel() for t in (*grads, *others))])
    for param, count, total in zip(parameters, counts.tolist(), sums):
        param.grad = torch.empty_like(param).copy_(total.view(param.shape)) if count else None
    for tensor, total in zip(others, sums[len(grads) :]):
        tensor.copy_(total.view(tensor.shape))


def same_everywhere(value: int | str, what: str) -> None:
    """Raise GankitError if `value` differs between processes, e.g. because they read different data or recipes."""
    if not dist.is_initialized():
        return
    values: list[int | str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    if len(set(values)) > 1:
        from gankit.errors import GankitError

        raise GankitError(
            f"the processes of this run disagree on {what}: {values}; start them with the same command"
        )
