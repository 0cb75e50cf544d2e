"""Reads every import of a package, also those inside functions and under TYPE_CHECKING, and finds broken rules.

Each rule is a function that returns one sentence for each violation.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

# The order of the rooms: what comes later may import what comes earlier. Some are yet to be built.
ROOMS = (
    *("errors", "hookspecs", "_version"),
    *("core.runtime", "core.interfaces", "core.config", "core.cuda", "core.nn", "core.data", "core.models"),
    *("core.checkpoints", "core.training"),
    *("interop", "sampling", "evaluation", "latents", "preparation", "report", "studio", "hub"),
    *("interfaces", "api", "plugins", "cli", "testing"),
)


class Tree:
    """The files of a package by module name, and what each of them imports; `__init__` stands for its package."""

    def __init__(self, root: Path) -> None:
        self.root, self.name = root, root.name
        self.files = {self._module(path): path for path in sorted(root.rglob("*.py"))}
        self.parsed = {
            module: ast.parse(path.read_text(encoding="utf-8")) for module, path in self.files.items()
        }
        self.imports = {module: self._imports(module) for module in self.files}

    def _module(self, path: Path) -> str:
        parts = path.relative_to(self.root.parent).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def _imports(self, module: str) -> set[str]:
        package = self.files[module].name == "__init__.py"
        found = imported(self.parsed[module], module if package else module.rpartition(".")[0])
        return {self.module_of(name) for name in found} - {"", module}

    def module_of(self, name: str) -> str:
        """The file that `name` lies in: a module itself, or the module that a name is imported from."""
        while name and name not in self.files:
            name = name.rpartition(".")[0]
        return name


def imported(tree: ast.AST, package: str = "") -> set[str]:
    """Full names of everything that is imported; relative imports are those of a file in `package`."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *filter(None, [node.module])])
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def against_the_order(tree: Tree, order: Sequence[str], outside: Iterable[str]) -> Iterator[str]:
    """Imports that do not go from a later room to an earlier one, and files that belong to no room.

    Rooms are named without the package. Packages that hold rooms, and the modules `outside`, are in no room; nothing in
    a room imports them.
    """
    rooms = [f"{tree.name}.{room}" for room in order]

    def room(module: str) -> str | None:
        return max((r for r in rooms if within(module, r)), key=len, default=None)

    for module, names in tree.imports.items():
        if module in outside:
            continue
        mine = room(module)
        if mine is None and (names or not any(within(r, module) for r in rooms)):
            yield f"{module} belongs to no room of the order"
            continue
        for name in sorted(names):
            theirs = room(name)
            if theirs is None:
                yield f"{module} imports {name}, which is outside the order"
            elif mine is not None and rooms.index(theirs) > rooms.index(mine):
                yield f"{module} imports {name}, which comes later"


def circles(tree: Tree) -> Iterator[str]:
    """Files that import each other, directly or through others: strongly connected components (Tarjan 1972)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        number[module] = low[module] = len(number)
        stack.append(module)
        for name in sorted(tree.imports[module]):
            if name not in number:
                visit(name)
                low[module] = min(low[module], low[name])
            elif name in stack:
                low[module] = min(low[module], number[name])
        if low[module] == number[module]:
            start = stack.index(module)
            found.append(stack[start:])
            del stack[start:]

    for module in tree.files:
        if module not in number:
            visit(module)
    for members in found:
        if len(members) > 1:
            yield f"a circle of {len(members)} files: {', '.join(sorted(members))}"


def out_of(tree: Tree, package: str, allowed: Iterable[str]) -> Iterator[str]:
    """Imports of the files of a sub-package from elsewhere in the tree, but for the modules `allowed`."""
    for module, names in tree.imports.items():
        if within(module, package):
            for name in sorted(names):
                if not within(name, package) and not any(within(name, other) for other in allowed):
                    yield f"{module} imports {name}, which is outside of {package}"


def named(tree: Tree, package: str) -> Iterator[str]:
    """Files outside of a sub-package that name a module of it, in an import or in a string without spaces."""
    for module, parsed in tree.parsed.items():
        if within(module, package):
            continue
        names = set(tree.imports[module])
        for node in ast.walk(parsed):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
                names.add(node.value.partition(":")[0])
        for name in sorted(names):
            if within(name, package):
                yield f"{module} names {name}"


def repeated_names(tree: Tree, but: Iterable[str]) -> Iterator[str]:
    """File names that occur twice; the sub-packages `but` and `__init__.py` are left out."""
    names = Counter(
        path.name
        for module, path in tree.files.items()
        if path.name != "__init__.py" and not any(within(module, other) for other in but)
    )
    for name, count in sorted(names.items()):
        if count > 1:
            yield f"{count} files are named {name}"


def long_files(trees: Iterable[Tree], limit: int) -> Iterator[str]:
    for tree in trees:
        for module, path in tree.files.items():
            count = len(path.read_text(encoding="utf-8").splitlines())
            if count > limit:
                yield f"{module} has {count} lines"


def long_functions(trees: Iterable[Tree], limit: int) -> Iterator[str]:
    """Functions of more lines without a comment directly above them, or above their decorators, that says why."""
    for tree in trees:
        for module, parsed in tree.parsed.items():
            lines = tree.files[module].read_text(encoding="utf-8").splitlines()
            for node in ast.walk(parsed):
                if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    continue
                count = (node.end_lineno or node.lineno) - node.lineno + 1
                first = min(node.lineno, *(d.lineno for d in node.decorator_list), node.lineno)
                above = (lines[at - 2].strip() for at in (first, node.lineno) if at > 1)
                if count > limit and not any(line.startswith("#") for line in above):
                    yield f"{module}.{node.name} has {count} lines and no comment above it"


def beyond_the_interface(plugin: Tree, package: Tree, allowed: Sequence[str]) -> Iterator[str]:
    """What a plugin package takes of `package` other than its public names and the modules `allowed`."""
    for module, parsed in plugin.parsed.items():
        names = {package.module_of(name) for name in imported(parsed, module) if within(name, package.name)}
        for node in ast.walk(parsed):  # `import gankit`, then gankit.core
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                name = f"{node.value.id}.{node.attr}"
                if within(name, package.name) and name in package.files:
                    names.add(name)
        for name in sorted(names - {package.name}):
            if not any(within(name, other) for other in allowed):
                yield f"{module} imports {name}, which is not for plugins"
