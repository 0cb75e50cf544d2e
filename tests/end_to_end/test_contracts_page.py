"""The page on what plugins are given: its examples run, its tables are complete, its plugins conform and train."""

from __future__ import annotations

import dataclasses
import os
import pickle
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_packages import site_folder
from repository import ROOT
from runs import tensors_of, write_images

from gankit.core.config import options
from gankit.errors import GankitError
from gankit.interfaces import Condition, Label, StepContext
from gankit.testing import Subject, checks_of

PAGE = (ROOT / "docs" / "contracts.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`([\w.]+)`:\n\n```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(r"^\$ gankit ((?:.*\\\n)*.*)$", PAGE, re.MULTILINE)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The page's plugins, loaded without being installed, and images as the page's commands want them."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    write_images(tmp_path / "photos", classes=("cat", "fox"))
    with site_folder(tmp_path / "site"):
        monkeypatch.setenv("GANKIT_PLUGIN_FILES", os.pathsep.join(str(tmp_path / name) for name in FILES))
        monkeypatch.chdir(tmp_path)
        yield tmp_path
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)


def test_examples_run() -> None:
    examples = [code for code in re.findall(r"```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)]
    namespace: dict[str, object] = {}
    for code in examples:
        if code not in FILES.values():
            exec(code, namespace)
    assert {"label", "vocabulary", "cond", "noise"} <= namespace.keys()
    assert FILES.keys() == {"some_classes.py", "lecam.py"}


@pytest.mark.parametrize("contract", [Label, Condition, StepContext])
def test_tables_list_every_field(contract: type) -> None:
    rows = re.findall(r"^\| (`.*?`) \|", PAGE, re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert {field.name for field in dataclasses.fields(contract)} <= listed


@pytest.mark.parametrize(("kind", "name"), [("source", "some-classes"), ("regularizer", "lecam")])
def test_plugins_conform(files: Path, kind: str, name: str) -> None:
    for check in checks_of(kind):
        check(Subject(kind, name, {}, source_path=lambda name, folder: str(files / "photos")))


def test_the_source_chooses_and_renames(files: Path) -> None:
    source = options.build(
        "source", {"name": "some-classes", "classes": {"cat": "feline"}}, str(files / "photos")
    )
    assert source.vocabulary().classes == {"feline": 12}
    assert source.label(0).tags is not None
    assert pickle.loads(pickle.dumps(source)).name(0) == source.name(0)  # as worker processes get it
    with pytest.raises(GankitError, match="unknown class 'cet'; did you mean 'cat'"):
        options.build("source", {"name": "some-classes", "classes": {"cet": "x"}}, str(files / "photos"))


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run(files: Path, gankit_cli: Callable[..., object], command: str) -> None:
    arguments = shlex.split(command.replace("\\\n", " "))
    done = gankit_cli(*arguments, "--out", "run", "--images", 8)
    assert done.code == 0, done.err
    (checkpoint,) = (files / "run" / "checkpoints").iterdir()
    if "lecam" in command:
        (mean,) = (tensor for name, tensor in tensors_of(checkpoint).items() if name.endswith("real_mean"))
        assert mean != 0
    else:
        assert '"canine"' in (checkpoint / "conditioner.json").read_text()
