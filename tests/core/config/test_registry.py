"""Finding plugins: guarded, selectable, one name once, and told apart when something is wrong."""

from __future__ import annotations

import importlib
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_packages import registering, run_gankit, site_folder, write_package

from gankit.core.config.registry import Registry, registry
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
    "hook": (registering("'generator', 'x', 'm:X'", "'loss', 'y', 1 / 0"), "ZeroDivisionError", "1 / 0"),
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
    "kind": (registering("'generatr', 'x', 'm:X'"), "did you mean 'generator'", "generatr"),
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
    with pytest.raises(GankitError, match=r"unknown generator 'x'.*1 plugin package\(s\) failed to load"):
        found.get("generator", "x")


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
    found.recorded["generator", "mine"] = "my-gan 2.0"  # as a recipe spells it
    with pytest.raises(
        GankitError, match=r"is of package my-gan 2.0, by the recipe; .*GANKIT_PLUGINS hides it"
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
