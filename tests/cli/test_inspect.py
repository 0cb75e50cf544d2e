"""`gankit inspect`: what is in a file, without torch; damaged files."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pickle_utils import PICKLES, snapshot_pair
from runs import Result, train
from safetensors.torch import load_file, save_file

from gankit.cli.inspect import inspect, read_header
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
