"""Stages of a recipe, such as growing resolutions: checking them and merging a stage into the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gankit.core.config.sections import NETWORKS, STAGED
from gankit.core.runtime.units import parse_count
from gankit.errors import GankitError, unknown

OWN = ("until", "patience", "restart")  # keys that only a stage has; its other keys override the recipe
ENDS = ("until", "patience")

# section -> keys that must be the same in all stages
FIXED = {"data": ("path", "options", "channels"), "train": ("images", "seed")}


def check(stages: list[dict[str, Any]], evaluated: bool, origin: str) -> list[dict[str, Any]]:
    """Check the list `stages` of a recipe; returns it with 'until' as int.

    Overridden sections are checked elsewhere, by merging the stage into the recipe. Raises GankitError.

    Args:
        stages: the list as the recipe has it.
        evaluated: True if the recipe sets `evaluation.every`, which 'patience' needs.
        origin: name of the recipe, for messages.
    """
    if len(stages) == 1:
        raise GankitError(f"{origin}: a single stage is no stage; add another, or move its keys to the page")
    checked = []
    for index, stage in enumerate(stages):
        where = f"{origin}: stages.{index}"
        for key in stage:
            if key not in (*OWN, *STAGED):
                raise GankitError(f"{where}: {unknown('key', str(key), [*OWN, *STAGED])}")
        for section, keys in FIXED.items():
            for key in keys:
                if isinstance(stage.get(section), Mapping) and key in stage[section]:
                    raise GankitError(
                        f"{where}: {section}.{key} is the same in all stages; move it out of the stage"
                    )
        restart = stage.get("restart", [])
        if not isinstance(restart, list) or not all(isinstance(name, str) for name in restart):
            raise GankitError(f"{where}.restart = {restart!r} must be a list of {', '.join(NETWORKS)}")
        for name in restart:
            if name not in NETWORKS:
                raise GankitError(f"{where}.restart: {unknown('part', name, NETWORKS)}")
        if restart and index == 0:
            raise GankitError(f"{where}: the first stage starts everything; leave restart away")
        last = index == len(stages) - 1
        if last and (ends := [key for key in ENDS if key in stage]):
            raise GankitError(f"{where}: the last stage ends at train.images; leave {ends[0]} away")
        patience = stage.get("patience", 1)
        if not isinstance(patience, int) or isinstance(patience, bool) or patience < 1:
            raise GankitError(f"{where}.patience = {patience!r} must be a number of evaluations, at least 1")
        if "patience" in stage and not evaluated:
            raise GankitError(f"{where}.patience needs evaluations; set evaluation.every (--eval-every 50k)")
        if last:
            checked.append(stage)
            continue
        try:
            until = parse_count(stage.get("until"))
        except ValueError as error:
            raise GankitError(f"{where}.until: {error}") from None
        before = checked[-1]["until"] if checked else 0
        if not isinstance(until, int) or isinstance(until, bool) or until <= before:
            raise GankitError(
                f"{where}.until = {until!r} must be the number of images at which the stage ends, above {before}"
            )
        checked.append({**stage, "until": until})
    return checked


def merge(page: Any, changes: Any) -> Any:
    """A page with `changes` merged in, recursively; a plugin of another name replaces the old one and its options."""
    if isinstance(page, Mapping) and isinstance(changes, str) and "name" in page:
        return page if page["name"] == changes else {"name": changes}
    if not isinstance(page, Mapping) or not isinstance(changes, Mapping):
        return changes
    if "name" in page and changes.get("name", page["name"]) != page["name"]:
        return changes
    return {**page, **{k: merge(page[k], v) if k in page else v for k, v in changes.items()}}
