"""Functions that tests run in processes of their own."""

from __future__ import annotations

import torch
import torch.distributed as dist

from gankit.core.runtime import distributed


def sum_in(rank: int, address: str, out: str) -> None:
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    params = [torch.nn.Parameter(torch.zeros(2, 3)) for _ in range(3)]
    if rank == 0:
        params[0].grad = torch.full((2, 3), 1.0)
    params[1].grad = torch.full((2, 3), 10.0 + rank)
    other = torch.full((4,), float(rank + 1))
    distributed.sum_gradients(params, [other])
    torch.save([p.grad for p in params] + [other], f"{out}.{rank}")
    dist.destroy_process_group()
