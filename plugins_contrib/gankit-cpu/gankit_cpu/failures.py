"""One warning when kernels fail and slower, equal operators take their place."""

from __future__ import annotations

import warnings


def note(failures: list[str], error: Exception, what: str, instead: str) -> None:
    """Add `error` to `failures`; the first one is told in a warning: `what` failed, `instead` is used."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    if not failures:
        warnings.warn(
            f"{what} failed ({reason}). {instead}, slower but equal. Please report it with what `gankit doctor` prints",
            RuntimeWarning,
            stacklevel=3,
        )
    failures.append(reason)
