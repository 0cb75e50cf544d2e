"""The contributed packages that the tests do not install: each passes its own tests, trains and continues."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_packages import run_gankit, run_python, write_package
from repository import ROOT

LION = ("optimizer_g=lion", "optimizer_d={name: lion, weight_decay: 0.1}")
PACKAGES = {
    "gankit-boxes": ["boxes", "--tiny"],
    "gankit-lion": ["stylegan2", "--tiny", *(part for item in LION for part in ("--set", item))],
}


@pytest.mark.parametrize("package", PACKAGES)
def test_it_passes_its_tests_trains_and_continues(package: str, tmp_path: Path) -> None:
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
    for images in ("8", "16"):
        arguments = ["--data", "avatars:"] if package == "gankit-lion" else []
        arguments += ["--out", tmp_path / "run", "--images", images, "--batch", "4"]
        trained = run_gankit("train", *PACKAGES[package], *arguments, path=site)
        assert trained.returncode == 0, trained.stderr
    assert (tmp_path / "run" / "checkpoints" / "000000016").is_dir()
