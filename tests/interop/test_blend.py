"""gankit inspect, blend and average."""

from __future__ import annotations

import math
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pickle_utils import PICKLES
from runs import TINY, Result
from safetensors.torch import load_file, save_file

import gankit
from gankit.cli.inspect import inspect, read_header
from gankit.errors import GankitError
from gankit.interop.blend import resolution
from gankit.interop.import_foreign import convert

Cli = Callable[..., Result]


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    overrides = {**TINY, "train.images": 8, "trackers": {}}
    gankit.train("stylegan2-class", out, data=str(images), overrides=overrides, quiet=True)
    return out


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The raw generator of a snapshot and its moving average: two networks of one architecture."""
    folder = tmp_path_factory.mktemp("pair")
    for role in ("G", "G_ema"):
        convert(PICKLES / "sg2_uncond.pkl", folder / role, network=role)
    return folder / "G", folder / "G_ema"


# ----------------------------------------------------------------------------------------------------- inspect


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


# ------------------------------------------------------------------------------------------- blend and average


@pytest.mark.parametrize(
    ("width", "shares"),
    [
        (0, {4: 0, 8: 0, 16: 1, 32: 1}),
        (1, {4: 0, 8: 0, 16: 1, 32: 1}),
        (2, {4: 0, 8: 0.25, 16: 0.75, 32: 1}),
        (4, {4: 0.125, 8: 0.375, 16: 0.625, 32: 0.875}),
    ],
)
def test_blend(
    pair: tuple[Path, Path], width: float, shares: dict[int, float], tmp_path: Path, gankit_cli: Cli
) -> None:
    out = tmp_path / "blended"
    done = gankit_cli("blend", *pair, "--at", 16, "--width", width, "--out", out)
    assert done.code == 0, done.err
    a, b, mixed = (load_file(folder / "generator.safetensors") for folder in (*pair, out))
    for name, tensor in mixed.items():
        share = shares.get(resolution(name) or 0, 0)  # the mapping network is A's
        assert torch.allclose(tensor, a[name] + share * (b[name] - a[name]), atol=1e-6), name
    pipe = gankit.load(out, device="cpu")
    assert pipe(seeds=[1])[0].size == (32, 32)
    assert pipe.recipe.name == "blended"
    whole = tmp_path / "b-mapping"
    gankit_cli("blend", *pair, "--at", 4, "--mapping", "b", "--out", whole)
    assert all(torch.equal(t, b[name]) for name, t in load_file(whole / "generator.safetensors").items())


def test_average(pair: tuple[Path, Path], tmp_path: Path, gankit_cli: Cli) -> None:
    a, b = (load_file(folder / "generator.safetensors") for folder in pair)
    for weight in (0, 0.25, 0.5, 1):
        out = tmp_path / f"average-{weight}"
        assert gankit_cli("average", *pair, "--weight", weight, "--out", out).code == 0
        for name, tensor in load_file(out / "generator.safetensors").items():
            assert torch.allclose(tensor, (1 - weight) * a[name] + weight * b[name], atol=1e-5), name


def test_new_models_have_usual_names(
    pair: tuple[Path, Path], tmp_path: Path, gankit_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (("blend", *pair, "--at", 8, "--width", 2), ("average", *pair, "--weight", 0.5)):
        done = gankit_cli(*command)
        assert (done.code, done.out) == (0, f"wrote {command[0]}\n")
        assert (tmp_path / command[0] / "generator.safetensors").is_file()
        assert "exists already; choose another folder" in gankit_cli(*command).message


def test_average_of_text_towers(tmp_path: Path, gankit_cli: Cli) -> None:
    for role in ("G", "G_ema"):
        convert(PICKLES / "sgt.pkl", tmp_path / role, network=role)
    assert gankit_cli("average", tmp_path / "G", tmp_path / "G_ema", "--out", tmp_path / "out").code == 0
    a, b, mixed = (load_file(tmp_path / name / "conditioner.safetensors") for name in ("G", "G_ema", "out"))
    assert mixed
    assert all(torch.allclose(tensor, (a[name] + b[name]) / 2, atol=1e-6) for name, tensor in mixed.items())


def test_resolutions_by_name() -> None:
    assert resolution("synthesis.b64.conv0.weight") == 64
    assert resolution("synthesis.L3_52_1024.bias") == 32
    assert resolution("synthesis.L13_256_128.bias") == 256
    assert resolution("synthesis.input.freqs") == 4
    assert resolution("mapping.fc0.weight") is None
    assert math.log2(resolution("synthesis.L9_1044_81.weight") or 0) == 10


def test_mistakes(pair: tuple[Path, Path], run: Path, tmp_path: Path, gankit_cli: Cli) -> None:
    out = tmp_path / "out"
    for arguments, fragments in (
        (("blend", *pair, "--at", 30, "--out", out), ["--at 30", "it has 4, 8, 16, 32"]),
        (("blend", *pair, "--at", 8, "--width", -1, "--out", out), ["--width -1"]),
        (("blend", *pair, "--at", 8, "--mapping", "c", "--out", out), ["--mapping", "valid: a, b"]),
        (("average", *pair, "--weight", 1.5, "--out", out), ["--weight 1.5 must be in [0, 1]"]),
        (("average", pair[0], run, "--out", out), ["different architectures", "z_dim"]),
        (("average", *pair, "--out", tmp_path), ["exists already"]),
        (("average", pair[0], "nowhere", "--out", out), ["unknown model 'nowhere'"]),
    ):
        done = gankit_cli(*arguments)
        assert done.code == 2
        assert all(fragment in done.message for fragment in fragments), done.message
    assert not out.exists()
