"""Plugin packages that exist only for a test: a module and the metadata that pip would install, in a folder."""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from gankit.core.config.registry import registry


def write_package(
    folder: Path,
    package: str,
    files: str | Mapping[str, str],
    *,
    module: str | None = None,
    version: str = "1.0",
) -> str:
    """Make `package` importable from `folder`, with an entry point to a module; returns the module's name.

    `files` is the module's code, or the text of several files by path.
    """
    module = module or package.replace("-", "_")
    for name, text in ({f"{module}.py": files} if isinstance(files, str) else files).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text), encoding="utf-8")
    info = folder / f"{package.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[gankit]\nmain = {module}\n")
    return module


@contextlib.contextmanager
def site_folder(folder: Path) -> Iterator[Path]:
    """A folder on sys.path for packages; what was imported from it is forgotten afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("GANKIT_PLUGINS", "GANKIT_STRICT_PLUGINS", "GANKIT_PLUGIN_FILES"):
            patch.delenv(name, raising=False)
        patch.syspath_prepend(str(folder))
        registry.cache_clear()
        yield folder
    registry.cache_clear()
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
            del sys.modules[name]
    importlib.invalidate_caches()


def registering(*lines: str) -> str:
    """A module that registers plugins; each line is an argument list for `register`."""
    body = "\n".join(f"    register({line})" for line in lines)
    return f"from gankit import hookimpl\n\n@hookimpl\ndef gankit_register(register):\n{body}\n"


def run_python(
    *arguments: object, path: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`python ARGS` with the packages of a folder; `environment` adds variables."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("GANKIT_")}
    env |= {"OMP_NUM_THREADS": "1", "COLUMNS": "200", **environment}
    if path is not None:
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(path), env.get("PYTHONPATH", "")]))
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)


def run_gankit(
    *arguments: object, path: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    return run_python("-m", "gankit", *arguments, path=path, **environment)
