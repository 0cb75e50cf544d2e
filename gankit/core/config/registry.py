"""The registry of plugins: discovery by entry points and files, look-up by (kind, name), reports of what is broken.

Every installed distribution may declare entry points in the group ``gankit``, and the user may name Python files. They
are loaded one by one, and so is each registration: what is broken is reported and skipped, the rest stays. This module
does not import torch.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from gankit import hookspecs
from gankit.errors import GankitError, unknown

GROUP = "gankit"
ENV_SELECT = (
    "GANKIT_PLUGINS"  # comma list of distributions to load besides the built-ins; empty: built-ins only
)
ENV_STRICT = "GANKIT_STRICT_PLUGINS"  # set by --strict-plugins: a broken plugin is an error
ENV_FILES = "GANKIT_PLUGIN_FILES"  # files and folders to load without installing; --plugin adds to it
# The version of plugins from a file. Their package is the file's name, not its path: models record it, and are shared.
FILE_VERSION = "file"

# What the page that is being read says of its plugins' packages: (kind, name) -> 'package version'
_claims: ContextVar[Mapping[tuple[str, str], str] | None] = ContextVar("claims", default=None)


@dataclass(frozen=True)
class Plugin:
    """A registered plugin; `target` is 'module:attribute' (or 'package:path'), imported by `Registry.load`."""

    kind: str
    name: str
    target: str
    package: str
    version: str

    @property
    def way_out(self) -> str:
        """What a user can do about one that is broken."""
        if self.version == FILE_VERSION:
            return f"mend {self.package}, or leave it out of --plugin and {ENV_FILES}"
        return "reinstall or remove that package"


@dataclass(frozen=True)
class Failure:
    """An entry point or file that failed, or a registration that was ignored; the summary is one line."""

    package: str
    summary: str
    traceback: str = ""


@dataclass
class Registry:
    """All plugins of this process; `registry()` returns it."""

    plugins: dict[tuple[str, str], Plugin] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)  # packages that GANKIT_PLUGINS leaves out

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

        It names the package that the recipe being read has recorded for it (see `claimed`), else near names, and the
        packages that GANKIT_PLUGINS hides or that failed to load.

        Args:
            kind: kind of plugin.
            name: the name.
            what: what the name should be, if not just a plugin of that kind.
            also: further valid names.
            hint: what else there is to say.
        """
        if record := (_claims.get() or {}).get((kind, name)):
            return f"unknown {what or kind} {name!r}; the recipe says that it is of {self._claim(record)}"
        hints = [hint, self.absent()]
        return unknown(what or kind, name, [*self.names(kind), *also], hint="; ".join(filter(None, hints)))

    def absent(self) -> str:
        """A clause on installed packages whose plugins are not here; '' if there are none."""
        found = []
        if self.failures:
            found.append(f"{len(self.failures)} failed to load or were ignored, see `gankit plugins`")
        if self.hidden:
            found.append(f"{ENV_SELECT} hides the plugins of {', '.join(self.hidden)}")
        return "; ".join(found)

    def _claim(self, record: str) -> str:
        """'package version' of a recipe with what is known of that package here. A recipe may come from a stranger, so
        that the message has no command to install what it names."""
        package, _, version = record.partition(" ")
        mine = canonical(package)
        if version == FILE_VERSION:
            return f"the plugin file {package}: name it with --plugin, or in {ENV_FILES}"
        if mine in map(canonical, self.hidden):
            return f"package {record}, which {ENV_SELECT} hides: add it to that list"
        if any(canonical(failure.package) == mine for failure in self.failures):
            return f"package {record}, which is installed, but its plugins are not: see `gankit plugins`"
        try:
            installed = importlib.metadata.version(package)
        except Exception:  # not there, or damaged
            return f"package {record}: install that if you trust its source"
        return f"package {record}; {installed} is installed, which lacks it"

    def load(self, kind: str, name: str) -> Any:
        """Import and return the target of a plugin. Raises GankitError if it is unknown or cannot be imported."""
        plugin = self.get(kind, name)
        module_name, _, attribute = plugin.target.partition(":")
        try:
            return getattr(importlib.import_module(module_name), attribute)
        except Exception as error:
            raise GankitError(
                f"{kind} {name!r} of package {plugin.package!r} cannot be imported from {plugin.target} "
                f"({type(error).__name__}: {error}); {plugin.way_out}"
            ) from error

    def register(self, kind: str, name: str, target: str, *, package: str, version: str) -> None:
        """Add a plugin; one whose name is taken is added to `failures` instead.

        Raises GankitError for an unknown kind, a bad name or a bad target."""
        if not isinstance(kind, str) or kind not in hookspecs.KINDS:
            raise GankitError(unknown("plugin kind", str(kind), hookspecs.KINDS))
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise GankitError(
                f"{name!r} cannot be the name of a {kind}: names are letters, digits and . _ + -, such as 'my-{kind}'"
            )
        _check_target(kind, name, target)
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


_NAME = re.compile(r"\w[\w.+-]*")  # no '/', ':' or spaces, which separate names on the command line


def _check_target(kind: str, name: str, target: Any) -> None:
    """Raise GankitError unless a target has the form that its kind needs; nothing is imported."""
    files = hookspecs.KINDS[kind][0].startswith("'package:")
    module, colon, inner = target.partition(":") if isinstance(target, str) else ("", "", "")
    inner_is_sound = inner.isprintable() and inner.strip() if files else inner.isidentifier()
    if not (colon and inner_is_sound and all(part.isidentifier() for part in module.split("."))):
        form = "'package:path/of/the/file'" if files else "'module:attribute'"
        raise GankitError(f"the target {target!r} of {kind} {name!r} does not have the form {form}")


@contextmanager
def claimed(packages: Mapping[tuple[str, str], str]) -> Iterator[None]:
    """Context in which messages on unknown names say what a page says of their packages.

    Args:
        packages: (kind, name) -> 'package version'.
    """
    token = _claims.set(packages)
    try:
        yield
    finally:
        _claims.reset(token)


@lru_cache(maxsize=1)
def registry() -> Registry:
    """The registry, filled at the first call; `registry.cache_clear()` makes the next call fill it anew.

    Warns of what is broken. Raises GankitError for it with --strict-plugins, for a plugin file that cannot be loaded,
    and if gankit itself is not installed.
    """
    found = Registry()
    installed = sorted(entry_points(found.failures), key=_builtin_first)
    own = [entry for entry in installed if entry.dist.name == "gankit"]
    for entry in own:
        load_entry_point(found, entry, entry.dist.name, entry.dist.version)
    if not found.plugins:
        raise GankitError(
            "gankit is not installed as a package, so it has no plugins; run `pip install -e .` in its folder"
        )
    # Before packages: what the user names goes before what happens to be installed.
    for path in plugin_files():
        load_file(found, path)
    for entry in installed:
        package = entry.dist.name
        if entry in own:
            continue
        if not hidden(package):
            load_entry_point(found, entry, package, entry.dist.version)
        elif package not in found.hidden:
            found.hidden.append(package)
    for failure in found.failures:
        if os.environ.get(ENV_STRICT):
            raise GankitError(f"{failure.summary} (--strict-plugins)")
        warnings.warn(f"{failure.summary}; see `gankit plugins`", stacklevel=2)
    return found


def hidden(package: str) -> bool:
    """True if GANKIT_PLUGINS keeps a package from being loaded."""
    selected = os.environ.get(ENV_SELECT)
    return selected is not None and canonical(package) not in map(canonical, selected.split(","))


def plugin_files() -> list[Path]:
    """The files and folders in GANKIT_PLUGIN_FILES, absolute and each of them once."""
    named = filter(str.strip, os.environ.get(ENV_FILES, "").split(os.pathsep))
    return list(dict.fromkeys(Path(name).expanduser().resolve() for name in named))


def entry_points(failures: list[Failure] | None = None) -> Iterator[Any]:
    """The entry points in the group ``gankit`` of all installed distributions, each of which has a name.

    Where those of a distribution cannot be read, they are left out and `failures` grows;
    `importlib.metadata.entry_points` would raise instead."""
    seen = set()
    for distribution in importlib.metadata.distributions():
        try:
            mine = [entry for entry in distribution.entry_points if entry.group == GROUP]
            name = distribution.metadata["Name"] if mine else None
        except Exception:  # importlib parses these files without checks
            if failures is not None and _names_the_group(distribution):
                package = _where(distribution)
                summary = f"package {package!r} is skipped (its metadata are damaged; reinstall it)"
                failures.append(Failure(package, summary, traceback.format_exc()))
            continue
        if not name:  # left over from an interrupted pip
            continue
        for entry in mine:
            if (canonical(name), entry.name) not in seen:  # a distribution may lie twice on sys.path
                seen.add((canonical(name), entry.name))
                yield entry


def _names_the_group(distribution: importlib.metadata.Distribution) -> bool:
    """True if the damaged entry points of a distribution may be gankit's."""
    try:
        text = distribution.read_text("entry_points.txt") or ""
    except UnicodeDecodeError as error:
        text = error.object.decode("latin-1")
    except Exception:  # cannot be read at all
        return True
    return f"[{GROUP}]" in text


def _where(distribution: importlib.metadata.Distribution) -> str:
    """The name of a distribution whose files are damaged, or else its folder."""
    try:
        return distribution.metadata["Name"] or str(distribution.locate_file(""))
    except Exception:
        return str(getattr(distribution, "_path", distribution.locate_file("")))


def load_entry_point(
    found: Registry, entry: importlib.metadata.EntryPoint, package: str, version: str
) -> None:
    """Register what the module of an entry point registers; whatever fails is added to `found.failures`."""
    what = f"entry point {entry.name!r} of package {package!r}"
    try:
        module = entry.load()
    except (Exception, SystemExit) as error:  # third-party code may raise anything
        summary = f"{what} is skipped ({_in_one_line(error)})"
        found.failures.append(Failure(package, summary, traceback.format_exc()))
        return
    _call_hook(found, module, what, package, version)


def load_file(found: Registry, path: Path) -> None:
    """Register what a Python file, or a folder that is a Python package, registers.

    Its folder goes to the end of sys.path, so that worker processes can import its classes by name. Raises GankitError
    if it cannot be imported or has no `gankit_register`."""
    inside = path / "__init__.py" if path.is_dir() else path
    if not inside.is_file() or inside.suffix != ".py":
        reason = (
            "does not exist" if not path.exists() else "is neither a .py file nor a folder with __init__.py"
        )
        raise GankitError(f"plugin file {path} {reason}; see --plugin and {ENV_FILES}")
    name = path.stem
    if not name.isidentifier():
        raise GankitError(
            f"plugin file {path}: its name must be one that Python can import, such as my_plugin.py"
        )
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
        importlib.invalidate_caches()
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise GankitError(f"plugin file {path} cannot be imported ({_in_one_line(error, path)})") from error
    if Path(module.__file__ or "").resolve() != inside:
        raise GankitError(
            f"plugin file {path}: there is another module {name!r} ({module.__file__}); rename the file"
        )
    before = len(found.failures)
    _call_hook(found, module, f"plugin file {path}", path.name, FILE_VERSION)
    for failure in found.failures[before:]:
        if failure.traceback:
            raise GankitError(failure.summary)


def _call_hook(found: Registry, module: ModuleType, what: str, package: str, version: str) -> None:
    """Call `gankit_register` of a module. A bad registration is skipped; an exception keeps what came before it."""
    count = 0

    def register(kind: str, name: str, target: str) -> None:
        nonlocal count
        try:
            found.register(kind, name, target, package=package, version=version)
            count += 1
        except GankitError as error:
            found.failures.append(Failure(package, f"a plugin of package {package!r} is skipped: {error}"))

    try:
        manager = pluggy.PluginManager(GROUP)
        manager.add_hookspecs(hookspecs)
        manager.register(module)
        manager.check_pending()
        if not manager.get_hookcallers(module):
            raise GankitError(f"{module.__name__} has no function gankit_register with @gankit.hookimpl")
        manager.hook.gankit_register(register=register)
    except (Exception, SystemExit) as error:
        kept = f"stopped after {count} of its plugins" if count else "is skipped"
        source = Path(module.__file__) if module.__file__ else None
        summary = f"{what} {kept} ({_in_one_line(error, source)})"
        found.failures.append(Failure(package, summary, traceback.format_exc()))


def _in_one_line(error: BaseException, path: Path | None = None) -> str:
    """An exception in one line, with the line of a file at which it was raised."""
    text = " ".join(str(error).split())[:300]
    frames = [f for f in traceback.extract_tb(error.__traceback__) if path and f.filename == str(path)]
    where = f", line {frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}: {text}" if not isinstance(error, GankitError) else text


def canonical(package: str) -> str:
    """The name of a distribution as pip compares it."""
    return re.sub(r"[-_.]+", "-", package.strip()).lower()


def _builtin_first(entry_point: importlib.metadata.EntryPoint) -> tuple[bool, str, str]:
    package = entry_point.dist.name if entry_point.dist else ""
    return (package != "gankit", package or "", entry_point.name)
