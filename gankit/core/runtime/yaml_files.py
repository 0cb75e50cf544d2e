"""Safe loading of untrusted YAML, such as a downloaded model's recipe, in bounded time and memory."""

from __future__ import annotations

from typing import Any

import yaml

MAX_CHARACTERS = 1_000_000  # of a page, both as written and with its aliases expanded
MAX_DEPTH = 50
MAX_DIGITS = 100


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > MAX_DIGITS:  # converting takes quadratic time
            raise ValueError(f"a number of {len(node.value):,} characters")
        return super().construct_yaml_int(node)  # type: ignore[no-any-return]


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def load(text: str) -> Any:
    """Parse a YAML page into dicts, lists, numbers, dates and text, like `yaml.safe_load`, with limits.

    Raises:
        ValueError: the text is not YAML, a value does not fit its type (2026-13-45), a number has more than 100 digits,
            nesting is deeper than 50, or the page is longer than a million characters, as written or with its aliases
            expanded (1 kB of aliases of aliases can stand for gigabytes). The message is one line, to follow a file's
            name.
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
    # Besides YAMLError, PyYAML lets through errors of int(), datetime() and its own look-ups, e.g. for '!!int ""'.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None


def _check_depth(text: str) -> None:
    """Raise ValueError for nesting deeper than MAX_DEPTH. Must run before `yaml.compose`, which is recursive."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _length(node: yaml.Node, known: dict[int, int]) -> int:
    """Number of characters and values below a node with its aliases expanded.

    `known` holds the lengths of visited nodes by id, 0 for those being visited: an alias costs no recursion. Raises
    ValueError beyond MAX_CHARACTERS or for an alias inside the node that it stands for."""
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
