"""GankitError, the exception for a user's mistakes, and messages that suggest near matches of unknown names."""

from __future__ import annotations

import difflib
import functools
import inspect
import re
import traceback
from collections.abc import Callable, Iterable
from typing import Any


class GankitError(Exception):
    """A mistake in the input; the message is one sentence that names what is wrong and how to mend it.

    The command line prints the sentence without a traceback and exits with code 2.
    """


def for_python(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of the library whose errors name its arguments instead of options of the command line.

    Messages name options as the command line spells them: '--num-real' becomes 'num_real' if the function has that
    argument. Other options and commands in backticks stay as they are."""
    arguments = inspect.signature(function).parameters

    def translated(found: re.Match[str]) -> str:
        name = (found["option"] or "").replace("-", "_")
        return name if name in arguments else found[0]

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except GankitError as error:
            error.args = (re.sub(r"`[^`]*`|(?<!\S)--(?P<option>[a-z-]+)", translated, str(error)),)
            raise

    return call


def raised(error: BaseException) -> str:
    """An exception of a plugin's code in one line, and the place of the code: 'ValueError: text (file.py:12)'."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return f"{reason} ({last.filename}:{last.lineno})"


def unknown(what: str, value: str, valid: Iterable[str], *, hint: str = "") -> str:
    """Error message for an unknown name: the nearest valid names, else the valid names, at most 12 of them.

    >>> unknown("generator", "stylegan22", ["stylegan2", "stylegan-t"])
    "unknown generator 'stylegan22'; did you mean 'stylegan2' or 'stylegan-t'?"
    """
    names = sorted(set(valid))
    near = difflib.get_close_matches(value, names, n=3, cutoff=0.6)
    if near:
        advice = "did you mean " + " or ".join(repr(name) for name in near) + "?"
    elif not names:
        advice = "there are none"
    elif len(names) <= 12:
        advice = "valid: " + ", ".join(names)
    else:
        advice = "valid: " + ", ".join(names[:12]) + f", ... ({len(names)} in all)"
    return f"unknown {what} {value!r}; {advice}" + (f" ({hint})" if hint else "")
