"""Parsing of image counts in recipes, such as 200k or 8Mi."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator


def parse_count(value: Any) -> Any:
    """200000, '200k', '1.5M' (powers of 1000) or '8Mi' (powers of 1024) -> int; values that are not text pass through.

    Raises ValueError for other text."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(k|m|g|ki|mi|gi)?\s*", value, re.IGNORECASE)
    if not match:
        raise ValueError(f"{value!r} is not a number of images such as 200000, 200k or 8Mi")
    unit = (match.group(2) or "").lower()
    base = 1024 if unit.endswith("i") else 1000
    return round(float(match.group(1)) * base ** (" kmg".index(unit[0]) if unit else 0))


Count = Annotated[int, BeforeValidator(parse_count)]
