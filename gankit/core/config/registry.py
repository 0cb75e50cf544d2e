"""The registry of plugins: discovery by entry points, look-up by (kind, name), reports of broken packages.

Every installed distribution may declare entry points in the group ``gankit``. They are loaded one by one: a broken one
is reported and skipped. This module does not import torch.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pluggy

from gankit import hookspecs
from gankit.errors import GankitError, unknown

GROUP = "gankit"
ENV_SELECT = (
    "GANKIT_PLUGINS"  # comma list of distributions to load besides the built-ins; empty: built-ins only
)
ENV_STRICT = "GANKIT_STRICT_PLUGINS"  # set by --strict-plugins: a broken plugin is an error


@dataclass(frozen=True)
class Plugin:
    """A registered plugin; `target` is 'module:attribute', imported by `Registry.load`."""

    kind: str
    name: str
    target: str
    package: str
    version: str


@dataclass(frozen=True)
class Failure:
    """An entry point that failed to load, or a registration that was ignored."""

    package: str
    summary: str
    traceback: str = ""


@dataclass
class Registry:
    """All plugins of this process; `registry()` returns it."""

    plugins: dict[tuple[str, str], Plugin] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)  # packages that GANKIT_PLUGINS leaves out
    recorded: dict[tuple[str, str], str] = field(default_factory=dict)  # 'package version' by the pages read

    def names(self, kind: str) -> list[str]:
        """Names of a kind in order of registration, those of third-party packages first."""
        found = [p for p in self.plugins.values() if p.kind == kind]
        return [p.name for p in sorted(found, key=lambda p: p.package == "gankit")]

    def get(self, kind: str, name: str, also: Sequence[str] = ()) -> Plugin:
        """The plugin of a kind and name. Raises GankitError for an unknown name; `also` are further valid names for its
        suggestions."""
        if (kind, name) in self.plugins:
            return self.plugins[kind, name]
        raise GankitError(self.unknown(kind, name, also=also))

    def unknown(
        self, kind: str, name: str, *, what: str = "", also: Sequence[str] = (), hint: str = ""
    ) -> str:
        """Error message for a name that is not registered.

        It names the package that a recipe has recorded for it, else near names, and the packages that GANKIT_PLUGINS
        hides or that failed to load.

        Args:
            kind: kind of plugin.
            name: the name.
            what: what the name should be, if not just a plugin of that kind.
            also: further valid names.
            hint: what else there is to say.
        """
        if record := self.recorded.get((kind, name)):
            return f"{kind} {name!r} is of package {record}, by the recipe; {self._way_to(record)}"
        hints = [hint, self.absent()]
        return unknown(what or kind, name, [*self.names(kind), *also], hint="; ".join(filter(None, hints)))

    def absent(self) -> str:
        """A clause on installed packages whose plugins are not here; '' if there are none."""
        found = []
        if self.failures:
            found.append(f"{len(self.failures)} plugin package(s) failed to load, see `gankit plugins`")
        if self.hidden:
            found.append(f"{ENV_SELECT} hides the plugins of {', '.join(self.hidden)}")
        return "; ".join(found)

    def _way_to(self, record: str) -> str:
        """How to get the plugins of 'package version', which are not registered here."""
        package, _, version = record.partition(" ")
        mine = _canonical(package)
        if mine in map(_canonical, self.hidden):
            return f"that package is installed, but {ENV_SELECT} hides it: add it to that list"
        if any(_canonical(failure.package) == mine for failure in self.failures):
            return "that package is installed, but its plugins are not: see `gankit plugins`"
        try:
            installed = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return f"that package is not installed: pip install {package}"
        return f"{installed} is installed, which lacks it: pip install {package}=={version}"

    def load(self, kind: str, name: str) -> Any:
        """Import and return the target of a plugin. Raises GankitError if it is unknown or cannot be imported."""
        plugin = self.get(kind, name)
        module_name, _, attribute = plugin.target.partition(":")
        try:
            return getattr(importlib.import_module(module_name), attribute)
        except Exception as error:
            raise GankitError(
                f"{kind} {name!r} of package {plugin.package!r} cannot be imported from {plugin.target} "
                f"({type(error).__name__}: {error}); reinstall or remove that package"
            ) from error

    def register(self, kind: str, name: str, target: str, *, package: str, version: str) -> None:
        if kind not in hookspecs.KINDS:
            raise GankitError(
                unknown("plugin kind", kind, hookspecs.KINDS, hint=f"registered by {package!r}")
            )
        plugin = Plugin(kind, name, target, package, version)
        other = self.plugins.setdefault((kind, name), plugin)
        if other is not plugin:
            self.failures.append(
                Failure(
                    package,
                    f"{kind} {name!r} of package {package!r} is ignored: package {other.package!r} "
                    "has registered that name already; rename it or uninstall one of the two",
                )
            )


@lru_cache(maxsize=1)
def registry() -> Registry:
    """The registry, filled at the first call; `registry.cache_clear()` makes the next call fill it anew.

    Warns of broken packages; raises GankitError for one with --strict-plugins, and if gankit itself is not installed.
    """
    found = Registry()
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    selected = os.environ.get(ENV_SELECT)
    wanted = None if selected is None else {_canonical(n) for n in selected.split(",") if n.strip()}
    seen: set[tuple[str, str]] = set()
    for entry_point in sorted(importlib.metadata.entry_points(group=GROUP), key=_builtin_first):
        if entry_point.dist is None or not entry_point.dist.name:  # left over from an interrupted pip
            continue
        package, version = entry_point.dist.name, entry_point.dist.version
        if wanted is not None and package != "gankit" and _canonical(package) not in wanted:
            if package not in found.hidden:
                found.hidden.append(package)
            continue
        if (package, entry_point.name) not in seen:  # a distribution may lie twice on sys.path
            seen.add((package, entry_point.name))
            _load(found, manager, entry_point, package, version)
    if not any(plugin.package == "gankit" for plugin in found.plugins.values()):
        raise GankitError(
            "gankit is not installed as a package, so it has no plugins; run `pip install -e .` in its folder"
        )
    for failure in found.failures:
        if os.environ.get(ENV_STRICT):
            raise GankitError(f"{failure.summary} (--strict-plugins)")
        warnings.warn(f"{failure.summary}; see `gankit plugins`", stacklevel=2)
    return found


def _load(
    found: Registry, manager: pluggy.PluginManager, entry_point: Any, package: str, version: str
) -> None:
    def register(kind: str, name: str, target: str) -> None:
        found.register(kind, name, target, package=package, version=version)

    module, before = None, dict(found.plugins)
    try:
        module = entry_point.load()
        manager.register(module, name=f"{package}:{entry_point.name}")
        manager.check_pending()
        if not manager.get_hookcallers(module):
            raise GankitError(f"{entry_point.value} has no function gankit_register with @gankit.hookimpl")
        others = [p for p in manager.get_plugins() if p is not module]
        manager.subset_hook_caller("gankit_register", remove_plugins=others)(register=register)
    except (Exception, SystemExit) as error:  # third-party code may raise anything
        found.plugins = before
        if module is not None and manager.is_registered(module):
            manager.unregister(module)
        reason = " ".join(str(error).split())[:300]
        summary = f"plugin package {package!r} is skipped ({type(error).__name__}: {reason})"
        found.failures.append(Failure(package, summary, traceback.format_exc()))


def _canonical(name: str) -> str:
    return name.strip().lower().replace("_", "-").replace(".", "-")


def _builtin_first(entry_point: importlib.metadata.EntryPoint) -> tuple[bool, str, str]:
    package = entry_point.dist.name if entry_point.dist else ""
    return (package != "gankit", package or "", entry_point.name)
