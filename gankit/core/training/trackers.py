"""The trackers of a run: each is told what happens, and one that raises is dropped, at no cost to the run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gankit.core.config import options
from gankit.core.interfaces.training import STOP, Tracker
from gankit.core.runtime import devices
from gankit.errors import GankitError, raised


@dataclass(frozen=True)
class Event:
    """What has happened in a run, for the function `on_event` of `gankit.train`.

    Args:
        kind: 'tick', 'images' or 'checkpoint'.
        nimg: images trained so far.
        scalars: of a tick, the numbers that `log.jsonl` gets, by name; else empty.
        path: of images the PNG file, of a checkpoint its folder; None for a tick.
    """

    kind: str
    nimg: int
    scalars: Mapping[str, float] = field(default_factory=dict)
    path: Path | None = None


class Listener(Tracker):
    """Tells a function of every event; if it returns 'stop', the run stops."""

    _registered_as = "the function on_event"

    def __init__(self, function: Callable[[Event], Any]) -> None:
        self.function = function

    def on_tick(self, nimg: int, scalars: Mapping[str, float]) -> Any:
        return self.function(Event("tick", nimg, scalars))

    def on_images(self, nimg: int, name: str, path: Path) -> Any:
        return self.function(Event("images", nimg, path=path))

    def on_checkpoint(self, nimg: int, path: Path) -> Any:
        return self.function(Event("checkpoint", nimg, path=path))


class Trackers:
    """Hands events to trackers.

    Attributes:
        stop: True once a tracker has asked for the end of the run.
    """

    def __init__(self) -> None:
        self.stop = False
        self._trackers: list[Tracker] = []

    def build(self, specs: Mapping[str, Mapping[str, Any]], run_dir: Path) -> None:
        """Add the trackers of a recipe, name -> options. Raises GankitError as their constructors do, for mistakes that
        the user can mend before anything is trained."""
        for name, spec in specs.items():
            try:
                self.add(options.build("tracker", {**spec, "name": name}, run_dir))
            except GankitError:
                raise
            except (Exception, SystemExit) as error:
                _warn(f"tracker {name!r}", "its constructor", error)

    def add(self, tracker: Tracker) -> None:
        self._trackers.append(tracker)

    def send(self, method: str, *arguments: Any) -> None:
        """Call a method of every tracker. One that raises is warned of and left out from then on."""
        for tracker in list(self._trackers):
            try:
                with devices.unchanged():
                    answer = getattr(tracker, method)(*arguments)
            except (Exception, SystemExit) as error:  # code of other packages, which only watches
                self._trackers.remove(tracker)
                _warn(getattr(tracker, "_registered_as", type(tracker).__name__), method, error)
            else:
                self.stop |= isinstance(answer, str) and answer == STOP


def _warn(who: str, where: str, error: BaseException) -> None:
    warnings.warn(
        f"{who} is left out for the rest of this run: {where} raised {raised(error)}",
        RuntimeWarning,
        stacklevel=3,
    )
