"""Where tests lie: those of gankit/X/y.py in tests/X/test_y.py, or in tests/X/y/test_*.py if there are several."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path


def misplaced(tests: Path, package: Path, *, apart: Collection[str], rules: Collection[str]) -> Iterator[str]:
    """One sentence for each file that the rule does not explain.

    `apart` are folders of other things than tests of one module, `rules` files at the top about the whole repository.
    """
    for path in sorted(tests.rglob("*.py")):
        place = path.relative_to(tests)
        if place.parts[0] in apart or place.name == "conftest.py" or str(place) in rules:
            continue
        if not place.name.startswith("test_"):
            yield f"{place} is no test; what tests share lies in support/"
            continue
        folder = package / place.parent
        module = folder / place.stem.removeprefix("test_")
        several = len(place.parts) > 1 and folder.with_suffix(".py").is_file()
        if not (module.with_suffix(".py").is_file() or (module / "__init__.py").is_file() or several):
            yield f"{place} tests neither {module.relative_to(package.parent)}.py nor a package of that name"
