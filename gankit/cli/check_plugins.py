"""`gankit plugins check`: everything that a package registers is imported, and what is wrong is told in full."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.resources
import inspect
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gankit.core.config.options import check as check_spec
from gankit.core.config.options import options_of
from gankit.core.config.registry import (
    ENV_SELECT,
    FILE_VERSION,
    GROUP,
    Plugin,
    Registry,
    canonical,
    entry_points,
    hidden,
    load_entry_point,
    load_file,
    registry,
)
from gankit.errors import GankitError, unknown
from gankit.hookspecs import KINDS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass
class Package:
    """A package under test: what it declares, what it registers, and what is wrong with it as a whole."""

    name: str
    version: str
    groups: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # of entry points: name -> value
    found: Registry = field(default_factory=Registry)
    problems: list[str] = field(default_factory=list)


def check(what: str) -> tuple[str, bool]:
    """The report on a package, and True if nothing is wrong with it.

    Args:
        what: name of an installed distribution, a folder with its pyproject.toml, or a plugin file or folder.

    Raises GankitError if there is no such package, folder or file.
    """
    path = Path(what).expanduser().resolve()
    if (path / "pyproject.toml").is_file():
        package = _from_project(path)
    elif path.suffix == ".py" or path.is_dir():
        package = _from_file(path)
    else:
        package = _from_installed(what)
    package.problems += [
        f"{failure.summary}\n{_indented(failure.traceback)}".rstrip() for failure in package.found.failures
    ]
    if not package.found.plugins and not package.problems:
        package.problems.append("its gankit_register registers nothing")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other packages, or told above
        everything = registry().plugins
    lines, wrong = [], len(package.problems)
    for key, plugin in package.found.plugins.items():
        used = everything.setdefault(key, plugin)  # for recipes that name it, though it may not be installed
        if used == plugin:
            problem = _problem(plugin)
        else:
            problem = f"it is ignored, since package {used.package!r} has registered that name; rename it"
        wrong += problem is not None
        mark, reason = ("ok    ", "") if problem is None else ("FAILED", f": {problem}")
        lines.append(f"  {mark}  {plugin.kind} {plugin.name} ({plugin.target}){reason}")
    count = len(package.found.plugins)
    head = f"{package.name} {package.version}: {count} plugin{'s' * (count != 1)}"
    end = "nothing is wrong" if not wrong else f"{wrong} thing{'s are' if wrong > 1 else ' is'} wrong"
    return "\n".join([head, *lines, *package.problems, end]), not wrong


# ------------------------------------------------------------------------------------------ where packages are


def _from_installed(name: str) -> Package:
    try:
        distribution = importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        names = {entry.dist.name for entry in entry_points()}
        hint = "it is not installed; a folder with a pyproject.toml can be checked, too"
        raise GankitError(unknown("package", name, names, hint=hint)) from None
    groups: dict[str, dict[str, str]] = {}
    try:
        entries = list(distribution.entry_points)
        package = Package(distribution.metadata["Name"], distribution.version, groups)
    except Exception as error:  # importlib parses the files without checks
        raise GankitError(f"the metadata of package {name!r} are damaged ({error}); reinstall it") from None
    for entry in entries:
        groups.setdefault(entry.group, {})[entry.name] = entry.value
    package.problems += _about_groups(groups)
    if canonical(package.name) != "gankit" and hidden(package.name):
        package.problems.append(
            f"{ENV_SELECT}={os.environ[ENV_SELECT]} keeps gankit from loading it; add {package.name} there, or unset it"
        )
    for entry in entries:
        if entry.group == GROUP:
            load_entry_point(package.found, entry, package.name, package.version)
    return package


def _from_project(folder: Path) -> Package:
    """The package of a pyproject.toml, as it is installed, or from the folder if it is not."""
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
        name, groups = project["name"], {k: dict(v) for k, v in project.get("entry-points", {}).items()}
    except (ValueError, KeyError, AttributeError, TypeError) as error:  # no TOML, or values of other types
        raise GankitError(
            f"{folder / 'pyproject.toml'} names no project that can be read ({error})"
        ) from None
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        package = Package(name, "(not installed)", groups)
        package.problems += _about_groups(groups)
        sys.path[:0] = [str(place) for place in (folder, folder / "src") if place.is_dir()]
        for entry, value in groups.get(GROUP, {}).items():
            load_entry_point(
                package.found, importlib.metadata.EntryPoint(entry, value, GROUP), name, package.version
            )
        return package
    package = _from_installed(name)
    if groups.get(GROUP, {}) != package.groups.get(GROUP, {}):
        package.problems.append(
            f"pyproject.toml declares other entry points than the installed package; run `pip install -e {folder}`"
        )
    return package


def _from_file(path: Path) -> Package:
    package = Package(path.name, FILE_VERSION)
    try:
        load_file(package.found, path)
    except GankitError as error:
        if not path.exists():
            raise
        if str(error) not in [failure.summary for failure in package.found.failures]:
            cause = "".join(traceback.format_exception(error.__cause__)) if error.__cause__ else ""
            package.problems.append(f"{error}\n{_indented(cause)}".rstrip())
    return package


def _about_groups(groups: Iterable[str]) -> Iterator[str]:
    """What is wrong with the groups of entry points that a package declares."""
    near = [group for group in groups if group != GROUP and re.search("gan.?kit", group, re.IGNORECASE)]
    for group in near:
        yield (
            f"gankit does not read the entry points in the group {group!r}: write [project.entry-points.{GROUP}] in "
            "pyproject.toml, and install the package again"
        )
    if GROUP not in groups and not near:
        yield (
            f"it has no entry point in the group {GROUP!r}, by which gankit would find it: write "
            f"[project.entry-points.{GROUP}] in pyproject.toml, and install the package again"
        )


# ------------------------------------------------------------------------------------------- what they register


def _problem(plugin: Plugin) -> str | None:
    """What is wrong with a plugin, with the traceback of an error that is no GankitError; None if nothing is."""
    try:
        kind = KINDS[plugin.kind][0]
        if plugin.kind == "recipe":
            _check_recipe(plugin)
        elif kind.startswith("'package:"):
            module, _, inner = plugin.target.partition(":")
            if not importlib.resources.files(module).joinpath(inner).is_dir():
                return f"package {module} has no folder {inner}"
        else:
            module, _, attribute = plugin.target.partition(":")
            target = getattr(importlib.import_module(module), attribute)
            return _about_target(plugin, target) if not kind.startswith("'") else _about_command(target)
    except GankitError as error:
        return str(error)
    except (Exception, SystemExit) as error:  # third-party code may raise anything
        return f"{type(error).__name__}\n{_indented(traceback.format_exc())}"
    return None


def _check_recipe(plugin: Plugin) -> None:
    """Read a recipe as training does. Raises GankitError."""
    from gankit.core.config import recipe as recipes

    page, origin = recipes.read_page(plugin.name)
    recipes.parse(page, origin)
    if page.get("tiny"):
        recipes.read(plugin.name, tiny=True)


def _about_command(target: Any) -> str | None:
    import typer

    if isinstance(target, typer.Typer) or callable(target):
        return None
    return f"the target is {type(target).__name__}, neither a typer.Typer nor a function"


def _about_target(plugin: Plugin, target: Any) -> str | None:
    """What is wrong with the class of a plugin, or with the function that makes one. Raises GankitError, too."""
    from gankit.core.interfaces.contracts import fault_of

    base, _, gets = KINDS[plugin.kind]
    names = list(filter(None, gets.split(", ")))
    options = options_of(target) if callable(target) else {}
    if fault := fault_of(target, base, len(names), options):
        return f"it {fault}"
    parameters = inspect.signature(target).parameters.values()
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if surplus := positional[len(names) :]:
        return f"its constructor takes {', '.join(surplus)} by position, too: options come after a *"
    check_spec(plugin.kind, {"name": plugin.name, **getattr(target, "conformance", {})})
    return None


def _indented(text: str) -> str:
    return "".join(f"    {line}" for line in text.splitlines(keepends=True)).rstrip()
