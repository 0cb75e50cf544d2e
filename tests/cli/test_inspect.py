"""`gankit inspect`: what is in a file, without torch; damaged files."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from golden_utils import GOLDEN
from pickle_utils import PICKLES, snapshot_pair
from runs import Result, train
from safetensors.torch import load_file, save_file

import gankit
from gankit import __version__
from gankit.cli.inspect import inspect, read_header
from gankit.cli.model_facts import facts
from gankit.core.interfaces.labels import Label
from gankit.errors import GankitError

Cli = Callable[..., Result]


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    train(out, images, "stylegan2-class", trackers={})
    return out


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return snapshot_pair(tmp_path_factory.mktemp("pair"))


def test_inspect_needs_no_torch(run: Path, pair: tuple[Path, Path], tmp_path: Path) -> None:
    torch.save({"g_ema": {"w.weight": torch.zeros(3, 4)}}, tmp_path / "file.pt")
    paths = {
        run: ["run with 1 checkpoints", "recipe: stylegan2-class", "classes (2): round, square", "training/opt"],
        pair[1]: ["model", "generator: stylegan2(z_dim=16", "images: 32x32 (height x width), 3 channels"],
        pair[1] / "generator.safetensors": ["written by gankit", "synthesis.b8"],
        PICKLES / "sg2_cond.pkl": ["G_ema: class 'Generator'", "  c_dim = 5", "54 tensors"],
        PICKLES / "sgt.pkl": ["D: class 'ProjectedDiscriminator'"],
        PICKLES / "evil_eval_nested.pkl": ["HOSTILE", "builtins.eval", "G_ema: class 'Generator'"],
        PICKLES / "evil_os_system.pkl": ["HOSTILE", "G_ema: not readable: G_ema is not a network but <call of <posix"],
        tmp_path / "file.pt": ["torch file (zip)", "G_ema: a state dict", "1 tensors, 12 numbers (float32)"],
    }  # fmt: skip
    program = (
        "import sys; from gankit import cli\n"
        "for path in sys.argv[1:]:\n"
        "    sys.argv = ['gankit', 'inspect', path]\n"
        "    try: cli.main()\n"
        "    except SystemExit as exit: assert not exit.code, path\n"
        "    print('=====')\n"
        "print({'torch', 'numpy', 'safetensors'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program, *map(str, paths)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *pages, modules = done.stdout.split("=====\n")
    assert modules == "set()\n"
    for page, (path, fragments) in zip(pages, paths.items(), strict=True):
        assert page.startswith(str(path))
        for fragment in fragments:
            assert fragment in page, page


def json_of(*arguments: object) -> tuple[dict[str, Any], str]:
    """What `gankit inspect ARGS --json` prints in a process of its own, and which heavy modules that took."""
    program = (
        "import sys; from gankit import cli\n"
        "try: cli.main()\n"
        "except SystemExit as exit: assert not exit.code\n"
        "print(*sorted({'torch', 'numpy', 'safetensors'} & set(sys.modules)), file=sys.stderr)"
    )
    command = [sys.executable, "-c", program, "inspect", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout, parse_constant=pytest.fail), done.stderr.strip()


def test_json_tells_what_a_model_takes(run: Path) -> None:
    page, heavy = json_of(run)
    assert heavy == ""
    (checkpoint,) = run.glob("checkpoints/*")
    assert (page["kind"], page["path"], page["model"]) == ("run", str(run), str(checkpoint))
    assert (page["recipe"], page["images_trained"]) == ("stylegan2-class", 8)
    assert (page["height"], page["width"], page["channels"]) == (16, 16, 3)
    assert page["takes"] == {"prompt": False, "classes": ["round", "square"], "tags": [], "fields": {}}
    assert page["latents"] == {"z_dim": 8, "w_dim": 8, "num_ws": 6}
    package = page["packages"].pop("gankit")
    assert page["packages"] == {}
    assert (package["version"], package["draws"], package["installed"]) == (__version__, True, __version__)
    assert {"generator stylegan2", "conditioner class", "loss non-saturating"} <= set(package["plugins"])
    pipe = gankit.load(run, device="cpu")
    assert pipe.mapping(pipe.latents([0]), pipe.conditioner.encode([Label("round")])).shape == (1, 6, 8)
    for seed in page["ranges"]["seeds"]:
        pipe.latents([seed])
    with pytest.raises(GankitError, match="out of range"):
        pipe.latents([page["ranges"]["seeds"][1] + 1])


def test_json_of_models_of_before(run: Path, pair: tuple[Path, Path], tmp_path: Path) -> None:
    """What they do not state is found by building their networks."""
    old = facts(str(GOLDEN / "run_0_1" / "run"))
    assert old["takes"] == {"prompt": False, "classes": ["round", "square"], "tags": [], "fields": {}}
    assert old["latents"] == {"z_dim": 8, "w_dim": 8, "num_ws": 6}
    assert old["packages"]["gankit"]["version"] is None
    assert old["packages"]["gankit"]["plugins"] == ["conditioner class", "generator stylegan2"]
    page = yaml.safe_load((GOLDEN / "run_0_1" / "run" / "recipe.yaml").read_text())
    shutil.copytree(GOLDEN / "run_0_1" / "run" / old["model"].rpartition("run/")[2], tmp_path / "model")
    page["generator"] = {"name": "no-such-generator"}
    (tmp_path / "model" / "recipe.yaml").write_text(yaml.safe_dump(page))
    lost = facts(str(tmp_path / "model"))
    assert (lost["takes"], lost["latents"]) == (None, None)
    assert "unknown generator 'no-such-generator'" in lost["problem"]
    pytest.importorskip("gankit_avatars")
    avatars = facts("avatars")
    pipe = gankit.load("avatars", device="cpu")
    vocabulary = pipe.conditioner.vocabulary()
    assert avatars["takes"] == {
        "prompt": True,
        "classes": list(vocabulary.classes),
        "tags": list(vocabulary.tags),
        "fields": {},
    }
    assert avatars["latents"] == {k: getattr(pipe.generator, k) for k in ("z_dim", "w_dim", "num_ws")}
    assert (avatars["height"], avatars["width"], avatars["channels"]) == (64, 64, 3)
    assert avatars["images_trained"] == pipe.nimg > 0


def test_json_of_files(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """A model that was converted, and files; with their tensors."""
    converted, heavy = json_of(pair[1], "--tensors")
    assert heavy == ""
    assert converted["takes"] == {"prompt": False, "classes": [], "tags": [], "fields": {}}
    assert converted["latents"]["z_dim"] == 16
    stored = load_file(pair[1] / "generator.safetensors")
    shapes = {name: entry["shape"] for name, entry in converted["tensors"]["generator.safetensors"].items()}
    assert shapes == {name: list(tensor.shape) for name, tensor in stored.items()}
    page, heavy = json_of(pair[1] / "generator.safetensors")
    assert heavy == ""
    assert page["kind"] == "safetensors"
    assert page["tensors"] == {"count": len(stored), "numbers": sum(t.numel() for t in stored.values())}
    page, heavy = json_of(PICKLES / "sg2_cond.pkl")
    assert heavy == ""
    assert (page["kind"], page["hostile"]) == ("foreign", [])
    assert page["networks"]["G_ema"]["arguments"]["c_dim"] == 5
    assert page["networks"]["G_ema"]["tensors"]["count"] == 54
    assert facts(str(PICKLES / "evil_eval_nested.pkl"))["hostile"] == ["builtins.eval"]
    assert "is not a network" in facts(str(PICKLES / "evil_os_system.pkl"))["unreadable"]["G_ema"]
    deep = json.dumps({"a": float("nan")})[:-1] + ', "b": ' + "[" * 300 + "]" * 300 + "}"
    save_file({"w\x1b": torch.zeros(1)}, tmp_path / "odd.safetensors", {"note": "\x1b]0;\x9b", "deep": deep})
    page, _ = json_of(tmp_path / "odd.safetensors")
    assert page["metadata"]["deep"]["a"] == "nan"


def test_json_of_nothing(tmp_path: Path, gankit_cli: Cli) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("name: new")
    (tmp_path / "foreign").mkdir()
    save_file({"w": torch.zeros(1)}, tmp_path / "foreign" / "generator.safetensors")
    (tmp_path / "foreign" / "recipe.yaml").write_text("name: new")
    cases = {
        tmp_path / "run": "has no checkpoint yet",
        tmp_path: "neither a model nor a run",
        "no-such-thing": "unknown file, folder or model 'no-such-thing'",
        tmp_path / "foreign": "conditioner.json",
    }
    for path, sentence in cases.items():
        done = gankit_cli("inspect", path, "--json")
        assert (done.code, done.out) == (2, "")
        assert sentence in done.message
    (tmp_path / "foreign" / "conditioner.json").write_text('{"vocabulary": {"classes": 3}}')
    assert "is damaged" in gankit_cli("inspect", tmp_path / "foreign", "--json").message
    (tmp_path / "foreign" / "conditioner.json").write_text('{"vocabulary": {}}')
    assert "was not written by gankit" in gankit_cli("inspect", tmp_path / "foreign", "--json").message


def test_inspect_counts_what_is_there(pair: tuple[Path, Path], gankit_cli: Cli) -> None:
    tensors = load_file(pair[0] / "generator.safetensors")
    total = sum(tensor.numel() for tensor in tensors.values())
    text = inspect(str(pair[0] / "generator.safetensors"))
    assert f"{len(tensors)} tensors, {total:,} numbers (f32)" in text
    listed = gankit_cli("inspect", "--tensors", pair[0] / "generator.safetensors").out
    for name, tensor in tensors.items():
        assert any(
            line.split()[:1] == [name] and str(list(tensor.shape)) in line for line in listed.splitlines()
        )
    rows, _ = read_header(pair[0] / "generator.safetensors")
    assert {name: shape for name, _, shape in rows} == {n: tuple(t.shape) for n, t in tensors.items()}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01\x00",
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 2) + b"{]",
        struct.pack("<Q", 9) + b'{"a": {}}',
        struct.pack("<Q", 8000) + b"[" * 8000,
    ],
)
def test_damaged_safetensors_are_refused(tmp_path: Path, data: bytes, gankit_cli: Cli) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(data)
    done = gankit_cli("inspect", path)
    assert done.code == 2
    assert "is not a sound safetensors file" in done.message


def test_truncated_safetensors_are_noticed(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(100)}, tmp_path / "file.safetensors")
    whole = (tmp_path / "file.safetensors").read_bytes()
    (tmp_path / "file.safetensors").write_bytes(whole[:-10])
    with pytest.raises(GankitError, match="incomplete"):
        inspect(str(tmp_path / "file.safetensors"))


def test_inspect_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(GankitError, match="unknown file, folder or model 'no-such-thing'"):
        inspect("no-such-thing")
    with pytest.raises(GankitError, match="neither a model nor a run"):
        inspect(str(tmp_path))
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(GankitError, match="neither a pickle nor"):
        inspect(str(tmp_path / "notes.txt"))


def test_escape_sequences_do_not_reach_the_terminal(tmp_path: Path) -> None:
    save_file({"a\x1b[31m": torch.zeros(1)}, tmp_path / "x.safetensors", {"note": "\x1b]0;title\x07"})
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text('name: "\\e[2J"')
    for path in ("x.safetensors", "run"):
        assert "\x1b" not in inspect(str(tmp_path / path), tensors=True)
