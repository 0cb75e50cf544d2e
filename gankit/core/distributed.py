"""The few collective operations that training needs; every one is a no-op for a single process.

Start several processes with `torchrun --nproc-per-node N -m gankit train ...`; NCCL on GPUs, gloo on CPUs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class World:
    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def main(self) -> bool:
        return self.rank == 0


def world_from_env() -> World:
    """The place of this process among those that torchrun started, else a world of one."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return World()
    return World(
        int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", "0"))
    )


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
    """Sum over processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Sum gradients over processes in one flat message; a parameter without a gradient gets zeros everywhere."""
    if not dist.is_initialized():
        return
    params = [p for p in parameters if p.requires_grad]
    flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in params])
    dist.all_reduce(flat)
    for param, part in zip(params, flat.split([p.numel() for p in params])):
        param.grad = torch.empty_like(param).copy_(part.view(param.shape))


def average_buffers(modules: Iterable[torch.nn.Module]) -> None:
    """Average floating-point buffers (running means) over processes, before they are saved."""
    if not dist.is_initialized():
        return
    size = dist.get_world_size()
    for module in modules:
        for buffer in module.buffers():
            if buffer.is_floating_point() and buffer.numel():
                dist.all_reduce(buffer)
                buffer.div_(size)


def same_everywhere(value: int | str, what: str) -> None:
    """Raise if processes disagree on a value; catches runs that read different data or recipes."""
    if not dist.is_initialized():
        return
    values: list[int | str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    if len(set(values)) > 1:
        from gankit.errors import GankitError

        raise GankitError(
            f"the processes of this run disagree on {what}: {values}; start them with the same command"
        )
