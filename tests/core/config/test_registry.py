"""Finding plugins: guarded, selectable, one name once, and told apart when something is wrong."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_packages import registering, run_gankit, site_folder, write_package

from gankit.core.config.registry import Registry, claimed, registry
from gankit.errors import GankitError
from gankit.hookspecs import KINDS

Discover = Callable[[], tuple[Registry, list[str]]]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    with site_folder(tmp_path / "site") as folder:
        yield folder


@pytest.fixture
def discover(site: Path) -> Discover:
    """Discover anew; returns the registry and the warnings that were given."""

    def run() -> tuple[Registry, list[str]]:
        importlib.invalidate_caches()
        registry.cache_clear()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = registry()
        return found, [str(w.message) for w in caught if w.category is UserWarning]

    return run


def test_builtins_are_there_and_their_targets_exist() -> None:
    for plugin in registry().plugins.values():
        if plugin.package == "gankit" and not KINDS[plugin.kind][0].startswith("'"):
            assert registry().load(plugin.kind, plugin.name).__name__ == plugin.target.partition(":")[2]
    kinds = {p.kind for p in registry().plugins.values() if p.package == "gankit"}
    assert kinds >= KINDS.keys() - {"model", "command"}


def test_another_package_adds_a_plugin(site: Path, discover: Discover) -> None:
    write_package(site, "my-gan", registering("'generator', 'mine', 'my_gan:Mine'"), version="2.5")
    found, warned = discover()
    plugin = found.get("generator", "mine")
    assert (plugin.package, plugin.version, plugin.target) == ("my-gan", "2.5", "my_gan:Mine")
    assert (
        found.names("generator")[0] == "mine"
    )  # before the built-ins, which take whatever nobody else wants
    assert warned == []


BROKEN = {
    "import": ("import no_such_module_xyz", "ModuleNotFoundError", "no_such_module_xyz"),
    "syntax": ("def broken(:", "SyntaxError", "def broken(:"),
    "raise": ("raise ValueError('first line\\nsecond line')", "first line", "second line"),
    "exit": ("import sys; sys.exit('bye')", "SystemExit", "bye"),
    "hook": (registering("'loss', 'y', 1 / 0"), "ZeroDivisionError, line 5", "1 / 0"),
    "signature": (
        "from gankit import hookimpl\n\n@hookimpl\ndef gankit_register(register, other):\n    pass\n",
        "other",
        "gankit_register",
    ),
    "misspelt": (
        "from gankit import hookimpl\n\n@hookimpl\ndef gankit_regster(register):\n    pass\n",
        "gankit_regster",
        "gankit_regster",
    ),
    "no hook": ("def gankit_register(register):\n    pass\n", "hookimpl", "hookimpl"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_broken_package_is_skipped_with_one_line(site: Path, discover: Discover, how: str) -> None:
    code, in_summary, in_traceback = BROKEN[how]
    write_package(site, "broken-one", code)
    write_package(site, "sound-one", registering("'loss', 'sound', 'sound_one:Loss'"))
    found, warned = discover()
    assert len(warned) == 1
    assert "\n" not in warned[0]
    for part in ("broken-one", in_summary, "gankit plugins"):
        assert part in warned[0]
    (failure,) = found.failures
    assert failure.package == "broken-one"
    assert in_traceback in failure.traceback
    assert not [p for p in found.plugins.values() if p.package == "broken-one"]
    assert found.get("loss", "sound").package == "sound-one"
    with pytest.raises(GankitError, match=r"unknown generator 'x'.*1 failed to load or were ignored"):
        found.get("generator", "x")


BAD = {
    "kind": ("'generatr', 'x', 'm:X'", "unknown plugin kind 'generatr'; did you mean 'generator'"),
    "kind of another type": ("['loss'], 'x', 'm:X'", "unknown plugin kind \"['loss']\""),
    "empty name": ("'loss', '', 'm:X'", "'' cannot be the name of a loss"),
    "name with spaces": ("'loss', 'my loss', 'm:X'", "'my loss' cannot be the name"),
    "name with a slash": ("'loss', 'a/b', 'm:X'", "'a/b' cannot be the name"),
    "name with a line break": ("'loss', 'a\\nb', 'm:X'", "cannot be the name"),
    "name with a trailing line break": ("'loss', 'a\\n', 'm:X'", "cannot be the name"),
    "name that is no text": ("'loss', 3, 'm:X'", "3 cannot be the name"),
    "no attribute": (
        "'loss', 'x', 'm'",
        "the target 'm' of loss 'x' does not have the form 'module:attribute'",
    ),
    "empty attribute": ("'loss', 'x', 'm:'", "'module:attribute'"),
    "a path for a class": ("'loss', 'x', 'm:a/b.py'", "'module:attribute'"),
    "no module": ("'loss', 'x', ':X'", "'module:attribute'"),
    "the class itself": ("'loss', 'x', Exception", "the target <class 'Exception'> of loss 'x'"),
    "recipe without a path": ("'recipe', 'x', 'm:'", "'package:path/of/the/file'"),
    "recipe by its path alone": ("'recipe', 'x', 'recipes/x.yaml'", "'package:path/of/the/file'"),
}


@pytest.mark.parametrize("how", BAD)
def test_a_bad_registration_is_skipped_alone(site: Path, discover: Discover, how: str) -> None:
    line, reason = BAD[how]
    write_package(
        site, "half-bad", registering("'loss', 'before', 'm:X'", line, "'recipe', 'after', 'half_bad:x.yaml'")
    )
    found, warned = discover()
    assert {p.name for p in found.plugins.values() if p.package == "half-bad"} == {"before", "after"}
    assert len(warned) == 1
    assert warned[0].startswith("a plugin of package 'half-bad' is skipped: ")
    assert "\n" not in warned[0]
    assert reason in warned[0]


def test_what_was_registered_before_an_exception_stays(site: Path, discover: Discover) -> None:
    write_package(
        site,
        "half-bad",
        registering("'loss', 'one', 'm:X'", "'loss', 'two', 1 / 0", "'loss', 'three', 'm:X'"),
    )
    found, warned = discover()
    assert {p.name for p in found.plugins.values() if p.package == "half-bad"} == {"one"}
    (warning,) = warned
    assert warning.startswith(
        "entry point 'main' of package 'half-bad' stopped after 1 of its plugins (ZeroDivisionError, line 6: "
    )
    assert "1 / 0" in found.failures[0].traceback


@pytest.mark.parametrize(
    "line", ["broken = no_such_module_xyz", "broken = half_bad:no_such_attribute", "broken =", "broken = a b"]
)
def test_a_broken_entry_point_is_skipped_alone(site: Path, discover: Discover, line: str) -> None:
    write_package(site, "half-bad", registering("'loss', 'sound', 'm:X'"))
    (site / "half_bad-1.0.dist-info" / "entry_points.txt").write_text(f"[gankit]\nmain = half_bad\n{line}\n")
    found, warned = discover()
    assert found.get("loss", "sound").package == "half-bad"
    assert len(warned) == 1
    assert warned[0].startswith("entry point 'broken' of package 'half-bad' is skipped (")


def test_broken_package_is_an_error_if_strict(
    site: Path, discover: Discover, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_package(site, "broken-one", "import no_such_module_xyz")
    monkeypatch.setenv("GANKIT_STRICT_PLUGINS", "1")
    with pytest.raises(GankitError, match=r"broken-one.*no_such_module_xyz.*--strict-plugins"):
        discover()


def test_selection(site: Path, discover: Discover, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two", "three"):
        write_package(site, f"my-{name}", registering(f"'loss', '{name}', 'm:X'"))

    def losses(selected: str | None) -> set[str]:
        if selected is None:
            monkeypatch.delenv("GANKIT_PLUGINS", raising=False)
        else:
            monkeypatch.setenv("GANKIT_PLUGINS", selected)
        return set(discover()[0].names("loss")) & {"one", "two", "three", "hinge"}

    assert losses(None) == {"one", "two", "three", "hinge"}
    assert losses("") == {"hinge"}
    assert losses("my-one") == {"one", "hinge"}
    assert losses("My_One, my.three") == {"one", "three", "hinge"}
    assert losses("no-such-package") == {"hinge"}


def test_hidden_packages_are_named_not_imported(
    site: Path, discover: Discover, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_package(site, "My_Gan", "raise SystemExit('imported')", module="my_gan")
    write_package(site, "my-loss", registering("'loss', 'mine', 'my_loss:X'"))
    monkeypatch.setenv("GANKIT_PLUGINS", "my-loss")
    found, warned = discover()
    assert warned == []
    assert "My_Gan" in found.hidden
    assert not {"my-loss", "gankit"} & set(found.hidden)
    with pytest.raises(
        GankitError, match=r"unknown generator 'mine'.*GANKIT_PLUGINS hides the plugins of .*My_Gan"
    ):
        found.get("generator", "mine")
    message = r"the recipe says that it is of package my-gan 2.0, which GANKIT_PLUGINS hides"
    with (
        claimed({("generator", "mine"): "my-gan 2.0"}),  # as a recipe spells it
        pytest.raises(GankitError, match=message),
    ):
        found.get("generator", "mine")
    monkeypatch.delenv("GANKIT_PLUGINS")
    assert discover()[0].hidden == []


def test_two_packages_with_one_name(site: Path, discover: Discover) -> None:
    write_package(site, "a-first", registering("'generator', 'mine', 'a_first:X'"))
    write_package(
        site, "b-second", registering("'generator', 'mine', 'b_second:X'", "'loss', 'mine', 'b_second:Y'")
    )
    write_package(site, "c-third", registering("'generator', 'stylegan2', 'c_third:X'"))
    found, warned = discover()
    assert found.get("generator", "mine").package == "a-first"
    assert found.get("loss", "mine").package == "b-second"  # another kind: no collision
    assert found.get("generator", "stylegan2").package == "gankit"
    assert len(warned) == 2
    assert all(name in warned[0] for name in ("'mine'", "'a-first'", "'b-second'"))
    assert all(name in warned[1] for name in ("'stylegan2'", "'gankit'", "'c-third'"))


def test_package_twice_on_the_path(site: Path, discover: Discover, monkeypatch: pytest.MonkeyPatch) -> None:
    write_package(site, "my-gan", registering("'generator', 'mine', 'my_gan:Mine'"))
    shutil.copytree(site, site.parent / "again")
    monkeypatch.syspath_prepend(str(site.parent / "again"))
    found, warned = discover()
    assert found.get("generator", "mine").package == "my-gan"
    assert warned == []


DAMAGED = {
    "entry points without a value": ("entry_points.txt", b"[gankit]\nno equals sign\n"),
    "entry points of another encoding": ("entry_points.txt", "[gankit]\nä = x:y\n".encode("latin-1")),
    "metadata of another encoding": ("METADATA", "Name: d\nAuthor: ä\n".encode("latin-1")),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_damaged_metadata_cost_their_package_only(site: Path, discover: Discover, how: str) -> None:
    write_package(site, "damaged-one", registering("'loss', 'mine', 'damaged_one:Loss'"))
    write_package(site, "sound-one", registering("'loss', 'sound', 'sound_one:Loss'"))
    name, content = DAMAGED[how]
    (site / "damaged_one-1.0.dist-info" / name).write_bytes(content)
    found, warned = discover()
    assert found.get("loss", "sound").package == "sound-one"
    assert len(warned) == 1
    assert re.search(r"damaged.one.*' is skipped \(its metadata are damaged", warned[0])
    (site / "damaged_one-1.0.dist-info" / name).write_bytes("[other]\nä = x:y\n".encode("latin-1"))
    if name == "entry_points.txt":
        assert discover()[1] == []  # not gankit's


def test_half_uninstalled_package(site: Path, discover: Discover) -> None:
    """pip interrupted: entry points are left, the metadata is gone."""
    write_package(site, "left-over", registering("'loss', 'left', 'left_over:X'"))
    (site / "left_over-1.0.dist-info" / "METADATA").unlink()
    write_package(site, "sound-one", registering("'loss', 'sound', 'sound_one:Loss'"))
    found, _ = discover()
    assert found.get("loss", "sound").package == "sound-one"
    assert "left" not in found.names("loss")


def test_target_that_cannot_be_imported(site: Path, discover: Discover) -> None:
    code = registering("'loss', 'gone', 'my_loss:Gone'", "'loss', 'nowhere', 'no_such_module_xyz:Loss'")
    write_package(site, "my-loss", code)
    found, warned = discover()
    assert warned == []  # targets are not looked at before they are needed
    for name, missing in (("gone", "Gone"), ("nowhere", "no_such_module_xyz")):
        with pytest.raises(
            GankitError, match=rf"loss '{name}' of package 'my-loss' cannot be imported.*{missing}"
        ):
            found.load("loss", name)


def test_unknown_names_get_suggestions() -> None:
    with pytest.raises(GankitError, match="unknown generator 'stylgan2'; did you mean 'stylegan2'"):
        registry().get("generator", "stylgan2")
    done = run_gankit("plugins", "show", "stylgan2", GANKIT_PLUGINS="")
    assert done.returncode == 2
    assert "did you mean 'stylegan2'" in done.stderr
    done = run_gankit("plugins", "--kind", "generatr", GANKIT_PLUGINS="")
    assert (done.returncode, "did you mean 'generator'" in done.stderr) == (2, True)


FILE = """
from gankit import hookimpl
from gankit.interfaces import AdversarialLoss

class Mine(AdversarialLoss):
    pass

@hookimpl
def gankit_register(register):
    register("loss", "one", __name__ + ":Mine")
    register("loss", "two", "my_plugin:Mine")
"""


@pytest.fixture
def plugin_file(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "files" / "my_plugin.py"
    path.parent.mkdir()
    path.write_text(FILE)
    monkeypatch.setenv("GANKIT_PLUGIN_FILES", str(path))
    monkeypatch.setattr("sys.path", list(sys.path))
    yield path
    sys.modules.pop("my_plugin", None)


def test_a_file(plugin_file: Path, discover: Discover, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANKIT_PLUGINS", "")
    found, warned = discover()
    plugin = found.get("loss", "one")
    assert (plugin.package, plugin.version, warned) == ("my_plugin.py", "file", [])
    assert found.load("loss", "one") is found.load("loss", "two")
    found.register("loss", "gone", "my_plugin:Gone", package="my_plugin.py", version="file")
    with pytest.raises(GankitError, match=r"mend my_plugin\.py, or leave it out of --plugin"):
        found.load("loss", "gone")
    monkeypatch.delenv("GANKIT_PLUGIN_FILES")
    assert "one" not in discover()[0].names("loss")


def test_a_file_goes_before_packages(plugin_file: Path, site: Path, discover: Discover) -> None:
    write_package(site, "a-first", registering("'loss', 'one', 'a_first:X'", "'loss', 'hinge', 'a_first:X'"))
    found, warned = discover()
    assert found.get("loss", "one").package == "my_plugin.py"
    assert found.get("loss", "hinge").package == "gankit"
    assert len(warned) == 2


def test_a_folder(plugin_file: Path, discover: Discover, monkeypatch: pytest.MonkeyPatch) -> None:
    package = plugin_file.with_suffix("")
    package.mkdir()
    (package / "parts.py").write_text(plugin_file.read_text())
    (package / "__init__.py").write_text(registering("'loss', 'three', 'my_plugin.parts:Mine'"))
    plugin_file.unlink()
    monkeypatch.setenv("GANKIT_PLUGIN_FILES", os.pathsep.join([str(package), "", str(package)]))
    found, warned = discover()
    assert (found.load("loss", "three").__name__, warned) == ("Mine", [])


BROKEN_FILES = {
    "missing": (None, "does not exist"),
    "syntax": ("def broken(:", r"cannot be imported \(SyntaxError.*line 1"),
    "raises": ("x = 1\ny = 1 / 0", r"cannot be imported \(ZeroDivisionError, line 2: division by zero"),
    "no hook": ("x = 1", "has no function gankit_register"),
    "hook": (registering("'loss', 'y', 1 / 0"), r"is skipped \(ZeroDivisionError, line 5"),
}


@pytest.mark.parametrize("how", BROKEN_FILES)
def test_a_broken_file_is_an_error(plugin_file: Path, discover: Discover, how: str) -> None:
    text, message = BROKEN_FILES[how]
    plugin_file.unlink() if text is None else plugin_file.write_text(text)
    with pytest.raises(GankitError, match=f"plugin file {plugin_file}.*{message}"):
        discover()


def test_a_bad_registration_of_a_file_is_skipped_alone(plugin_file: Path, discover: Discover) -> None:
    plugin_file.write_text(registering("'loss', 'one', 'm:X'", "'lost', 'two', 'm:X'"))
    found, (warning,) = discover()
    assert found.get("loss", "one").package == "my_plugin.py"
    assert "did you mean 'loss'" in warning


@pytest.mark.parametrize("name", ["json.py", "my-plugin.py"])
def test_a_file_whose_name_cannot_be_imported(
    plugin_file: Path, discover: Discover, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    other = plugin_file.rename(plugin_file.with_name(name))
    monkeypatch.setenv("GANKIT_PLUGIN_FILES", str(other))
    with pytest.raises(GankitError, match=r"rename the file|one that Python can import"):
        discover()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_classes_of_a_file_reach_worker_processes(plugin_file: Path, discover: Discover, method: str) -> None:
    light = FILE.replace("from gankit.interfaces import AdversarialLoss", "")  # spares the import of torch
    plugin_file.write_text(light.replace("(AdversarialLoss):\n    pass", ":\n    number = 7"))
    mine = discover()[0].load("loss", "one")
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(getattr, (mine(), "number")) == 7
