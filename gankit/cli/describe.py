"""`gankit plugins show NAME`: a plugin's description and options, from its docstring, signature or page."""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from gankit.core.config.options import options_of
from gankit.core.config.registry import Plugin, registry
from gankit.core.config.sections import SECTIONS
from gankit.errors import GankitError, unknown
from gankit.hookspecs import KINDS


def describe(name: str) -> str:
    """Help text on every plugin of that name, or on the one 'kind/name'. Raises GankitError for an unknown name."""
    kind, slash, short = name.partition("/")
    found = registry().plugins.values()
    if slash and kind in KINDS:
        plugins = [registry().get(kind, short)]
    else:
        plugins = [p for p in found if p.name == name]
    if not plugins:
        raise GankitError(unknown("plugin", name, {p.name for p in found}, hint="see `gankit plugins`"))
    pages = []
    for plugin in plugins:
        head = f"{plugin.name}: {plugin.kind} of {plugin.package} {plugin.version} ({plugin.target})"
        about = _OTHERS.get(plugin.kind, _about_class)
        pages.append("\n".join([head, "", *about(plugin)]))
    return "\n\n".join(pages)


def _about_class(plugin: Plugin) -> Iterator[str]:
    target = registry().load(plugin.kind, plugin.name)
    yield from ((inspect.getdoc(target) or "").split("\nArgs:")[0].strip(), "")
    options = options_of(target)
    yield "options:" if options else "no options"
    for option in options.values():
        default = "required" if option.required else f"default {option.default!r}"
        yield f"  {option.name}  ({option.type_name}, {default})"
        if option.help:
            yield f"      {option.help}"


def _about_recipe(plugin: Plugin) -> Iterator[str]:
    from gankit.core.config.recipe import read_page

    page, _ = read_page(plugin.name)
    yield from (*_sections(page), "")
    tiny = " (add --tiny to try it out in seconds)" if page.get("tiny") else ""
    data = page.get("data")
    images = "" if isinstance(data, Mapping) and data.get("path") else " --data FOLDER"
    yield f"train it: gankit train {plugin.name}{images}{tiny}"


def _about_model(plugin: Plugin) -> Iterator[str]:
    from gankit.core.config.recipe import read_page
    from gankit.interop.find_model import find_model

    page, _ = read_page(str(Path(find_model(plugin.name)) / "recipe.yaml"))
    parts = ("name", "description", "data", "generator", "conditioner")
    yield from (*_sections({key: page[key] for key in parts if key in page}), "")
    yield f"draw pictures: gankit sample {plugin.name}"


def _about_command(plugin: Plugin) -> Iterator[str]:
    target = registry().load("command", plugin.name)
    text = getattr(getattr(target, "info", None), "help", None)  # of a typer.Typer
    yield text if isinstance(text, str) else (inspect.getdoc(target) or "it has no description").strip()
    yield f"\nsee: gankit {plugin.name} --help"


_OTHERS: dict[str, Callable[[Plugin], Iterator[str]]] = {
    "recipe": _about_recipe,
    "model": _about_model,
    "command": _about_command,
}


def _sections(page: Mapping[str, Any]) -> Iterator[str]:
    """A recipe's description, and a line for each section that it sets."""
    yield str(page.get("description", "it has no description"))
    yield ""
    for section in SECTIONS:
        if section.name in page:
            line = f"  {section.name}: {_brief(page[section.name])}"
            yield textwrap.fill(line, 110, subsequent_indent="      ", break_long_words=False)
    if isinstance(page.get("stages"), list):
        yield f"  stages: {len(page['stages'])}"


def _brief(value: Any) -> str:
    """A value of a recipe in one line; a plugin's name comes first."""
    if isinstance(value, Mapping):
        options = ", ".join(f"{key}: {_brief(part)}" for key, part in value.items() if key != "name")
        return ", ".join(filter(None, [str(value["name"]), options])) if "name" in value else f"{{{options}}}"
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)
