"""The contributed packages that the tests do not install: each passes its own tests, trains and continues."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_packages import run_gankit, run_python, write_package
from repository import ROOT
from runs import tiny_set, write_images

PACKAGES = {
    "gankit-lion": [
        "stylegan2",
        "--set",
        "optimizer_g=lion",
        "--set",
        "optimizer_d={name: lion, weight_decay: 0.1}",
    ]
}


@pytest.mark.parametrize("package", PACKAGES)
def test_it_passes_its_tests_and_trains(package: str, tmp_path: Path) -> None:
    folder, site = ROOT / "plugins_contrib" / package, tmp_path / "site"
    module = package.replace("-", "_")
    files = {
        str(path.relative_to(folder)): path.read_text(encoding="utf-8")
        for path in (folder / module).rglob("*")
        if path.suffix in (".py", ".yaml")
    }
    write_package(site, package, files)
    tested = run_python("-m", "pytest", folder / "tests", "-q", "-p", "no:cacheprovider", path=site)
    assert tested.returncode == 0, tested.stdout
    images = write_images(tmp_path / "images")
    run = tmp_path / "run"
    arguments = ["--data", images, "--out", run, *PACKAGES[package], *tiny_set(train__images=16)]
    for images_trained in ("8", "16"):  # stopped and continued
        trained = run_gankit("train", *arguments, "--images", images_trained, path=site)
        assert trained.returncode == 0, trained.stderr
    assert (run / "checkpoints" / "000000016").is_dir()
