"""The tracker 'tensorboard': scalars and sample grids as TensorBoard event files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gankit.core.interfaces.training import Tracker

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["TensorBoardTracker"]


class TensorBoardTracker(Tracker):
    """Scalars and sample grids over images seen; look at them with ``tensorboard --logdir RUN``.

    Args:
        subfolder: folder of the event files, relative to the run's folder.
    """

    def __init__(self, run_dir: Path, *, subfolder: str = "tensorboard") -> None:
        self.folder = Path(run_dir) / subfolder
        self._writer: SummaryWriter | None = None

    def on_tick(self, nimg: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._open(nimg).add_scalar(name, value, nimg)

    def on_images(self, nimg: int, name: str, path: Path) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            pixels = np.atleast_3d(np.asarray(image))
        self._open(nimg).add_image(name, pixels, nimg, dataformats="HWC")

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self, nimg: int) -> SummaryWriter:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # After a resume, hides what an interrupted run had written past its last checkpoint.
            self._writer = SummaryWriter(str(self.folder), purge_step=nimg)
        return self._writer
