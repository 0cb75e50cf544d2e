"""The world that torchrun describes, and sums of gradients over processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from process_groups import sum_in

from gankit.core.runtime import devices, distributed
from gankit.errors import GankitError


def test_without_torchrun_nothing_is_distributed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert distributed.world_from_env() == distributed.World(0, 1, 0)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_RANK", "1")
    world = distributed.world_from_env()
    assert (world.rank, world.size, world.local_rank, world.main) == (3, 8, 1, False)


def test_values_that_are_no_numbers_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "first")
    assert devices.isolated(lambda: 1)() == 1  # of one process
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(GankitError, match="LOCAL_RANK=first: these must be whole numbers"):
        devices.isolated(lambda: 1)()


@pytest.mark.slow
def test_gradients_are_summed_and_absent_ones_stay_absent(tmp_path: Path) -> None:
    mp.spawn(sum_in, (f"file://{tmp_path}/store", f"{tmp_path}/result"), nprocs=2)
    for rank in range(2):
        first, second, third, other = torch.load(f"{tmp_path}/result.{rank}")
        assert torch.equal(first, torch.full((2, 3), 1.0))
        assert torch.equal(second, torch.full((2, 3), 21.0))
        assert third is None
        assert torch.equal(other, torch.full((4,), 3.0))
