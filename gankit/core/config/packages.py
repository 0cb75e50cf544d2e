"""The section `packages` of a recipe: which package, in which version, each of its plugins is of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from gankit.core.config import options
from gankit.core.config.registry import FILE_VERSION, claimed, registry

# 'package version': a name of a distribution or plugin file, and a version as PEP 440 has it, or 'file'
_NAME = r"[A-Za-z0-9](?:[\w.-]{0,98}[A-Za-z0-9])?"
_VERSION = (
    r"(?:\d{1,9}!)?\d{1,9}(?:\.\d{1,9}){0,9}(?:(?:a|b|rc)\d{1,9})?(?:\.post\d{1,9})?(?:\.dev\d{1,9})?"
    r"(?:\+[a-z0-9]{1,40}(?:\.[a-z0-9]{1,40}){0,5})?"
)
RECORD = re.compile(rf"{_NAME} (?:{_VERSION}|{FILE_VERSION})", re.ASCII)


def sound(page: Any) -> dict[str, str]:
    """The entries 'kind name' -> 'package version' of a page's section that have this form.

    Others are left out, since messages repeat what the page says."""
    if not isinstance(page, Mapping):
        return {}
    return {
        key: record
        for key, record in page.items()
        if isinstance(key, str) and isinstance(record, str) and RECORD.fullmatch(record)
    }


def explaining(page: Any) -> AbstractContextManager[None]:
    """Context in which messages on plugins that are not here name the packages that a page's section has recorded."""
    return claimed({(key.partition(" ")[0], key.partition(" ")[2]): r for key, r in sound(page).items()})


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
