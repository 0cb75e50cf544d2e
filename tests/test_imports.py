"""Nothing heavy is imported before it is needed; imports go from later rooms to earlier ones and never in circles.

The rules themselves are tested at the end, on made-up packages that break them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

import import_rules as rules
import pytest
from import_rules import ROOMS, Tree
from repository import ROOT

import gankit

OUTSIDE = ("gankit", "gankit.__main__")
FOR_PLUGINS = ("gankit.interfaces", "gankit.testing")
LONG_FILE, LONG_FUNCTION = 450, 60  # lines

PACKAGE = Tree(Path(gankit.__file__).parent)
PLUGINS = [Tree(path.parent) for path in sorted(ROOT.glob("plugins_contrib/*/*/__init__.py"))]

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


# ---------------------------------------------------------------------------------------- what is imported when


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


# ------------------------------------------------------------------------------------------------ who imports whom


def nothing(found: Iterable[str]) -> None:
    sentences = list(found)
    assert not sentences, "\n".join(["", *sentences])


def test_imports_go_from_later_rooms_to_earlier_ones() -> None:
    nothing(rules.against_the_order(PACKAGE, ROOMS, OUTSIDE))


def test_no_files_import_each_other_in_a_circle() -> None:
    nothing(rules.circles(PACKAGE))


def test_core_never_imports_plugins() -> None:
    """Nor does anything else outside of plugins/ name a module of it, be it in a string."""
    nothing(rules.named(PACKAGE, "gankit.plugins"))


def test_core_never_imports_what_is_built_on_it() -> None:
    basis = ("gankit.errors", "gankit.hookspecs", "gankit._version")
    nothing(rules.out_of(PACKAGE, "gankit.core", basis))


def test_library_never_imports_the_command_line() -> None:
    for module, names in PACKAGE.imports.items():
        if module != "gankit.__main__" and not rules.within(module, "gankit.cli"):
            assert not [name for name in names if rules.within(name, "gankit.cli")], module


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda tree: tree.name)
def test_plugin_packages_import_what_is_for_plugins(plugin: Tree) -> None:
    nothing(rules.beyond_the_interface(plugin, PACKAGE, FOR_PLUGINS))


# ---------------------------------------------------------------------------------------------- files and functions


def test_a_file_name_occurs_once() -> None:
    """In plugins/ and testing/, files of one family have one name."""
    nothing(rules.repeated_names(PACKAGE, ("gankit.plugins", "gankit.testing")))


def test_few_files_are_long() -> None:
    found = list(rules.long_files([PACKAGE, *PLUGINS], LONG_FILE))
    assert len(found) <= 2, found


def test_long_functions_say_why() -> None:
    nothing(rules.long_functions([PACKAGE, *PLUGINS], LONG_FUNCTION))


def test_pages_import_only_what_is_for_plugins() -> None:
    """Every import line of a page works, and is of names that stay."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("plugins_contrib/*/README.md")]
    lines = [line for page in pages for line in page.read_text(encoding="utf-8").splitlines()]
    found = [line for line in lines if re.match(r"(from|import) gankit", line)]
    assert len(found) > 6
    for line in found:
        module = line.split()[1]
        assert module == "gankit" or module.startswith(FOR_PLUGINS), line
        exec(line.partition("#")[0], {})


# ------------------------------------------------------------------------------------------------ the rules themselves


def made_up(folder: Path, files: dict[str, str]) -> Tree:
    """A package `gankit` of files by path without `.py`; packages get an empty `__init__`."""
    root = folder / "gankit"
    root.mkdir(exist_ok=True)
    for name, text in files.items():
        path = root / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    for path in [root, *(p for p in root.rglob("*") if p.is_dir())]:
        (path / "__init__.py").touch()
    return Tree(root)


def test_the_check_itself_sees_imports(tmp_path: Path) -> None:
    assert "gankit.hookspecs" in PACKAGE.imports["gankit.core.config.registry"]
    assert "gankit.core.models.stored_state" in PACKAGE.imports["gankit.core.models.model_folder"]
    assert len(PACKAGE.files) > 100
    assert len(PLUGINS) >= 2
    text = """
        import gankit.errors
        from typing import TYPE_CHECKING
        from . import b as bee
        from ..data import c
        from ..data.d import Name
        if TYPE_CHECKING:
            from gankit.core import e
        def f():
            from gankit.hookspecs import KINDS
            import os.path
    """
    others = dict.fromkeys(("core/data/c", "core/data/d", "core/nn/b", "core/e", "errors", "hookspecs"), "")
    found = made_up(tmp_path, {"core/nn/a": text, **others}).imports["gankit.core.nn.a"]
    core = {f"gankit.core.{name}" for name in ("nn.b", "data.c", "data.d", "e")}
    assert found == {"gankit.errors", "gankit.hookspecs", *core}


@pytest.mark.parametrize(
    "line",
    [
        "from gankit.core.training import step",
        "import gankit.core.training.step",
        "from ..training.step import Stepper",
        "def f():\n    from gankit.core.training.step import Stepper",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from gankit.core.training.step import Stepper",
    ],
)
def test_an_import_of_a_later_room_is_found(line: str, tmp_path: Path) -> None:
    tree = made_up(tmp_path, {"core/nn/rgb": line, "core/training/step": "class Stepper: ..."})
    (found,) = rules.against_the_order(tree, ROOMS, OUTSIDE)
    assert found == "gankit.core.nn.rgb imports gankit.core.training.step, which comes later"


def test_what_has_no_place_in_the_order_is_found(tmp_path: Path) -> None:
    tree = made_up(
        tmp_path,
        {
            "errors": "",
            "core/odd/a": "",
            "core/nn/rgb": "import gankit",
            "core/nn/ok": "from gankit.core.runtime import random",
            "core/runtime/random": "from gankit import errors",
            "__main__": "from gankit import errors",
        },
    )
    assert list(rules.against_the_order(tree, ROOMS, OUTSIDE)) == [
        "gankit.core.nn.rgb imports gankit, which is outside the order",
        "gankit.core.odd belongs to no room of the order",
        "gankit.core.odd.a belongs to no room of the order",
    ]


def test_circles_are_found(tmp_path: Path) -> None:
    tree = made_up(
        tmp_path,
        {
            "core/nn/a": "from gankit.core.nn import b",
            "core/nn/b": "def f():\n    from gankit.core.nn.c import x",
            "core/nn/c": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .a import y",
            "core/nn/d": "from gankit.core.nn import a",
            "core/data/loader": "from gankit.core.data import LOADER",
            "core/data/__init__": "from gankit.core.data.loader import LOADER",
        },
    )
    assert sorted(rules.circles(tree)) == [
        "a circle of 2 files: gankit.core.data, gankit.core.data.loader",
        "a circle of 3 files: gankit.core.nn.a, gankit.core.nn.b, gankit.core.nn.c",
    ]


def test_what_leaves_core_is_found(tmp_path: Path) -> None:
    tree = made_up(
        tmp_path,
        {
            "errors": "",
            "interop/pickles": "",
            "core/nn/a": "import gankit.errors\nfrom gankit.core.nn import b\nfrom gankit.interop import pickles",
            "core/nn/b": "",
        },
    )
    (found,) = rules.out_of(tree, "gankit.core", ["gankit.errors"])
    assert found == "gankit.core.nn.a imports gankit.interop.pickles, which is outside of gankit.core"


@pytest.mark.parametrize(
    "line",
    [
        "from gankit.plugins.losses import hinge",
        "target = 'gankit.plugins.losses.hinge:Hinge'",
        "def f(module='gankit.plugins.losses.hinge'): ...",
    ],
)
def test_names_of_plugins_are_found(line: str, tmp_path: Path) -> None:
    tree = made_up(
        tmp_path,
        {"core/nn/a": line, "core/nn/b": "'the package gankit.plugins'", "plugins/losses/hinge": line},
    )
    (found,) = rules.named(tree, "gankit.plugins")
    assert found.startswith("gankit.core.nn.a names gankit.plugins.losses")


def test_repeated_long_and_silent_are_found(tmp_path: Path) -> None:
    long = "    x = 1\n" * 60
    tree = made_up(
        tmp_path,
        {
            "core/nn/a": f"def silent():\n{long}\n\n@staticmethod\ndef decorated():\n{long}",
            "core/data/a": f"def short():\n{long[10:]}\n\n# One table.\n@staticmethod\ndef told():\n{long}",
            "plugins/losses/a": "x = 1\n" * 451,
            "plugins/metrics/a": "x = 1\n" * 450,
        },
    )
    assert list(rules.repeated_names(tree, ["gankit.plugins"])) == ["2 files are named a.py"]
    assert list(rules.long_files([tree], LONG_FILE)) == ["gankit.plugins.losses.a has 451 lines"]
    assert list(rules.long_functions([tree], LONG_FUNCTION)) == [
        f"gankit.core.nn.a.{name} has 61 lines and no comment above it" for name in ("silent", "decorated")
    ]


def test_what_is_not_for_plugins_is_found(tmp_path: Path) -> None:
    package = made_up(tmp_path, {"core/nn/rgb": "", "interfaces/ops": "", "testing/common": ""})
    plugin = tmp_path / "plugin"
    plugin.mkdir()
    (plugin / "__init__.py").write_text("import os, gankit\nfrom gankit import GankitError, interfaces\n")
    (plugin / "good.py").write_text(
        "from gankit.interfaces.ops import x\nimport gankit.testing\ngankit.train()\n"
    )
    (plugin / "bad.py").write_text("def f():\n    from gankit.core.nn.rgb import to_rgb\n")
    (plugin / "sly.py").write_text("import gankit\nf = gankit.core.nn.rgb.to_rgb\n")
    assert list(rules.beyond_the_interface(Tree(plugin), package, FOR_PLUGINS)) == [
        "plugin.bad imports gankit.core.nn.rgb, which is not for plugins",
        "plugin.sly imports gankit.core, which is not for plugins",
    ]
