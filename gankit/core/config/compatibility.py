"""Checks that the plugins of a recipe can work together; search for the nearest installed recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gankit.core.config import recipe as recipes
from gankit.core.config import stages
from gankit.core.config.recipe import Recipe
from gankit.core.config.registry import registry
from gankit.core.config.sections import COMPARED, PLUGIN_MAPS, PLUGINS
from gankit.core.interfaces.conditions import Conditioner
from gankit.core.interfaces.networks import Composition
from gankit.errors import GankitError


def compose(recipe: Recipe, conditioner: Conditioner) -> Composition:
    """The Composition of a recipe, which its plugins are given to check whether they can work with the others."""
    parts = {section: getattr(recipe, section) for section in (*PLUGINS, *PLUGIN_MAPS)}
    return Composition(recipe.image_shape, conditioner.spec, conditioner.accepts, parts)


def check(recipe: Recipe, conditioner: Conditioner) -> None:
    """Raise GankitError if a plugin reports that it cannot work with another; it names both and the reason.

    Asks `incompatibility` of every plugin that has that method (`gankit.core.interfaces.networks.Component`)."""
    composition = compose(recipe, conditioner)
    for kind, spec in _specs(composition.parts):
        plugin = registry().load(kind, spec["name"])  # a class, or a function, which has no such method
        ask = getattr(plugin, "incompatibility", None)
        found = None if ask is None else ask(spec, composition)
        if found is not None:
            other, reason = found
            raise GankitError(f"{kind} {spec['name']!r} and {other} cannot work together: {reason}")


def _specs(parts: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for section, spec in parts.items():
        if section in PLUGIN_MAPS:
            for name, options in spec.items():
                yield PLUGIN_MAPS[section], {**options, "name": name}
        elif spec is not None:
            yield PLUGINS[section].kind, spec


def advice(recipe: Recipe) -> str | None:
    """A sentence naming the nearest installed recipe if no installed one has the same plugins in the sections COMPARED.

    Checks the stages in order and reports the first such one; None if there is none."""
    pages = [recipe.at_stage(stage) for stage in range(len(recipe.stages))] or [recipe]
    known = list(_installed())
    return next(filter(None, (_advice(_names(page.model_dump()), known) for page in pages)), None)


def _installed() -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (recipe name, section -> plugin name) for every stage of every installed recipe that can be read."""
    for name in registry().names("recipe"):
        try:
            page = recipes.read_page(name)[0]
            found = [_names(stages.merge(page, stage)) for stage in page.get("stages") or [{}]]
        except (
            Exception
        ):  # a page with values of any type; whoever uses that recipe is told what is wrong with it
            continue
        yield from ((name, names) for names in found)


def _advice(mine: dict[str, str], known: list[tuple[str, dict[str, str]]]) -> str | None:
    found = [(name, {k: theirs[k] for k in COMPARED if theirs[k] != mine[k]}) for name, theirs in known]
    if not found:
        return None
    name, differences = min(found, key=lambda entry: len(entry[1]))
    if not differences:
        return None
    listed = ", ".join(f"{key} {mine[key]} (there {other})" for key, other in differences.items())
    return (
        f"no installed recipe combines these parts, so nobody may have trained them together; the nearest is {name!r}, "
        f"from which this one differs in {listed}"
    )


def _names(page: Mapping[str, Any]) -> dict[str, str]:
    """Plugin names of a raw page, by section in COMPARED; several names are joined by ' + '."""
    names = {}
    for key in COMPARED:
        spec = page.get(key, Recipe.model_fields[key].default)
        if key in PLUGIN_MAPS:
            names[key] = " + ".join(sorted(k for k, v in (spec or {}).items() if v is not False)) or "none"
        else:
            names[key] = spec["name"] if isinstance(spec, Mapping) else str(spec)
    return names
