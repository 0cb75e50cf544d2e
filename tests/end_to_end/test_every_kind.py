"""A package outside of gankit can add a plugin of every kind, and each of them is found and used."""

from __future__ import annotations

import json
import pickle
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from every_kind import COMMAND, RECIPE, TARGETS, THINGS
from fake_packages import registering, site_folder, write_package

import gankit
from gankit.core.config.registry import registry
from gankit.core.models.pretrained import find_state_dict
from gankit.hookspecs import KINDS
from gankit.sampling.export_model import export_model
from gankit.testing import Subject, checks_of


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    lines = [f"{kind!r}, 'kind-{kind}', {target!r}" for kind, target in TARGETS.items()]
    files = {
        "kinds/__init__.py": registering(*lines),
        "kinds/things.py": THINGS,
        "kinds/commands.py": COMMAND,
        "kinds/pages/recipe.yaml": textwrap.dedent(RECIPE),
    }
    with site_folder(tmp_path_factory.mktemp("site") / "packages") as folder:
        write_package(folder, "all-kinds", files, module="kinds", version="3.1")
        yield folder


@pytest.fixture(scope="module")
def run(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of the package's recipe, which uses everything that training can use."""
    out = tmp_path_factory.mktemp("runs") / "run"
    gankit.train("kind-recipe", out, device="cpu", quiet=True)
    export_model(str(out), package / "kinds" / "model", "fp32")
    return out


def test_every_kind_is_covered() -> None:
    assert TARGETS.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_found(package: Path, kind: str) -> None:
    plugin = registry().get(kind, f"kind-{kind}")
    assert (plugin.package, plugin.version, plugin.target) == ("all-kinds", "3.1", TARGETS[kind])
    assert f"kind-{kind}" in registry().names(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_keeps_its_contract(run: Path, kind: str) -> None:
    for check in checks_of(kind):
        check(Subject(kind, f"kind-{kind}", {}))


def test_used_by_training(run: Path) -> None:
    events = (run / "events.txt").read_text().splitlines()
    assert "images 32 000000032.png" in events
    assert events[-1] == "close"
    ticks = [line.split() for line in events if line.startswith("tick")]
    assert [line[1] for line in ticks] == ["8", "16", "24", "32"]
    assert {"loss/D", "loss/G", "loss/kind-regularizer", "guidance/kind-guidance"} <= set(ticks[0])
    (checkpoint,) = (run / "checkpoints").iterdir()
    state = json.loads((checkpoint / "training" / "state.json").read_text())
    assert "kinds/stem" in json.dumps(state["frozen"])
    augmentation = gankit.core.runtime.tensor_files.load_tensors(
        checkpoint / "training" / "augmentation.safetensors"
    )[0]
    assert augmentation["updates"] == 2  # 8 steps, adapted every 4
    discriminator = gankit.core.runtime.tensor_files.load_tensors(
        checkpoint / "training" / "discriminator.safetensors"
    )[0]
    assert discriminator.keys() == {"out.weight", "out.bias", "embed.weight", "embed.bias"}


def test_model_is_loaded_by_name(run: Path) -> None:
    pipe = gankit.load("kind-model", device="cpu")
    red, blue = (pipe(cls=cls, seeds=[3])[0] for cls in ("red", "blue"))
    assert red.size == (8, 8)
    assert red.tobytes() != blue.tobytes()
    with pytest.raises(gankit.GankitError, match="unknown class 'green'"):
        pipe(cls="green")


def test_used_by_evaluation(
    run: Path, tmp_path: Path, gankit_cli: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GANKIT_CACHE", str(tmp_path))
    wish = ("--metrics", "kind-metric", "--feature", "kind-feature", "--side", 8, "--num", 6)
    done = gankit_cli("evaluate", run, *wish, "--set", "kind-metric.scale=2", "--out", tmp_path / "page.json")
    assert done.code == 0, done.err
    page = json.loads((tmp_path / "page.json").read_text())
    assert page["metrics"]["kind-metric"]["values"]["distance"] > 0
    assert page["metrics"]["kind-metric"]["options"] == {"scale": 2.0}
    assert page["feature"]["name"] == "kinds/stem"


def test_used_by_sampling(run: Path, tmp_path: Path, gankit_cli: Callable[..., object]) -> None:
    engine = registry().load("engine", "kind-engine")
    before = engine.drawn
    done = gankit_cli("sample", run, "--seeds", "0-4", "--engine", "kind-engine", "--out", tmp_path / "drawn")
    assert done.code == 0, done.err
    assert engine.drawn == before + 5
    wish = ("--format", "kind-exporter", "--set", "note=hello")
    done = gankit_cli("export", run, tmp_path / "file", *wish)
    assert (done.code, done.err) == (0, "")
    assert (tmp_path / "file.kind").read_text() == "hello"
    page = json.loads((tmp_path / "file.kind.json").read_text())
    assert page["inputs"].keys() == {"z", "psi", "c"}


def test_weights_are_found(package: Path) -> None:
    assert torch.equal(find_state_dict("kinds/stem")["stem.bias"], torch.zeros(4))


def test_command_runs(package: Path, gankit_cli: Callable[..., object]) -> None:
    done = gankit_cli("kind-command", "you", "--times", 2)
    assert (done.code, done.out) == (0, "hello you\nhello you\n")
    assert "kind-command" in gankit_cli("--help").out
    assert "--times" in gankit_cli("kind-command", "--help").out


def test_source_is_named_on_the_command_line(package: Path, gankit_cli: Callable[..., object]) -> None:
    done = gankit_cli("train", "kind-recipe", "--data", "kind-sourc:", "--out", package / "nowhere")
    assert done.code == 2
    assert "did you mean 'kind-source'" in done.err


class LinearNet(torch.nn.Module):
    """What the package's importer knows."""

    def __init__(self) -> None:
        super().__init__()
        self.side = 8
        self.layer = torch.nn.Linear(5, 3 * 8 * 8)


def test_importer_converts(package: Path, tmp_path: Path, gankit_cli: Callable[..., object]) -> None:
    net = LinearNet()
    (tmp_path / "net.pkl").write_bytes(pickle.dumps({"G_ema": net}))
    done = gankit_cli("convert", tmp_path / "net.pkl", tmp_path / "model")
    assert done.code == 0, done.err
    pipe = gankit.load(tmp_path / "model", device="cpu")
    z = torch.randn(2, 5)
    assert torch.equal(pipe.generator(z), torch.tanh(net.layer(z)).unflatten(1, (3, 8, 8)))
