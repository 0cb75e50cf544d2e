"""What tests of mistakes share: contents of folders, the form of a message, continuing a run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from runs import Result, tiny_set

from gankit.core.checkpoints import folders

Cli = Callable[..., Result]


def contents(folder: Path) -> dict[str, str]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def mistake(result: Result, *fragments: str) -> None:
    assert result.code == 2, result
    message = result.message
    assert result.out == "" or "Traceback" not in result.out
    for fragment in fragments:
        assert fragment in message


def newest(run: Path) -> Path:
    return folders.checkpoints(run)[-1]


def resume(cli: Cli, run: Path, images: Path, *more: object) -> Result:
    return cli(
        "train",
        "stylegan2-class",
        "--data",
        images,
        "--out",
        run,
        *tiny_set(trackers={}),
        "--images",
        24,
        *more,
    )
