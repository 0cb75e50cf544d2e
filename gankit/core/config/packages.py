"""The section `packages` of a recipe: which package, in which version, each of its plugins is of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from gankit.core.config import options
from gankit.core.config.registry import registry

RECORD = re.compile(r"[A-Za-z0-9]([\w.-]*[A-Za-z0-9])? [\w.+!-]+", re.ASCII)  # 'package version'


def note(page: Any) -> dict[str, str]:
    """Keep what a page has recorded in the registry, whose messages name the package of a plugin that is not here.

    Args:
        page: the section as it was read: 'kind name' -> 'package version'. Entries of another form are left out, since
            messages advise to install what they name.

    Returns these entries."""
    if not isinstance(page, Mapping):
        return {}
    found = {
        key: record
        for key, record in page.items()
        if isinstance(key, str) and isinstance(record, str) and RECORD.fullmatch(record)
    }
    registry().recorded |= {split(key): record for key, record in found.items()}
    return found


def split(key: str) -> tuple[str, str]:
    """'kind name' -> (kind, name)."""
    kind, _, name = key.partition(" ")
    return kind, name


def used(specs: Iterable[tuple[str, Any]]) -> dict[str, str]:
    """'kind name' -> 'package version' of the registered ones among plugins and the plugins in their options, sorted.

    Args:
        specs: pairs of a kind and a plugin's spec as `options.check` returns it, or its name.
    """
    plugins = registry().plugins
    names = sorted({found[:2] for kind, spec in specs for found in options.walk(kind, spec)})
    return {
        f"{kind} {name}": f"{plugin.package} {plugin.version}"
        for kind, name in names
        if (plugin := plugins.get((kind, name)))
    }
