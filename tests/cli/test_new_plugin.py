"""`gankit plugins new`: what it writes for each kind of plugin is complete, keeps its contract, and trains."""

from __future__ import annotations

import importlib.util
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from fake_packages import run_gankit, run_python, site_folder
from repository import ROOT
from safetensors.torch import save_file

import gankit
from gankit.cli.new_plugin import TEMPLATES, new
from gankit.core.config.registry import Plugin, registry
from gankit.core.models.pretrained import find_state_dict
from gankit.errors import GankitError
from gankit.hookspecs import KINDS
from gankit.testing import CompositionSuite, Subject, checks_of

RUFF = [sys.executable, "-m", "ruff"]


def written(kind: str, folder: Path, model: Path) -> Path:
    return new(f"gankit-new-{kind}", kind, folder / kind, model=str(model) if kind == "model" else None)


@pytest.fixture(scope="module")
def model(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("model") / "run"
    gankit.train("stylegan2", run, data=str(images), tiny=True, overrides={"train.images": 8}, quiet=True)
    return run


@pytest.fixture(scope="module")
def packages(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """A package of each kind, loaded without being installed."""
    folder = tmp_path_factory.mktemp("packages")
    found = {kind: written(kind, folder, model) for kind in TEMPLATES}
    modules = [path / f"gankit_new_{kind.replace('-', '_')}" for kind, path in found.items()]
    before, path = set(sys.modules), list(sys.path)
    with site_folder(folder / "site"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("GANKIT_PLUGIN_FILES", os.pathsep.join(map(str, modules)))
        yield found
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if name.startswith("gankit_new_"):
            del sys.modules[name]


def plugins_of(kind: str) -> list[Plugin]:
    package = f"gankit_new_{kind.replace('-', '_')}"
    return [plugin for plugin in registry().plugins.values() if plugin.package == package]


def test_every_kind_has_a_template() -> None:
    assert TEMPLATES.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_it_keeps_its_contract(packages: dict[str, Path], kind: str) -> None:
    plugins = plugins_of(kind)
    assert (kind, f"new-{kind}") in [(plugin.kind, plugin.name) for plugin in plugins]
    done = 0
    for plugin in plugins:
        classes = not KINDS[plugin.kind][0].startswith("'")
        options = getattr(registry().load(plugin.kind, plugin.name), "conformance", {}) if classes else {}
        for check in checks_of(plugin.kind):
            check(Subject(plugin.kind, plugin.name, options, ((3, 32, 16),)))
            done += 1
    assert done


@pytest.mark.parametrize("kind", KINDS)
def test_its_tests_combine_what_can_be_combined(packages: dict[str, Path], kind: str) -> None:
    (tests,) = (packages[kind] / "tests").iterdir()
    assert ("gankit.testing.CompositionSuite" in tests.read_text()) == (kind in CompositionSuite.kinds)


@pytest.mark.parametrize(
    "kind", [kind for kind, template in TEMPLATES.items() if template.sections is not None]
)
def test_it_trains(packages: dict[str, Path], images: Path, tmp_path: Path, kind: str) -> None:
    data = None if kind == "source" else str(images)
    gankit.train(
        f"new-{kind}", tmp_path / "run", data=data, tiny=True, overrides={"train.images": 8}, quiet=True
    )
    rows = (tmp_path / "run" / "log.jsonl").read_text()
    assert "NaN" not in rows
    if kind == "tracker":
        assert "loss/G" in (tmp_path / "run" / "numbers.csv").read_text()
    assert gankit.load(tmp_path / "run", device="cpu")(seeds=[0])[0].size == (16, 16)


@pytest.mark.parametrize("kind", KINDS)
def test_no_word_of_the_templates_is_left(packages: dict[str, Path], kind: str) -> None:
    for path in packages[kind].rglob("*"):
        if path.suffix in (".py", ".toml", ".md", ".yaml") and path.parent.name != "model":
            text = f"{path.relative_to(packages[kind])}\n{path.read_text()}"
            assert not re.search(r"my[-_](package|plugin)|MyPlugin|\bMY [A-Z]+\b", text), text
            assert all(len(line) <= 120 for line in text.splitlines()), path


@pytest.mark.skipif(importlib.util.find_spec("ruff") is None, reason="ruff is not installed")
def test_code_is_tidy(packages: dict[str, Path]) -> None:
    folders = [str(path) for path in packages.values()]
    settings = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    for command in (["check"], ["format", "--check", "--diff"]):
        done = subprocess.run([*RUFF, *command, *settings, *folders], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


class TwoLayers(torch.nn.Module):
    """What the importer of the templates knows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = torch.nn.Linear(5, 6), torch.nn.Linear(6, 3 * 8 * 8)


def test_importer_imports(
    packages: dict[str, Path], tmp_path: Path, gankit_cli: Callable[..., object]
) -> None:
    net = TwoLayers()
    (tmp_path / "net.pkl").write_bytes(pickle.dumps({"G_ema": net}))
    done = gankit_cli("convert", tmp_path / "net.pkl", tmp_path / "model")
    assert done.code == 0, done.err
    z = torch.randn(2, 5)
    drawn = gankit.load(tmp_path / "model", device="cpu").generator(z)
    assert torch.equal(drawn, torch.tanh(net.last(torch.relu(net.first(z)))).unflatten(1, (3, 8, 8)))


def test_weights_are_found(packages: dict[str, Path]) -> None:
    place = packages["weights"] / "gankit_new_weights" / "weights" / "owner" / "name" / "model.safetensors"
    place.parent.mkdir(parents=True)
    save_file({"a": torch.ones(2)}, place)
    assert find_state_dict("owner/name")["a"].tolist() == [1, 1]


def test_command_runs(packages: dict[str, Path], images: Path, gankit_cli: Callable[..., object]) -> None:
    done = gankit_cli("new-command", images)
    assert (done.code, done.out) == (0, "24 of 16x16\n")
    assert gankit_cli("new-command", images, "--top", 0).code == 2


NAMES = {
    "my plugin": "cannot be the name of a package",
    "../x": "cannot be the name of a package",
    "3d": "cannot be the name of a package",
    "gankit-3d": "3dLoss cannot be the name of its class",
    "adversarial": "AdversarialLoss cannot be the name of its class",
    "": "cannot be the name of a package",
    "x-": "cannot be the name of a package",
    "torch": "there is a Python module 'torch' already",
    "json": "there is a Python module 'json' already; choose another name, such as gankit-json",
    "class": "there is a Python module 'class' already",
    "gankit-hinge": "package 'gankit' has a loss 'hinge' already",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_that_cannot_be_taken(tmp_path: Path, name: str) -> None:
    with pytest.raises(GankitError, match=re.escape(NAMES[name])):
        new(name, "loss", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_names_that_look_like_words_of_the_templates(tmp_path: Path) -> None:
    for name in ("my-plugin-x", "my-package", "MY.Plugin"):
        folder = new(name, "loss", tmp_path / name)
        module = name.lower().replace("-", "_").replace(".", "_")
        plugin = name.lower().replace(".", "-")
        assert f'"{plugin}", "{module}.loss:' in (folder / module / "__init__.py").read_text()


def test_mistakes(tmp_path: Path, gankit_cli: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        "did you mean 'generator'?" in gankit_cli("plugins", "new", "gankit-x", "--kind", "generatr").message
    )
    assert "name the run or model" in gankit_cli("plugins", "new", "gankit-x", "--kind", "model").message
    wish = ("plugins", "new", "gankit-x", "--kind", "loss")
    assert "leave --model away" in gankit_cli(*wish, "--model", "y").message
    assert not list(tmp_path.iterdir())
    assert gankit_cli("plugins", "new", "gankit-x", "--kind", "model", "--model", "nowhere").code == 2
    assert not list(tmp_path.iterdir())
    (tmp_path / "gankit-x").mkdir()
    assert "gankit-x exists already" in gankit_cli(*wish).message
    done = gankit_cli(*wish, "--out", "there")
    assert (done.code, done.out) == (0, "wrote there; install it with: pip install -e there\n")
    alone = gankit_cli("plugins", "new")
    assert (alone.code, "Name of the package" in alone.out) == (0, True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["generator", "source", "recipe", "tracker"])
def test_it_installs(model: Path, images: Path, tmp_path: Path, kind: str) -> None:
    """As its README says: installed with all of its files, tested by pytest, trained from the command line."""
    folder, site = written(kind, tmp_path, model), tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "install", "--no-index"]
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "--target", site, folder], check=True)
    checked = run_gankit("plugins", "check", f"gankit-new-{kind}", path=site)
    assert (checked.returncode, checked.stdout.splitlines()[-1]) == (0, "nothing is wrong")
    tested = run_python("-m", "pytest", folder / "tests", "-q", "-p", "no:cacheprovider", path=site)
    assert tested.returncode == 0, tested.stdout
    arguments = [] if kind == "source" else ["--data", images]
    trained = run_gankit("train", f"new-{kind}", *arguments, "--tiny", "--out", tmp_path / "run", path=site)
    assert trained.returncode == 0, trained.stderr
