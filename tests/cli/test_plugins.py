"""`gankit plugins`: broken packages are told, options are shown."""

from __future__ import annotations

from pathlib import Path

from fake_packages import registering, run_gankit, write_package


def test_command_line_tells_what_is_broken(tmp_path: Path) -> None:
    write_package(tmp_path, "broken-one", "import no_such_module_xyz")
    write_package(tmp_path, "sound-one", registering("'loss', 'sound', 'sound_one:Loss'"), version="0.3")
    done = run_gankit("plugins", path=tmp_path)
    assert done.returncode == 0
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("gankit: warning: entry point 'main' of package 'broken-one' is skipped")
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["sound", "loss", "sound-one", "0.3"] in rows
    assert ["stylegan2", "generator", "gankit"] in [row[:3] for row in rows]
    assert "Traceback (most recent call last)" in done.stdout
    assert "No module named 'no_such_module_xyz'" in done.stdout
    assert run_gankit("plugins", "list", path=tmp_path).stdout == done.stdout
    done = run_gankit("plugins", "--strict-plugins", path=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "broken-one" in done.stderr
    assert run_gankit("--strict-plugins", "plugins", path=tmp_path).returncode == 2
    done = run_gankit("plugins", "--strict-plugins", path=tmp_path, GANKIT_PLUGINS="sound-one")
    assert (done.returncode, done.stderr) == (0, "")


def test_show_prints_options() -> None:
    done = run_gankit("plugins", "show", "regularizer/r1", GANKIT_PLUGINS="")
    assert done.returncode == 0, done.stderr
    assert "r1: regularizer of gankit" in done.stdout
    assert "gamma  (float, default 1.0)" in done.stdout
    assert "weight, > 0" in done.stdout
