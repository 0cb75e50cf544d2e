"""`gankit plugins show NAME`: a plugin's description and options, read from its docstring and signature."""

from __future__ import annotations

import inspect

from gankit.core.config.options import options_of
from gankit.core.config.registry import registry
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
        lines = [f"{plugin.name}: {plugin.kind} of {plugin.package} {plugin.version} ({plugin.target})"]
        if KINDS[plugin.kind][0].startswith("'"):  # not a class with options
            pages.append("\n".join([*lines, f"  {KINDS[plugin.kind][1]}"]))
            continue
        target = registry().load(plugin.kind, plugin.name)
        lines += ["", (inspect.getdoc(target) or "").split("\nArgs:")[0].strip(), ""]
        options = options_of(target)
        lines.append("options:" if options else "no options")
        for option in options.values():
            default = "required" if option.required else f"default {option.default!r}"
            lines.append(f"  {option.name}  ({option.type_name}, {default})")
            if option.help:
                lines.append(f"      {option.help}")
        pages.append("\n".join(lines))
    return "\n\n".join(pages)
