"""YAML that may come from strangers, such as the recipe of a downloaded model, read in bounded time and memory."""

from __future__ import annotations

from typing import Any

import yaml

MAX_CHARACTERS = 1_000_000  # of a page, also with its aliases written out
MAX_DEPTH = 50
MAX_DIGITS = 100


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > MAX_DIGITS:  # converting takes quadratic time
            raise ValueError(f"a number of {len(node.value):,} characters")
        return super().construct_yaml_int(node)  # type: ignore[no-any-return]


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def load(text: str) -> Any:
    """What `yaml.safe_load` makes of a page: dicts, lists, numbers, dates and text, aliases and merge keys included.

    Raises:
        ValueError: it is not YAML, a value is none of its kind (2026-13-45), numbers have more than 100 digits, it is
            nested more than 50 deep, or it is longer than a million characters, also when its aliases are written out
            (1 kB of aliases of aliases can stand for gigabytes). The message is one line, to follow a file's name.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"its {len(text):,} characters are more than the {MAX_CHARACTERS:,} allowed")
    try:
        _check_depth(text)
        root = yaml.compose(text, Loader=_Loader)
        if root is None:
            return None
        _length(root, {})
        return _Loader("").construct_document(root)
    # Beside YAMLError, PyYAML lets through what int(), datetime() and its own look-ups say of '!!int ""' and the like.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None


def _check_depth(text: str) -> None:
    """Before composing, which is recursive."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _length(node: yaml.Node, known: dict[int, int]) -> int:
    """Characters and values below a node with aliases written out. Aliases stand for what was visited before them, so
    that the recursion is no deeper than the page."""
    if id(node) in known:
        if not known[id(node)]:
            raise ValueError("an alias stands for something that contains it")
        return known[id(node)]
    known[id(node)] = 0
    if isinstance(node, yaml.ScalarNode):
        length = 1 + len(node.value)
    else:
        parts = [part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,))]
        length = 1 + sum(_length(part, known) for part in parts)
    if length > MAX_CHARACTERS:
        raise ValueError(f"with its aliases written out it has more than {MAX_CHARACTERS:,} characters")
    known[id(node)] = length
    return length
