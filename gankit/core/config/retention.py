"""The option `train.keep`: how many of the newest checkpoints, and of the best by a metric, a run keeps."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Retention:
    """The checkpoints that a run keeps: the newest ones and the best ones.

    Args:
        last: number of newest checkpoints, at least 1.
        best: pairs (number of best checkpoints, name of the metric's value; "" is the first value that is measured).
    """

    last: int
    best: tuple[tuple[int, str], ...] = ()

    @classmethod
    def parse(cls, value: int | str) -> Retention:
        """Parse 2, '2', 'last:2,best:3' or 'best:3:precision'; `last` is 1 if not given. Raises ValueError for anything
        else."""
        last, best = 1, []
        for part in str(value).split(","):
            match = re.fullmatch(r"\s*(?:(\d+)|last:(\d+)|best:(\d+)(?::([\w.-]+))?)\s*", part)
            numbers = [int(n) for n in match.groups()[:3] if n is not None] if match else [0]
            if match is None or numbers[0] < 1:
                raise ValueError(
                    f"{value!r} does not say which checkpoints to keep; write a number, or last:2,best:3, "
                    "or best:3:precision to choose by another number than the first"
                )
            if match.group(3):
                best.append((numbers[0], match.group(4) or ""))
            else:
                last = numbers[0]
        return cls(last, tuple(best))


def checked_retention(value: Any) -> Any:
    """Pydantic validator of `train.keep`: returns an int for a plain number, else the text unchanged.

    Raises ValueError for values that `Retention.parse` rejects."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(f"{value!r} is not a number of checkpoints or text such as last:2,best:3")
    kept = Retention.parse(value)
    return value if kept.best else kept.last
