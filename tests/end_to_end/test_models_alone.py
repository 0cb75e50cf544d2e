"""A model draws with the packages of its generator and conditioner, without those that trained it."""

from __future__ import annotations

import importlib
import json
import shutil
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from every_kind import RECIPE, TARGETS, THINGS
from fake_packages import registering, site_folder, write_package
from runs import Result

import gankit
from gankit.cli.model_facts import facts
from gankit.core.config.registry import registry

Cli = Callable[..., Result]
DRAWING = ("generator", "conditioner")
TRAINING = [
    kind for kind in TARGETS if kind not in (*DRAWING, "recipe", "model", "command", "op-backend", "engine")
]
WISH = {"cls": "red", "seeds": [3, 4], "psi": 0.7}


def write_packages(site: Path) -> None:
    for package, kinds in (("kinds-draw", DRAWING), ("kinds-train", TRAINING)):
        module = package.replace("-", "_")
        lines = [f"{k!r}, 'kind-{k}', {TARGETS[k].replace('kinds.', f'{module}.')!r}" for k in kinds]
        files = {f"{module}/__init__.py": registering(*lines), f"{module}/things.py": THINGS}
        write_package(site, package, files, module=module, version="3.1")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path, np.ndarray]]:
    """A folder with both packages, a run that all their plugins trained, and its pictures."""
    root = tmp_path_factory.mktemp("whole")
    with site_folder(root / "site") as site:
        write_packages(site)
        evaluation = {
            "every": 16,
            "num": 4,
            "feature": "kind-feature",
            "metrics": {"kind-metric": {}},
            "side": 8,
        }
        page = {**yaml.safe_load(textwrap.dedent(RECIPE)), "evaluation": evaluation}
        (root / "recipe.yaml").write_text(yaml.safe_dump(page))
        gankit.train(str(root / "recipe.yaml"), root / "run", device="cpu", quiet=True)
        drawn = np.stack(gankit.load(root / "run", device="cpu")(**WISH))
    return site, root / "run", drawn


@pytest.fixture
def site(whole: tuple[Path, Path, np.ndarray], tmp_path: Path) -> Iterator[Path]:
    """A copy of the packages, which a test may change; `anew` makes gankit see that."""
    with site_folder(tmp_path / "site") as folder:
        shutil.copytree(whole[0], folder, dirs_exist_ok=True)
        yield folder


def anew() -> None:
    importlib.invalidate_caches()
    registry.cache_clear()


def uninstall(site: Path, package: str) -> None:
    module = package.replace("-", "_")
    for path in site.glob(f"{module}*"):
        shutil.rmtree(path)
    anew()


def lack(how: str, package: str, site: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Take a package's plugins away; returns what gankit says about it."""
    info = site / f"{package.replace('-', '_')}-3.1.dist-info"
    if how == "uninstalled":
        uninstall(site, package)
        return "install that if you trust its source"
    if how == "hidden":
        others = {"kinds-draw", "kinds-train"} - {package}
        monkeypatch.setenv("GANKIT_PLUGINS", ",".join(others))
        anew()
        return "which GANKIT_PLUGINS hides: add it to that list"
    if how == "broken":
        (site / package.replace("-", "_") / "__init__.py").write_text("import no_such_module_xyz")
        anew()
        return "which is installed, but its plugins are not: see `gankit plugins`"
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 4.0\n")
    (site / package.replace("-", "_") / "__init__.py").write_text(registering("'loss', 'new', 'm:Loss'"))
    anew()
    return "4.0 is installed, which lacks it"


HOW = ["uninstalled", "hidden", "broken", "other version"]


@pytest.mark.filterwarnings("ignore:plugin package 'kinds-train' is skipped")
@pytest.mark.parametrize("how", HOW)
def test_the_same_pictures_without_what_trained_it(
    how: str,
    whole: tuple[Path, Path, np.ndarray],
    site: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gankit_cli: Cli,
) -> None:
    _, run, drawn = whole
    lack(how, "kinds-train", site, monkeypatch)
    assert not {("loss", "kind-loss"), ("source", "kind-source")} & registry().plugins.keys()
    assert np.array_equal(np.stack(gankit.load(run, device="cpu")(**WISH)), drawn)
    if how != "uninstalled":
        return
    for name, command in {
        "exported": ("export", run, tmp_path / "exported"),
        "averaged": ("average", run, run, "--out", tmp_path / "averaged"),
    }.items():
        done = gankit_cli(*command)
        assert done.code == 0, done.err
        assert np.array_equal(np.stack(gankit.load(tmp_path / name, device="cpu")(**WISH)), drawn)
    (checkpoint,) = run.glob("checkpoints/*32")
    page = (checkpoint / "recipe.yaml").read_text()
    assert (tmp_path / "exported" / "recipe.yaml").read_text() == page
    assert "loss kind-loss: kinds-train 3.1\n" in page
    assert "pip install gankit kinds-draw\n" in (tmp_path / "exported" / "README.md").read_text()
    done = gankit_cli("sample", run, "--class", "red", "--out", tmp_path / "drawn")
    assert done.code == 0, done.err


@pytest.mark.filterwarnings("ignore:plugin package 'kinds")
@pytest.mark.parametrize("how", HOW)
def test_who_needs_a_missing_package_is_told(
    how: str,
    whole: tuple[Path, Path, np.ndarray],
    site: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gankit_cli: Cli,
) -> None:
    _, run, _ = whole
    advice = lack(how, "kinds-train", site, monkeypatch)
    shutil.copytree(run, tmp_path / "run")
    done = gankit_cli("train", "--resume", tmp_path / "run", "--images", 40)
    assert done.code == 2
    assert "'kind-discriminator'; the recipe says that it is of package kinds-train 3.1" in done.message
    assert advice in done.message
    done = gankit_cli("evaluate", run, "--metrics", "fd", "--out", tmp_path / "page.json")
    assert done.code == 2
    assert "source 'kind-source'; the recipe says that it is of package kinds-train 3.1" in done.message
    assert advice in done.message


@pytest.mark.parametrize("how", ["uninstalled", "hidden"])
def test_a_missing_generator_is_told(
    how: str, whole: tuple[Path, Path, np.ndarray], site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advice = lack(how, "kinds-draw", site, monkeypatch)
    with pytest.raises(gankit.GankitError, match=f"says that it is of package kinds-draw 3.1.*{advice}"):
        gankit.load(whole[1], device="cpu")
    page = facts(str(whole[1]))
    assert page["takes"] == {"prompt": False, "classes": ["blue", "red"], "tags": [], "fields": {}}
    assert page["latents"] == {"z_dim": 8, "w_dim": 8, "num_ws": 1}
    assert page["problem"] is None
    draws = {name: entry["draws"] for name, entry in page["packages"].items()}
    assert draws == {"kinds-draw": True, "kinds-train": False}
    entry = page["packages"]["kinds-draw"]
    assert entry["plugins"] == ["conditioner kind-conditioner", "generator kind-generator"]
    assert entry["version"] == "3.1"
    assert entry["installed"] == ("3.1" if how == "hidden" else None)


def test_training_starts_from_it(
    whole: tuple[Path, Path, np.ndarray], site: Path, images: Path, tmp_path: Path, gankit_cli: Cli
) -> None:
    uninstall(site, "kinds-train")
    wish = ("--set", "generator=kind-generator", "--set", "conditioner=kind-conditioner", "--images", 8)
    done = gankit_cli(
        *("train", "stylegan2-class", "--data", images, "--out", tmp_path / "new", "--init", whole[1]),
        *(
            "--size",
            8,
            "--batch",
            8,
            "--set",
            "regularizers={}",
            "--set",
            "trackers={}",
            "--set",
            "augmentation=null",
            *wish,
        ),
    )
    assert done.code == 0, done.err
    assert "generator from" in done.out
    assert "cannot be matched" not in done.out


def test_unknown_keys_are_carried(whole: tuple[Path, Path, np.ndarray], site: Path, tmp_path: Path) -> None:
    """As a later version, or a package, may write them."""
    (checkpoint,) = whole[1].glob("checkpoints/*32")
    shutil.copytree(checkpoint, tmp_path / "model")
    page = yaml.safe_load((tmp_path / "model" / "recipe.yaml").read_text())
    page["train"]["lr_w"] = page["data"]["depth"] = 1
    page |= {"optimizers": ["lion"], "stages": 7, "schedules": "later"}
    (tmp_path / "model" / "recipe.yaml").write_text(yaml.safe_dump(page, sort_keys=False))
    assert np.array_equal(np.stack(gankit.load(tmp_path / "model", device="cpu")(**WISH)), whole[2])
    gankit.export(str(tmp_path / "model"), tmp_path / "exported")
    assert yaml.safe_load((tmp_path / "exported" / "recipe.yaml").read_text()) == page
    page["generator"]["depth"] = 1  # may change what is drawn
    (tmp_path / "model" / "recipe.yaml").write_text(yaml.safe_dump(page))
    with pytest.raises(gankit.GankitError, match="unknown option of generator 'kind-generator': 'depth'"):
        gankit.load(tmp_path / "model", device="cpu")


def test_another_version_continues_a_run(
    whole: tuple[Path, Path, np.ndarray], site: Path, tmp_path: Path, gankit_cli: Cli
) -> None:
    shutil.copytree(whole[1], tmp_path / "run")
    info = site / "kinds_train-3.1.dist-info" / "METADATA"
    info.write_text(info.read_text().replace("3.1", "3.2"))
    anew()
    done = gankit_cli("train", "--resume", tmp_path / "run", "--images", 40)
    assert done.code == 0, done.err
    versions = {
        json.dumps(facts(str(path))["packages"]["kinds-train"]["version"])
        for path in (tmp_path / "run" / "checkpoints").iterdir()
    }
    assert versions == {'"3.1"', '"3.2"'}
