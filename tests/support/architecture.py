"""The list of files in ARCHITECTURE.md, generated from docstrings: `python tests/support/architecture.py` writes it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "ARCHITECTURE.md"
MARK = "<!-- files:"


def first_sentence(path: Path) -> str:
    """The first sentence of a module's docstring, on one line; '' if there is none."""
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    line = " ".join(doc.split("\n\n")[0].split())
    found = re.match(r".*?[.:](?=\s+[A-Z`]|$)", line)
    return (found.group(0) if found else line).rstrip(".:")


def file_list() -> str:
    """A section for each folder of gankit and of the packages in plugins_contrib, with a line for each file."""
    packages = [
        ROOT / "gankit",
        *sorted(path.parent for path in ROOT.glob("plugins_contrib/*/*/__init__.py")),
    ]
    sections = []
    for folder in (
        f for package in packages for f in sorted({path.parent for path in package.rglob("*.py")})
    ):
        lines = [f"### `{folder.relative_to(ROOT).as_posix()}/`", ""]
        if (folder / "__init__.py").is_file():
            lines += [f"{first_sentence(folder / '__init__.py')}.", ""]
        others = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
        lines += [f"- `{path.name}`: {first_sentence(path)}" for path in others]
        sections.append("\n".join(lines).rstrip())
    return "\n\n".join(sections) + "\n"


def page() -> str:
    """ARCHITECTURE.md with the list as the files are now."""
    head, mark, rest = PAGE.read_text(encoding="utf-8").partition(MARK)
    return f"{head}{mark}{rest.splitlines()[0]}\n\n{file_list()}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
