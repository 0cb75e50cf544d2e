"""Fixtures of all tests: a small data set, the command line within this process, a number of threads."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from runs import Result, write_images

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture
def gankit_cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """`gankit ARGS` in this process, which spares the import of torch."""

    def call(*arguments: object) -> Result:
        from gankit.cli import app

        monkeypatch.setattr(sys, "argv", ["gankit", *map(str, arguments)])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_:
            app.main()
        return Result(int(exit_.value.code or 0), *capfd.readouterr())

    return call


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets how many threads torch has, until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
