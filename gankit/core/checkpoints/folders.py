"""Atomic writes of folders (write a temporary one, then rename); listing and pruning of a run's checkpoints.

A checkpoint is a model folder (`gankit.core.models.model_folder`) with a sub-folder `training/` that holds what the run
needs to continue: raw networks, optimizers, state of augmentation and regularizers, counters.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path

from gankit.core.runtime.tensor_files import write_advice


class FolderWriter:
    """Context manager that yields a temporary folder and renames it to `final` on success; on an error it is deleted.

    Raises GankitError if the disk is full or a permission is missing."""

    def __init__(self, final: Path) -> None:
        self.final = final
        self.path = final.with_name(f".{final.name}.{os.getpid()}.tmp")

    def __enter__(self) -> Path:
        with write_advice(self.final):
            shutil.rmtree(self.path, ignore_errors=True)
            self.path.mkdir(parents=True)
        return self.path

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                with write_advice(self.final):
                    self._commit()
        finally:
            shutil.rmtree(self.path, ignore_errors=True)

    def _commit(self) -> None:
        for path in [*self.path.rglob("*"), self.path]:
            _flush(path)
        if self.final.exists():
            old = self.final.with_name(f".{self.final.name}.{os.getpid()}.old")
            os.replace(self.final, old)
            os.replace(self.path, self.final)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(self.path, self.final)
        _flush(self.final.parent)


def _flush(path: Path) -> None:
    """fsync a file, or on POSIX the entries of a folder."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    folder = run / "checkpoints"
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if p.name.isdigit() and (p / "recipe.yaml").is_file()]
    return sorted(found, key=lambda p: int(p.name))


def prune(run: Path, keep: int, spared: Collection[int] = ()) -> None:
    """Delete old checkpoints of a run, and the temporary folders of interrupted saves.

    Args:
        run: the run's folder.
        keep: number of newest checkpoints to keep, at least 1.
        spared: further checkpoints to keep, by the number of images trained.
    """
    for old in checkpoints(run)[:-keep]:
        if int(old.name) not in spared:
            shutil.rmtree(old, ignore_errors=True)
    for left in (run / "checkpoints").glob(".*"):
        shutil.rmtree(left, ignore_errors=True)
