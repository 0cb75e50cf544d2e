"""`gankit plugins check`: what is wrong with a package is told in full, and its sound plugins are not blamed for it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_packages import registering, site_folder, write_package

PARTS = """
from gankit.interfaces import AdversarialLoss, Generator, Source

class Sound(AdversarialLoss):
    def d_loss(self, real, fake): ...
    def g_loss(self, fake, real=None): ...

class Stranger: ...

class Half(AdversarialLoss):
    def d_loss(self, real, fake): ...

class Untyped(Sound):
    def __init__(self, *, part: "NoSuchType" = None): ...

class Default(Sound):
    def __init__(self, *, weight: int = "heavy"): ...

class Shapeless(Generator):
    def __init__(self, *, width: int = 1): ...

class Open(Sound):
    def __init__(self, width=1): ...

number = 3
"""
CASES = {  # registration -> what is said of it, None if nothing
    "'loss', 'sound', 'parts_of.parts:Sound'": None,
    "'loss', 'gone', 'parts_of.parts:Gone'": "AttributeError",
    "'loss', 'lost', 'parts_of.nowhere:Sound'": "ModuleNotFoundError",
    "'loss', 'raises', 'parts_of.raises:Sound'": "ZeroDivisionError",
    "'loss', 'stranger', 'parts_of.parts:Stranger'": "a Stranger, which does not derive from gankit's AdversarialLoss",
    "'loss', 'half', 'parts_of.parts:Half'": "it lacks g_loss, which AdversarialLoss demands",
    "'loss', 'untyped', 'parts_of.parts:Untyped'": "types in the signature",
    "'loss', 'default', 'parts_of.parts:Default'": "loss.weight = 'heavy'",
    "'loss', 'number', 'parts_of.parts:number'": "it is of type int, neither a class nor a function",
    "'generator', 'shapeless', 'parts_of.parts:Shapeless'": "takes (*, width: int = 1), but is called with 2",
    "'loss', 'open', 'parts_of.parts:Open'": "its constructor takes width by position, too: options come after a *",
    "'loss', 'hinge', 'parts_of.parts:Sound'": "package 'gankit' has registered that name",
    "'recipe', 'sound', 'parts_of:sound.yaml'": None,
    "'recipe', 'wrong', 'parts_of:wrong.yaml'": "unknown key 'generatr'",
    "'recipe', 'missing', 'parts_of:missing.yaml'": "cannot be read",
    "'recipe', 'large', 'parts_of:large.yaml'": "data.sise",
    "'model', 'nothing', 'parts_of:nothing'": "package parts_of has no folder nothing",
    "'command', 'number', 'parts_of.parts:number'": "neither a typer.Typer nor a function",
    "'command', 'fine', 'parts_of.parts:Sound'": None,
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    with site_folder(tmp_path / "site") as folder:
        yield folder


def test_every_target(site: Path, gankit_cli: Callable[..., object]) -> None:
    files = {
        "parts_of/__init__.py": registering(*CASES, "'los', 'x', 'a:X'"),
        "parts_of/parts.py": PARTS,
        "parts_of/raises.py": "x = 1 / 0\n",
        "parts_of/sound.yaml": "loss: sound\n",
        "parts_of/wrong.yaml": "generatr: stylegan2\n",
        "parts_of/large.yaml": "tiny: {data.sise: 8}\n",
    }
    write_package(site, "parts-of", files, version="2.0")
    done = gankit_cli("plugins", "check", "Parts_Of")
    assert (done.code, done.err) == (1, "")
    assert done.out.startswith(f"parts-of 2.0: {len(CASES)} plugins\n")
    for line, reason in CASES.items():
        kind, name, target = (part.strip(" '") for part in line.split(","))
        begin = f"{'ok    ' if reason is None else 'FAILED'}  {kind} {name} ({target})"
        _, found, rest = done.out.partition(begin)
        assert found, begin
        told = rest.partition("\n  ok")[0].partition("\n  FAILED")[0]
        assert (reason or "") in told
        assert ("Traceback (most recent call last)" in told) == bool(reason and reason.endswith("Error"))
    assert "x = 1 / 0" in done.out  # the traceback leads into the package's file
    assert (
        "a plugin of package 'parts-of' is skipped: unknown plugin kind 'los'; did you mean 'loss'"
        in done.out
    )
    assert done.out.endswith(f"{sum(map(bool, CASES.values())) + 1} things are wrong\n")


def test_a_sound_package(
    site: Path, gankit_cli: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "sound/__init__.py": registering("'loss', 'sound', 'sound.parts:Sound'"),
        "sound/parts.py": PARTS,
    }
    write_package(site, "sound", files)
    done = gankit_cli("plugins", "check", "sound")
    assert (done.code, done.err) == (0, "")
    assert done.out == "sound 1.0: 1 plugin\n  ok      loss sound (sound.parts:Sound)\nnothing is wrong\n"
    monkeypatch.setenv("GANKIT_PLUGINS", "other")
    done = gankit_cli("plugins", "check", "sound")
    assert done.code == 1
    assert "GANKIT_PLUGINS=other keeps gankit from loading it; add sound there, or unset it" in done.out


def test_a_module_that_raises(site: Path, gankit_cli: Callable[..., object]) -> None:
    write_package(site, "broken-one", "import no_such_module_xyz")
    done = gankit_cli("plugins", "check", "broken-one")
    assert (done.code, done.err) == (1, "")
    assert "entry point 'main' of package 'broken-one' is skipped (ModuleNotFoundError" in done.out
    assert "    Traceback (most recent call last)" in done.out


GROUPS = {
    "[gankit.plugins]\nmain = parts\n": "in the group 'gankit.plugins': write [project.entry-points.gankit]",
    "[gankit_plugins]\nmain = parts\n": "in the group 'gankit_plugins': write",
    "[Gankit]\nmain = parts\n": "in the group 'Gankit': write",
    "[gan-kit]\nmain = parts\n": "in the group 'gan-kit': write",
    "[console_scripts]\nmain = parts:run\n": "it has no entry point in the group 'gankit'",
    "": "it has no entry point in the group 'gankit'",
    "[gankit]\nmain = parts\n": "its gankit_register registers nothing",
}


@pytest.mark.parametrize("groups", GROUPS)
def test_nothing_is_registered(site: Path, gankit_cli: Callable[..., object], groups: str) -> None:
    write_package(site, "parts", registering_nothing())
    (site / "parts-1.0.dist-info" / "entry_points.txt").write_text(groups)
    done = gankit_cli("plugins", "check", "parts")
    assert (done.code, done.err) == (1, "")
    assert GROUPS[groups] in done.out
    assert done.out.endswith("1 thing is wrong\n")


def test_damaged_metadata(site: Path, gankit_cli: Callable[..., object]) -> None:
    write_package(site, "parts", registering_nothing())
    info = site / "parts-1.0.dist-info"
    (info / "entry_points.txt").write_text("[gankit]\nno equals sign\n")
    done = gankit_cli("plugins", "check", "parts")
    assert (done.code, "the metadata of package 'parts' are damaged" in done.message) == (2, True)
    (info / "entry_points.txt").write_text("[gankit]\nmain = parts\n")
    (info / "METADATA").write_bytes("Name: parts\nAuthor: \xe4\n".encode("latin-1"))
    done = gankit_cli("plugins", "check", "parts")
    assert (done.code, "the metadata of package 'parts' are damaged" in done.message) == (2, True)


def registering_nothing() -> str:
    return registering("'loss', 'x', 'parts:X'").replace("register('loss', 'x', 'parts:X')", "pass")


def test_a_package_that_is_not_installed(site: Path, gankit_cli: Callable[..., object]) -> None:
    write_package(site, "my-package", registering_nothing())
    done = gankit_cli("plugins", "check", "my-pakage")
    assert done.code == 2
    assert "unknown package 'my-pakage'; did you mean 'my-package'? (it is not installed" in done.message


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is imported from a folder stays in a process of its own; here it must not reach other tests."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in [name for name in sys.modules if name.startswith("my_package")]:
        del sys.modules[name]


PROJECT = """
[project]
name = "my-package"
version = "1.0"
[project.entry-points.{group}]
main = "my_package.plugins"
"""


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize("src", ["", "src"])
def test_a_folder(tmp_path: Path, site: Path, gankit_cli: Callable[..., object], src: str) -> None:
    """It need not be installed; if it is, its metadata must be those of the folder."""
    project = tmp_path / "project"
    package = project / src / "my_package"
    package.mkdir(parents=True)
    (project / "pyproject.toml").write_text(PROJECT.format(group="gankit"))
    (package / "__init__.py").touch()
    (package / "parts.py").write_text(PARTS)
    (package / "mine.yaml").write_text("loss: mine\n")
    lines = ("'loss', 'mine', 'my_package.parts:Sound'", "'recipe', 'mine', 'my_package:mine.yaml'")
    (package / "plugins.py").write_text(registering(*lines))
    done = gankit_cli("plugins", "check", project)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("my-package (not installed): 2 plugins\n")
    for name in [name for name in sys.modules if name.startswith("my_package")]:
        del sys.modules[name]
    (project / "pyproject.toml").write_text(PROJECT.format(group="'gankit.plugins'"))
    done = gankit_cli("plugins", "check", project)
    assert (done.code, "does not read the entry points in the group 'gankit.plugins'" in done.out) == (
        1,
        True,
    )
    write_package(site, "my-package", {})
    done = gankit_cli("plugins", "check", project)
    assert "pyproject.toml declares other entry points than the installed package" in done.out


def test_a_folder_whose_project_cannot_be_read(tmp_path: Path, gankit_cli: Callable[..., object]) -> None:
    for text in (
        "not toml",
        "",
        "[project]\nversion = '1.0'\n",
        "project = 3\n",
        "[project]\nname = 'x'\nentry-points = 3\n",
    ):
        (tmp_path / "pyproject.toml").write_text(text)
        done = gankit_cli("plugins", "check", tmp_path)
        assert (done.code, "names no project" in done.message) == (2, True)


def test_a_plugin_file(tmp_path: Path, site: Path, gankit_cli: Callable[..., object]) -> None:
    path = tmp_path / "lone_plugin.py"
    path.write_text(PARTS + registering("'loss', 'lone', 'lone_plugin:Sound'", "'loss', 'two', 1 / 0"))
    done = gankit_cli("plugins", "check", path)
    assert (done.code, done.err) == (1, "")
    assert done.out.startswith("lone_plugin.py file: 1 plugin\n  ok      loss lone (lone_plugin:Sound)\n")
    assert f"plugin file {path} stopped after 1 of its plugins (ZeroDivisionError" in done.out
    assert "1 / 0" in done.out
    del sys.modules["lone_plugin"]
    path.write_text("import no_such_module_xyz")
    done = gankit_cli("plugins", "check", path)
    assert done.code == 1
    assert "Traceback (most recent call last)" in done.out
    assert "import no_such_module_xyz" in done.out
    assert gankit_cli("plugins", "check", tmp_path / "gone.py").code == 2
