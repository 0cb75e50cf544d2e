"""Options of plugins (keyword-only constructor parameters): reading, checking and passing them.

An option's type and default come from the signature, its help from the docstring's `Args:`. `build` checks the options
of a recipe against the signature, builds nested plugins, and calls the constructor with exactly these arguments.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from gankit.core.config.registry import registry
from gankit.errors import GankitError, unknown
from gankit.hookspecs import KINDS


@dataclass(frozen=True)
class Nested:
    """Marks an option that is itself a plugin: ``feature: Annotated[FeatureNetwork, Nested("feature")]``.

    In a recipe the option is a name or a mapping ``{name: ..., option: value}``; without a name, the default plugin is
    meant. With `many` it is a mapping from plugin name to options, built into a dict in the same order; a key may be
    any label if its options have the plugin's ``name``. The constructor receives the built object or, if `build` is
    False, the checked mapping, so that the object can be shared with others.
    """

    kind: str
    many: bool = False
    build: bool = True


@dataclass(frozen=True)
class Option:
    """One option of a plugin, as `gankit plugins show` prints it."""

    name: str
    type: Any
    default: Any
    help: str
    nested: Nested | None = None

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    @property
    def type_name(self) -> str:
        if self.nested:
            return f"{self.nested.kind} plugins" if self.nested.many else f"{self.nested.kind} plugin"
        if isinstance(self.type, type) and get_origin(self.type) is None:
            return self.type.__name__
        return re.sub(r"\b(typing|collections\.abc)\.", "", str(self.type))


@cache
def options_of(target: Any) -> dict[str, Option]:
    """Options of a plugin class (or factory function), in the order of its signature.

    Raises GankitError if the types in the signature cannot be resolved."""
    function = target.__init__ if inspect.isclass(target) else target
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as error:
        raise GankitError(
            f"the options of {target.__module__}.{target.__qualname__} cannot be read: {error}; types in the signature "
            "of its constructor must be imported outside of `if TYPE_CHECKING`"
        ) from None
    helps = _argument_help(inspect.getdoc(target) or "")
    options = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        hint, nested = hints.get(name, Any), None
        if get_origin(hint) is Annotated:
            nested = next((extra for extra in get_args(hint)[1:] if isinstance(extra, Nested)), None)
        options[name] = Option(name, hint, parameter.default, helps.get(name, ""), nested)
    return options


def _argument_help(docstring: str) -> dict[str, str]:
    """Entries of a Google-style ``Args:`` section: parameter name -> its text, joined to one line."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", docstring, re.MULTILINE)
    if not section:
        return {}
    helps: dict[str, str] = {}
    current = ""
    for line in inspect.cleandoc("\n" + section.group(1)).splitlines():
        entry = re.match(r"(\w+)(?: \([^)]*\))?:\s*(.*)", line)
        if entry:
            current = entry.group(1)
            helps[current] = entry.group(2)
        elif current and line.strip():
            helps[current] += " " + line.strip()
    return helps


def split_spec(kind: str, spec: Any, where: str) -> tuple[str, dict[str, Any]]:
    """A plugin spec of a recipe, 'name' or {name: ..., option: value} -> (name, options).

    Raises GankitError for anything else; `where` is its place in the recipe."""
    if isinstance(spec, str):
        return spec, {}
    if isinstance(spec, Mapping) and isinstance(spec.get("name"), str):
        return spec["name"], {k: v for k, v in spec.items() if k != "name"}
    raise GankitError(f"{where} must be the name of {_a(kind)} or a mapping with 'name', not {spec!r}")


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeio' else 'a'} {kind}"


def check(kind: str, spec: Any, where: str = "") -> dict[str, Any]:
    """Validate a plugin spec without building it.

    Returns ``{"name": ..., option: value}`` with every option of the plugin, defaults filled in, values coerced to the
    declared types, nested plugins checked likewise. Raises GankitError naming the option and its place.
    """
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    where = where or kind
    name, given = split_spec(kind, spec, where)
    target = registry().load(kind, name)
    options = options_of(target)
    resolved: dict[str, Any] = {"name": name}
    for key in given:
        if key not in options:
            raise GankitError(unknown(f"option of {kind} {name!r}:", key, options, hint=f"in {where}"))
    for key, option in options.items():
        value = given.get(key, option.default)
        place = f"{where}.{key}"
        if value is inspect.Parameter.empty:
            raise GankitError(
                f"{kind} {name!r} needs the option {key!r} ({option.help or option.type_name}); set {place}"
            )
        if option.nested is not None:
            if value is not None or type(None) not in get_args(get_args(option.type)[0]):
                value = _check_nested(option, value, place)
        elif option.type is not Any:
            try:
                adapter = TypeAdapter(option.type, config=ConfigDict(arbitrary_types_allowed=True))
                value = adapter.validate_python(value, strict=False)
            except ValidationError as error:
                reason = error.errors()[0]["msg"].lower()
                raise GankitError(f"{place} = {value!r} of {kind} {name!r}: {reason}") from None
        resolved[key] = value
    return resolved


def _check_nested(option: Option, value: Any, place: str) -> dict[str, Any]:
    nested = option.nested
    assert nested is not None
    if not nested.many:
        if isinstance(value, Mapping) and "name" not in value and isinstance(option.default, (str, Mapping)):
            name, options = split_spec(nested.kind, option.default, place)
            value = {"name": name, **options, **value}  # options of the default plugin
        return check(nested.kind, value, place)
    if not isinstance(value, Mapping):
        raise GankitError(f"{place} must map names of {nested.kind} plugins to their options, not {value!r}")
    checked = {}
    for label, options in value.items():
        if not isinstance(options or {}, Mapping):
            raise GankitError(f"{place}.{label} must be a mapping of options, not {options!r}")
        spec = check(nested.kind, {"name": label, **(options or {})}, f"{place}.{label}")
        checked[label] = {k: v for k, v in spec.items() if k != "name" or v != label}
    return checked


def walk(kind: str, spec: Any) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (kind, name, options) of a plugin and of the plugins in its options, to any depth.

    `spec` is what `check` returns, or a name, whose options are then not looked at."""
    name, given = split_spec(kind, spec, kind)
    yield kind, name, given
    if not given:
        return
    for key, option in options_of(registry().load(kind, name)).items():
        value = given.get(key)
        if option.nested is None or value is None:
            continue
        entries = [{"name": label, **o} for label, o in value.items()] if option.nested.many else [value]
        for entry in entries:
            yield from walk(option.nested.kind, entry)


def build(kind: str, spec: Any, *positional: Any, where: str = "") -> Any:
    """Check a plugin spec, construct the plugin and check that it keeps the contract of its kind.

    Args:
        kind: kind of plugin, a key of `gankit.hookspecs.KINDS`.
        spec: 'name' or {name: ..., option: value}.
        positional: the arguments that gankit supplies for this kind.
        where: place in the recipe, for messages.

    Raises GankitError as `check` does, and ContractError.
    """
    from gankit.core.interfaces import contracts  # imports torch, which checking a recipe does without

    resolved = check(kind, spec, where)
    target = registry().load(kind, resolved["name"])
    arguments = {}
    for key, option in options_of(target).items():
        value = resolved[key]
        if option.nested is not None and option.nested.build and value is not None:
            if option.nested.many:
                value = {n: build(option.nested.kind, {"name": n, **o}) for n, o in value.items()}
            else:
                value = build(option.nested.kind, value)
        arguments[key] = value
    plugin = registry().get(kind, resolved["name"])
    title = f"{kind} {plugin.name!r} of package '{plugin.package} {plugin.version}'"
    return contracts.construct(target, kind, KINDS[kind][0], title, positional, arguments)
