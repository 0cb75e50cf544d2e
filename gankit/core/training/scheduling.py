"""Applies the schedules of a recipe to the objects whose options they set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gankit.core.config.schedules import Number, Schedule, own_value, scheduled_entries
from gankit.errors import GankitError

if TYPE_CHECKING:
    from gankit.core.config.recipe import Recipe, TrainOptions


@dataclass
class _Target:
    path: tuple[str, ...]
    schedule: Schedule
    own: Any
    owner: Any
    option: str

    def get(self) -> Number:
        current = getattr(self.owner, self.option)
        return current.item() if hasattr(current, "fill_") else current  # a buffer, or a plain number

    def set(self, value: Number) -> None:
        current = getattr(self.owner, self.option)
        if hasattr(current, "fill_"):
            current.fill_(value)
        else:
            setattr(self.owner, self.option, value)


class Schedules:
    """The schedules of a recipe, bound to the objects whose options they set."""

    def __init__(self, recipe: Recipe, train: TrainOptions, parts: Any) -> None:
        """Bind schedules to `train` and to the regularizers, guidance and augmentation of `parts`.

        `apply` changes these objects. Raises GankitError if one does not keep its option as an attribute."""
        options = recipe.scheduled_options()
        self.targets: list[_Target] = []
        for path, page in scheduled_entries(recipe.schedules, options, "recipe"):
            owner: Any = train if path[0] == "train" else getattr(parts, path[0])
            if len(path) == 3:
                owner = owner[path[1]]
            if not hasattr(owner, path[-1]):
                raise GankitError(
                    f"schedules.{'.'.join(path)}: {type(owner).__name__} does not keep {path[-1]!r} as an attribute, "
                    "so it cannot change during a run"
                )
            schedule = Schedule.model_validate(page)
            self.targets.append(_Target(path, schedule, own_value(options, path), owner, path[-1]))

    def apply(self, nimg: int, stage_start: int) -> dict[str, float]:
        """Set every scheduled option for the step after `nimg` images; returns scalar values by name, for the log."""
        values = {}
        for target in self.targets:
            images = nimg - (stage_start if target.schedule.since == "stage" else 0)
            value = target.schedule.value(target.own, images)
            target.set(value)
            if not isinstance(value, tuple):
                values[".".join(target.path)] = value
        return values

    def state_dict(self) -> dict[str, Number]:
        """The scheduled options' values of now, by dotted path."""
        return {".".join(target.path): target.get() for target in self.targets}

    def load_state_dict(self, state: Mapping[str, Number]) -> None:
        """Set options to values that `state_dict` returned, until the next `apply`; others stay."""
        for target in self.targets:
            if ".".join(target.path) in state:
                target.set(state[".".join(target.path)])
