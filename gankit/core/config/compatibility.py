"""Checks that the plugins of a recipe can work together; search for the nearest installed recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gankit.core.config import options, stages
from gankit.core.config import recipe as recipes
from gankit.core.config.recipe import Recipe
from gankit.core.config.registry import registry
from gankit.core.config.sections import COMPARED, PLUGIN_MAPS, PLUGINS
from gankit.core.interfaces.composition import Composition
from gankit.core.interfaces.conditions import Conditioner
from gankit.core.interfaces.labels import COMMON, Label, Vocabulary, listed, ordered, words
from gankit.errors import GankitError


def compose(recipe: Recipe, conditioner: Conditioner) -> Composition:
    """The Composition of a recipe, which its plugins are given to check whether they can work with the others."""
    parts = {section: getattr(recipe, section) for section in (*PLUGINS, *PLUGIN_MAPS)}
    return Composition(recipe.image_shape, conditioner.spec, conditioner.accepts, parts)


def check(recipe: Recipe, conditioner: Conditioner) -> None:
    """Raise GankitError if parts of a recipe cannot work together; it names both and the reason.

    Every plugin has its say, also those that are options of others: its `needs_labels` and `conflicts`, then its
    `incompatibility` (see `gankit.core.interfaces.composition.Component`)."""
    composition = compose(recipe, conditioner)
    found = list(_specs(composition.parts))
    used = {f"{kind}/{spec['name']}": f"{kind} {spec['name']!r}" for kind, spec in found}
    for kind, spec in found:
        plugin = registry().load(kind, spec["name"])  # a class, or a function, which has no rules
        needs, conflicts = getattr(plugin, "needs_labels", ()), getattr(plugin, "conflicts", {})
        clash = next(((used[other], reason) for other, reason in conflicts.items() if other in used), None)
        if needs and not composition.accepts.intersection(needs):
            clash = composition.conditioner, _unread(kind, needs)
        ask = getattr(plugin, "incompatibility", None)
        if clash is None and ask is not None:
            clash = ask(spec, composition)
        if clash is not None:
            other, reason = clash
            raise GankitError(f"{kind} {spec['name']!r} and {other} cannot work together: {reason}")
    if recipe.data.mirror and conditioner.mirror(Label()) is None:
        own = listed([words(field).many for field in ordered(conditioner.accepts - COMMON.keys())])
        raise GankitError(
            f"{composition.conditioner} and data.mirror cannot work together: nothing says what becomes of {own} in a "
            "mirrored image; set data.mirror to false (authors: see Conditioner.mirror)"
        )


def _unread(kind: str, needs: Sequence[str]) -> str:
    what = listed([words(field).many for field in needs], "or")
    return (
        f"it needs {what}, which this conditioner does not read; take one that does (conditioner 'combined' joins "
        f"several), or remove the {kind}"
    )


def unused_labels(vocabulary: Vocabulary, conditioner: Conditioner) -> str | None:
    """A sentence on the fields of the data's labels that the conditioner does not read; None if it reads all."""
    unused = [words(field).many for field in vocabulary.present if field not in conditioner.accepts]
    if not unused:
        return None
    return f"the data has {listed(unused)}, which this recipe does not use (see conditioner in the recipe)"


def _specs(parts: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (kind, {'name': ..., option: value}) of every plugin of a recipe, also of those that are options."""
    named = [
        (PLUGIN_MAPS[section], {"name": name, **given})
        for section in PLUGIN_MAPS
        for name, given in parts[section].items()
    ]
    named += [
        (plugin.kind, parts[section]) for section, plugin in PLUGINS.items() if parts[section] is not None
    ]
    for owner, spec in named:
        for kind, name, given in options.walk(owner, spec):
            yield kind, {"name": name, **given}


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
