"""The package of the plugin tutorial: quoted verbatim in the docs, conforming, and working when it is installed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_packages import run_gankit, run_python, site_folder, write_package
from PIL import Image
from repository import ROOT

from gankit.core.config.registry import registry
from gankit.hookspecs import KINDS
from gankit.testing import ConformanceSuite, Subject, checks_of

PACKAGE = ROOT / "plugins_contrib" / "gankit-dcgan"


@pytest.fixture
def in_place(tmp_path: Path) -> Iterator[None]:
    """The package as it lies in the repository, with the metadata of an installed one."""
    sources = {
        str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8")
        for path in (PACKAGE / "gankit_dcgan").rglob("*")
        if path.suffix in (".py", ".yaml")
    }
    with site_folder(tmp_path / "site") as folder:
        write_package(folder, "gankit-dcgan", sources)
        yield


def test_docs_quote_the_files_verbatim() -> None:
    text = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    quoted = dict(re.findall(r"^`([\w./-]+)`:\n\n```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    files = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*")
        if path.suffix in (".py", ".toml", ".yaml") and not {"build", "dist"} & set(path.parts)
    }
    assert quoted.keys() == files
    for name in files:
        assert quoted[name] == (PACKAGE / name).read_text(encoding="utf-8"), (
            f"docs/plugins.md differs from {name}"
        )


def test_docs_list_every_kind() -> None:
    text = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip(" `") for cell in line.split("|")[1:4]]
        for line in text.splitlines()
        if line.startswith("| `")
    ]
    classes = {kind: base for kind, (base, _, _) in KINDS.items() if not base.startswith("'")}
    expected = [
        [kind, classes.get(kind, ""), gets if kind in classes else ""] for kind, (_, _, gets) in KINDS.items()
    ]
    assert rows == expected


@pytest.mark.usefixtures("in_place")
def test_conforms() -> None:
    done = 0
    for plugin in [p for p in registry().plugins.values() if p.package == "gankit-dcgan"]:
        target = registry().load(plugin.kind, plugin.name) if plugin.kind != "recipe" else None
        for check in checks_of(plugin.kind):
            options = getattr(target, "conformance", {})
            check(Subject(plugin.kind, plugin.name, options, ConformanceSuite.shapes))
            done += 1
    assert done >= 11


def test_installed_package(tmp_path: Path) -> None:
    """Built as a wheel, installed beside gankit, listed, conforming, trained for two steps and sampled."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    wheels, site = tmp_path / "wheels", tmp_path / "site"
    options = ["--no-deps", "--no-build-isolation", "--no-index", "-w", str(wheels)]
    subprocess.run([*pip, "wheel", *options, str(PACKAGE)], check=True, timeout=300)
    (wheel,) = wheels.glob("gankit_dcgan-*.whl")
    subprocess.run(
        [*pip, "install", "--no-deps", "--no-index", "--target", str(site), str(wheel)], check=True
    )
    assert (site / "gankit_dcgan" / "recipes" / "dcgan.yaml").is_file()

    listed = run_gankit("plugins", path=site)
    assert ["dcgan", "generator", "gankit-dcgan", "0.1.0"] in [
        line.split() for line in listed.stdout.splitlines()
    ]
    shown = run_gankit("plugins", "show", "generator/dcgan", path=site)
    assert "z_dim  (int, default 128)\n      width of the latent." in shown.stdout
    wrong = run_gankit("train", "dcgan", "--set", "generator.chanels=8", "--dry-run", path=site)
    assert (wrong.returncode, "did you mean 'channels'" in wrong.stderr) == (2, True)

    tested = run_python("-m", "pytest", PACKAGE / "tests", "-q", "-p", "no:cacheprovider", path=site)
    assert tested.returncode == 0, tested.stdout
    assert re.search(r"^\.{10,}", tested.stdout)

    rng = np.random.RandomState(0)
    for i in range(8):
        folder = tmp_path / "photos"
        folder.mkdir(exist_ok=True)
        Image.fromarray(rng.randint(0, 256, (16, 16, 3), np.uint8)).save(folder / f"{i}.png")
    small = ["generator.channels=8", "discriminator.channel_base=128", "train.batch=4", "train.workers=0"]
    arguments = ["--size", "16", "--images", "8", *(part for item in small for part in ("--set", item))]
    run = tmp_path / "run"
    trained = run_gankit("train", "dcgan", "--data", tmp_path / "photos", "--out", run, *arguments, path=site)
    assert trained.returncode == 0, trained.stderr
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["000000008"]
    sampled = run_gankit("sample", run, "--seeds", "0-1", "--out", tmp_path / "drawn", path=site)
    assert sampled.returncode == 0, sampled.stderr
    assert Image.open(tmp_path / "drawn" / "seed0001.png").size == (16, 16)
    gone = run_gankit("sample", run, "--out", tmp_path / "drawn", GANKIT_PLUGINS="")
    assert gone.returncode == 2
    claim = (
        "unknown generator 'dcgan'; the recipe says that it is of package gankit-dcgan 0.1.0: install that if"
    )
    assert claim in gone.stderr
