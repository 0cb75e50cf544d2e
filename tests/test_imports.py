"""Nothing heavy is imported before it is needed, and the core does not know the built-in plugins."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gankit

ROOT = Path(gankit.__file__).parent
HEAVY = (
    "torch",
    "torchvision",
    "timm",
    "open_clip",
    "transformers",
    "numpy",
    "PIL",
    "pydantic",
    "yaml",
    "safetensors",
)


def heavy_after(code: str, *arguments: str) -> tuple[list[str], str]:
    """Heavy modules that a fresh interpreter has imported after running some code, and what it printed."""
    program = (
        f"import sys\nsys.argv = ['gankit', *{arguments!r}]\n"
        f"try:\n    {code}\nexcept SystemExit as exit:\n    assert not exit.code, exit.code\n"
        f"heavy = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "if 'typer._adapters' in sys.modules: heavy.remove('pydantic')  # newer typers parse arguments with it\n"
        "print('HEAVY', *heavy)"
    )
    env = {**os.environ, "GANKIT_PLUGINS": ""}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=env, timeout=120
    )
    assert done.returncode == 0, done.stderr
    printed, _, heavy = done.stdout.rpartition("HEAVY")
    return heavy.split(), printed


@pytest.mark.parametrize(
    ("code", "arguments", "expected"),
    [
        ("import gankit", (), ""),
        ("import gankit.core.config.registry as p; p.registry()", (), ""),
        ("from gankit import cli; cli.main()", ("--help",), "train"),
        ("from gankit import cli; cli.main()", ("--version",), gankit.__version__),
        ("from gankit import cli; cli.main()", ("train", "--help"), "--data"),
        ("from gankit import cli; cli.main()", ("plugins",), "stylegan2"),
    ],
)
def test_light(code: str, arguments: tuple[str, ...], expected: str) -> None:
    heavy, printed = heavy_after(code, *arguments)
    assert heavy == []
    assert expected in printed


def test_recipes_need_yaml_only() -> None:
    heavy, printed = heavy_after("from gankit import cli; cli.main()", "recipes")
    assert "stylegan-t" in printed
    assert not {"torch", "numpy", "timm"} & set(heavy)


def test_public_names_are_importable() -> None:
    for name in gankit.__all__:
        assert getattr(gankit, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = gankit.no_such_name
    assert set(gankit.__all__) <= set(dir(gankit))


def imports_of(path: Path) -> set[str]:
    """Modules that a file names in an import or in a string, wherever it does."""
    package = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts[:-1])
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(
                    [*package.split(".")[: len(package.split(".")) - node.level + 1], base]
                ).strip(".")
            names.update([base, *(f"{base}.{alias.name}" for alias in node.names)])
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
            names.add(node.value.partition(":")[0])
    return names


def in_package(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def test_core_never_imports_plugins() -> None:
    files = [p for p in ROOT.rglob("*.py") if "plugins" not in p.relative_to(ROOT).parts[:1]]
    assert ROOT / "core" / "plugins.py" in files  # the registry is not the package of that name
    assert len(files) > 20
    for path in files:
        guilty = {name for name in imports_of(path) if in_package(name, "gankit.plugins")}
        assert not guilty, f"{path.relative_to(ROOT)} imports {guilty}"


def test_core_never_imports_what_is_built_on_it() -> None:
    for path in (ROOT / "core").rglob("*.py"):
        above = {"gankit.evaluation", "gankit.sampling.pipeline", "gankit.sampling", "gankit.testing"}
        guilty = {name for name in imports_of(path) for top in above if in_package(name, top)}
        assert not guilty, f"{path.relative_to(ROOT)} imports {guilty}"


def test_library_never_imports_the_command_line() -> None:
    for path in ROOT.rglob("*.py"):
        if path.name not in ("cli.py", "__main__.py"):
            guilty = {name for name in imports_of(path) if in_package(name, "gankit.cli")}
            assert not guilty, f"{path.relative_to(ROOT)} imports {guilty}"


def test_the_check_itself_sees_imports(tmp_path: Path) -> None:
    file = ROOT / "core" / "plugins.py"
    assert "gankit.hookspecs" in imports_of(file)
    assert "gankit.core.interfaces" in imports_of(ROOT / "core" / "step.py")
