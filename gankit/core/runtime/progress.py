"""Progress display of a training run: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any


class Progress:
    """Shows images done, images/s, time left, and the share of time in data, D, G and frozen networks."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self._bar: Any = None
        self._total = 0
        self._deadline: float | None = None
        self._start = (0.0, 0)

    def say(self, text: str) -> None:
        if not self.enabled:
            return
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, flush=True)

    def start(self, nimg: int, total: int, deadline: float | None) -> None:
        """Start the display. The run ends at `total` images, or at `deadline` in seconds of time.monotonic()."""
        self._total, self._deadline, self._start = total, deadline, (time.monotonic(), nimg)
        if not self.enabled or not sys.stdout.isatty():
            return
        from rich import progress

        self._bar = progress.Progress(
            progress.TextColumn("{task.completed:,.0f}/{task.total:,.0f} images"),
            progress.BarColumn(),
            progress.TextColumn("{task.fields[speed]}  {task.fields[shares]}"),
        )
        self._task = self._bar.add_task("train", total=total, completed=nimg, speed="", shares="")
        self._bar.start()

    def advance(self, nimg: int) -> None:
        if self._bar is not None:
            since, first = self._start
            speed = (nimg - first) / max(time.monotonic() - since, 1e-9)
            text = f"{speed:.1f} images/s  left {self._left(nimg, speed)}"
            self._bar.update(self._task, completed=nimg, speed=text)

    def _left(self, nimg: int, speed: float) -> str:
        seconds = max(self._total - nimg, 0) / speed
        if self._deadline is not None:
            seconds = min(seconds, max(self._deadline - time.monotonic(), 0))
        return str(timedelta(seconds=round(seconds)))

    def tick(self, nimg: int, scalars: Mapping[str, float]) -> None:
        shares = "  ".join(
            f"{name.removeprefix('time/')} {value:.0%}"
            for name, value in sorted(scalars.items())
            if name.startswith("time/")
        )
        if self._bar is not None:
            self._bar.update(self._task, shares=shares)
        elif self.enabled:
            speed = scalars["speed/images_per_s"]
            losses = "  ".join(
                f"{k.removeprefix('loss/')} {v:.3f}" for k, v in scalars.items() if k.startswith("loss/")
            )
            left = self._left(nimg, speed)
            self.say(f"{nimg:>9,} images  {speed:.1f}/s  left {left}  loss {losses}  time {shares}")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
