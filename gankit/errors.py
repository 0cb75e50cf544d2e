"""GankitError, the exception for a user's mistakes, and messages that suggest near matches of unknown names."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Callable, Iterable
from typing import Any


class GankitError(Exception):
    """A mistake in the input; the message is one sentence that names what is wrong and how to mend it.

    The command line prints the sentence without a traceback and exits with code 2.
    """


def for_python(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of the library whose errors name arguments instead of options of the command line.

    Messages name options as the command line spells them: '--num-real' becomes 'num_real'."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except GankitError as error:
            error.args = (re.sub(r"(?<!\S)--([a-z][a-z-]*)", lambda m: m[1].replace("-", "_"), str(error)),)
            raise

    return call


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
