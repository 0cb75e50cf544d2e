"""Schedules of a recipe: options that change during a run, such as learning rates and loss weights.

A schedule is a function of the number of images alone, so it has no state to save and a run resumes exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gankit.core.config.sections import PLUGIN_MAPS, SCHEDULED
from gankit.core.runtime.units import Count
from gankit.errors import GankitError, unknown

Number = float | tuple[float, ...]

# Options of `train` that may have a schedule; betas must be below 1, those in AT_MOST_ONE at most 1.
TRAIN = (
    *("lr_g", "lr_d", "lr_conditioner", "ttur", "betas", "betas_g", "betas_d"),
    *("ema_kimg", "style_mixing", "top_k"),
)

AT_MOST_ONE = ("style_mixing", "top_k")


class Schedule(BaseModel):
    """Schedule of one option: from `start` to `end` over the first `over` images, constant afterwards.

    Args:
        start: value at 0 images; null is the option's own value in the recipe.
        end: value from `over` images on; null is the start, for a warm-up alone.
        over: images from start to end.
        shape: 'linear', 'cosine' (half a wave), 'exponential', or 'step' (the start until `over`, then the end).
        warmup: images over which a factor on the value grows linearly from 0 to 1.
        since: count images from the beginning of the 'stage' or of the 'run'.
    """

    model_config = ConfigDict(extra="forbid", validate_default=True)

    start: float | tuple[float, ...] | None = None
    end: float | tuple[float, ...] | None = None
    over: Count = Field(0, ge=0)
    shape: Literal["linear", "cosine", "exponential", "step"] = "linear"
    warmup: Count = Field(0, ge=0)
    since: Literal["stage", "run"] = "stage"

    def value(self, own: Number | None, images: int) -> Number:
        """The option's value after `images` images; `own` is its value in the recipe, used if `start` is null."""
        start = own if self.start is None else self.start
        end = start if self.end is None else self.end
        assert start is not None
        assert end is not None
        x = min(images / self.over, 1.0) if self.over else 1.0
        factor = min(images / self.warmup, 1.0) if self.warmup else 1.0

        def between(a: float, b: float) -> float:
            if self.shape == "exponential":
                return factor * a ** (1 - x) * b**x
            share = {"linear": x, "cosine": (1 - math.cos(math.pi * x)) / 2, "step": float(x >= 1)}[
                self.shape
            ]
            return factor * (a + (b - a) * share)

        if isinstance(start, tuple):
            assert isinstance(end, tuple)
            return tuple(map(between, start, end))
        assert not isinstance(end, tuple)
        return between(start, end)


def check(given: Any, options: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Check the section `schedules` of a recipe and fill in its defaults.

    Args:
        given: the section: {'train': {'lr_g': {...}}, 'regularizers': {'r1': {'gamma': {...}}}}.
        options: the recipe's sections by name, see `Recipe.scheduled_options`.
        origin: name of the recipe, for messages.

    Raises GankitError for unknown options or keys and for values out of range.
    """
    checked: dict[str, Any] = {}
    for path, page in scheduled_entries(given, options, origin):
        where = f"{origin}: schedules.{'.'.join(path)}"
        own = own_value(options, path)
        try:
            schedule = Schedule.model_validate(dict(_mapping(page, where)))
        except ValidationError as error:
            first = error.errors()[0]
            key = str(first["loc"][0])
            if first["type"] == "extra_forbidden":
                raise GankitError(f"{where}: {unknown('key', key, Schedule.model_fields)}") from None
            raise GankitError(
                f"{where}.{key} = {first['input']!r}: {first['msg'].removeprefix('Value error, ').lower()}"
            ) from None
        _check_values(schedule, own, path, where)
        node = checked
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = schedule.model_dump(mode="json")
    if "p" in checked.get("augmentation", {}) and options["augmentation"].get("target") is not None:
        raise GankitError(
            f"{origin}: schedules.augmentation.p: the augmentation adapts p itself; set augmentation.target to null"
        )
    return checked


def scheduled_entries(
    given: Any, options: Mapping[str, Any], origin: str
) -> list[tuple[tuple[str, ...], Any]]:
    """The schedules of a page, as pairs of a path such as ('train', 'lr_g') and the schedule's own mapping.

    Raises GankitError, naming `origin`, for what is no section or entry of the recipe's `options`.
    """
    if not isinstance(given, Mapping):
        raise GankitError(
            f"{origin}: schedules must be a mapping such as train: {{lr_g: {{...}}}}, not {given!r}"
        )
    leaves: list[tuple[tuple[str, ...], Any]] = []
    for section, entries in given.items():
        where = f"{origin}: schedules.{section}"
        if section not in SCHEDULED:
            raise GankitError(f"{origin}: {unknown('section of schedules', str(section), SCHEDULED)}")
        named = section in PLUGIN_MAPS
        for key, page in _mapping(entries, where).items():
            if not named:
                leaves.append(((section, key), page))
                continue
            if key not in options[section]:
                raise GankitError(f"{where}: {unknown('entry of ' + section, str(key), options[section])}")
            leaves += [((section, key, name), p) for name, p in _mapping(page, f"{where}.{key}").items()]
    return leaves


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise GankitError(f"{where} must be a mapping, not {value!r}")
    return value


def own_value(options: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    """The value that a recipe itself gives to a scheduled option, by the option's path.

    Raises GankitError, with near matches, for an option that cannot follow a schedule.
    """
    node: Any = options
    for key in path[:-1]:
        node = node.get(key) or {}
    known = TRAIN if path[0] == "train" else [k for k, v in node.items() if _is_number(v) and k != "interval"]
    if path[-1] not in known:
        raise GankitError(unknown(f"option to be scheduled in {'.'.join(path[:-1])}:", path[-1], known))
    value = node[path[-1]]
    return tuple(value) if isinstance(value, (list, tuple)) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_values(schedule: Schedule, own: Any, path: tuple[str, ...], where: str) -> None:
    start = own if schedule.start is None else schedule.start
    if start is None:
        raise GankitError(f"{where} needs a start, since the recipe has no value of its own there")
    if schedule.end is not None and not schedule.over:
        raise GankitError(f"{where} needs over, the number of images from its start to its end")
    end = start if schedule.end is None else schedule.end
    wanted = 2 if path[-1].startswith("betas") else 1
    for value in (start, end):
        numbers = value if isinstance(value, tuple) else (value,)
        if len(numbers) != wanted or isinstance(value, tuple) != (wanted > 1):
            raise GankitError(
                f"{where} must move {'two numbers' if wanted > 1 else 'one number'}, not {value!r}"
            )
        for number in numbers:
            too_much = (path[-1] in AT_MOST_ONE and number > 1) or (wanted > 1 and number >= 1)
            if not math.isfinite(number) or number < 0 or too_much:
                raise GankitError(f"{where}: {number:g} is out of range")
            if schedule.shape == "exponential" and number == 0:
                raise GankitError(f"{where}: an exponential cannot start or end at 0; use another shape")
