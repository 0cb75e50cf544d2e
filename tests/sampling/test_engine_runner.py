"""Engines: set-up for each batch size, falling back, data types, choosing and remembering."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import broken_plugins
import pytest
import torch
from fake_plugins import Recorder
from PIL import Image
from runs import Result, pixels
from tiny_models import write_model

import gankit
from gankit import GankitError
from gankit.core.config import options
from gankit.core.config.registry import registry
from gankit.core.interfaces.conditions import Condition
from gankit.sampling import engine_runner
from gankit.sampling.engine_runner import EngineRunner


@pytest.fixture(autouse=True)
def recorder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Recorder]]:
    monkeypatch.setenv("GANKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Recorder, "log", [])
    registry().register("engine", "recorder", "fake_plugins:Recorder", package="recorder", version="1.0")
    yield Recorder
    del registry().plugins["engine", "recorder"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "model")


def test_short_batches_are_filled_up(folder: Path, recorder: type[Recorder]) -> None:
    pipe, plain = gankit.load(folder, device="cpu", engine="recorder"), gankit.load(folder, device="cpu")
    images = pixels(pipe(cls="round", seeds=range(5), batch_size=3))
    assert abs(images - pixels(plain(cls="round", seeds=range(5)))).max() <= 1
    assert recorder.log == [("prepare", 3, ["c", "ws"]), ("draw", 3), ("draw", 3)]
    pipe(cls="square", seeds=[1, 2, 3], batch_size=8)
    assert recorder.log[3:] == [("draw", 3)]
    pipe(cls="square", seeds=[1], batch_size=8)
    assert recorder.log[4:] == [("prepare", 1, ["c", "ws"]), ("draw", 1)]


def test_noise_is_given_to_engines_that_cannot_draw_it(folder: Path, recorder: type[Recorder]) -> None:
    pipe = gankit.load(folder, device="cpu", engine="recorder")
    first, second = (pixels(pipe(cls="round", seeds=[1], noise_mode="random")) for _ in range(2))
    assert recorder.log[0] == ("prepare", 1, ["c", "noise", "ws"])
    assert (first != second).any()


@pytest.mark.parametrize(("fails", "reason"), [("prepare", "no such header at all"), ("draw", "out of luck")])
def test_a_failing_engine_is_replaced_with_one_warning(
    fails: str, reason: str, folder: Path, recorder: type[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "fails", fails)
    pipe = gankit.load(folder, device="cpu", engine="recorder")
    with pytest.warns(RuntimeWarning, match=reason) as caught:
        images = pixels(pipe(cls="round", seeds=range(4), batch_size=2))
    assert len(caught) == 1
    assert (
        images == pixels(gankit.load(folder, device="cpu")(cls="round", seeds=range(4), batch_size=2))
    ).all()
    assert len([entry for entry in recorder.log if entry[0] == "prepare"]) == 1  # it is not tried again


def test_engines_that_cannot_run_are_errors(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GankitError, match="unknown engine 'opnvino'; did you mean 'openvino'"):
        gankit.load(folder, device="cpu", engine="opnvino")
    target = registry().load("engine", "openvino")
    monkeypatch.setattr(
        "gankit.plugins.engines.openvino_cpu.missing", lambda *a: "openvino is not installed; run X"
    )
    with pytest.raises(
        GankitError, match="engine 'openvino' cannot run here: openvino is not installed; run X"
    ):
        gankit.load(folder, device="cpu", engine="openvino")
    assert "add --device cpu" in (target().obstacle(torch.device("cuda")) or "")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(GankitError, match="needs a C\\+\\+ compiler"):
        gankit.load(folder, device="cpu", engine="compile")


# ------------------------------------------------------------------------------------------------------- dtype


def decibels(images: torch.Tensor, expected: torch.Tensor) -> float:
    """PSNR, with a peak of twice the spread as images in [-1, 1] have it."""
    peak = 4 * (expected - expected.mean()).square().mean().sqrt()
    return 20 * torch.log10(peak / (images - expected).square().mean().sqrt()).item()


@pytest.fixture(autouse=True)
def products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the CPU has."""
    monkeypatch.setattr(engine_runner, "multiplies", lambda dtype, device: True)


@torch.no_grad()
@pytest.mark.parametrize("generator", ["stylegan2", "stylegan-t"])
@pytest.mark.parametrize("engine", ["eager", {"name": "compile", "backend": "aot_eager"}, "openvino"])
def test_bf16_images(engine: Any, generator: str, tmp_path: Path) -> None:
    name = engine if isinstance(engine, str) else engine["name"]
    reason = options.build("engine", name).obstacle(torch.device("cpu"))
    if reason and name == "openvino":  # the other needs no compiler for this backend
        pytest.skip(reason)
    model = write_model(tmp_path / "model", generator)
    plain = gankit.load(model, device="cpu")
    pipe = gankit.load(model, device="cpu", engine=engine, dtype="bf16")
    cond = plain.conditioner.encode([plain.label(cls="round")])
    ws = pipe.mapping(pipe.latents(range(4)), cond)
    assert ws.dtype == torch.float32
    assert torch.equal(ws, plain.mapping(plain.latents(range(4)), cond))  # mapping is left alone
    rows = cond.map(lambda t: t.expand(4, *t.shape[1:]))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        images, noisy = pipe.engine(ws, rows, "const"), pipe.engine(ws, rows, "random")
    expected = plain.engine(ws, rows, "const")
    assert pipe.engine.used == {name}
    assert images.dtype == noisy.dtype == torch.float32
    assert not torch.equal(images, expected)  # else it was fp32
    assert decibels(images, expected) > 35
    assert (images - noisy).abs().max() > 1e-2
    assert len(pipe(cls="round", seeds=range(3), batch_size=2)) == 3


def test_generators_that_do_not_follow_ws_draw_under_autocast(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = gankit.load(folder, device="cpu", dtype="bf16")
    seen, network = [], type(pipe.generator.synthesis)
    forward = network.forward

    def spy(self: Any, ws: torch.Tensor, *a: Any, **k: Any) -> torch.Tensor:
        seen.append((ws.dtype, torch.is_autocast_enabled("cpu")))
        return forward(self, ws, *a, **k).bfloat16()

    monkeypatch.setattr(network, "forward", spy)
    cond = Condition(torch.tensor([[1.0, 0.0]]))
    for follows in (True, False):
        monkeypatch.setattr(type(pipe.generator), "follows_ws", follows)
        ws = pipe.generator.mapping(torch.randn(1, pipe.generator.z_dim), cond)
        assert pipe.engine(ws, cond, "const").dtype == torch.float32
    assert seen == [(torch.bfloat16, False), (torch.float32, True)]


def test_a_cpu_without_products_in_bf16(
    folder: Path, recorder: type[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what follows ws, for which there are kernels, computes in it."""
    monkeypatch.setattr(engine_runner, "multiplies", lambda dtype, device: dtype == torch.float32)
    monkeypatch.setattr(recorder, "dtypes", ("fp32", "bf16"))
    seen: list[Any] = []
    prepare = recorder.prepare

    def spy(self: Recorder, module: Any, inputs: Any) -> Any:
        seen.append(module.dtype)
        return prepare(self, module, inputs)

    monkeypatch.setattr(recorder, "prepare", spy)
    gankit.load(folder, device="cpu", engine="recorder", dtype="bf16")(cls="round")
    assert seen == ["fp32"]
    pipe, plain = (gankit.load(folder, device="cpu", dtype=dtype) for dtype in ("bf16", "fp32"))
    cond = Condition(torch.tensor([[1.0, 0.0]]))
    ws = pipe.generator.mapping(torch.randn(1, pipe.generator.z_dim), cond)
    for follows in (True, False):
        monkeypatch.setattr(type(pipe.generator), "follows_ws", follows)
        same = torch.equal(pipe.engine(ws, cond, "const"), plain.engine(ws, cond, "const"))
        assert same == (not follows)


def test_a_failing_engine_is_replaced_in_its_dtype(
    folder: Path, recorder: type[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "fails", "draw")
    monkeypatch.setattr(recorder, "dtypes", ("fp32", "bf16"))
    pipe = gankit.load(folder, device="cpu", engine="recorder", dtype="bf16")
    with pytest.warns(RuntimeWarning, match="out of luck"):
        images = pixels(pipe(cls="round", seeds=range(2)))
    plain = gankit.load(folder, device="cpu", dtype="bf16")
    assert (images == pixels(plain(cls="round", seeds=range(2)))).all()


def test_what_an_engine_is_told_of_bf16(
    folder: Path, recorder: type[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    prepare = recorder.prepare

    def spy(self: Recorder, module: Any, inputs: Any) -> Any:
        seen.append((self.dtype, module.dtype, {t.dtype for t in inputs.values()}))
        return prepare(self, module, inputs)

    monkeypatch.setattr(recorder, "dtypes", ("fp32", "bf16"))
    monkeypatch.setattr(recorder, "prepare", spy)
    for casts in (False, True):
        monkeypatch.setattr(recorder, "casts", casts)
        gankit.load(folder, device="cpu", engine="recorder", dtype="bf16")(cls="round", noise_mode="random")
    assert seen == [("bf16", "bf16", {torch.float32}), ("bf16", "fp32", {torch.float32})]


@pytest.mark.parametrize("dtype", ["fp16", "float32", torch.bfloat16, None])
def test_unknown_dtypes_are_errors(dtype: Any) -> None:
    with pytest.raises(GankitError, match=f"^dtype '{dtype}' is not known to sampling; choose fp32 or bf16$"):
        gankit.load("no such model", device="cpu", dtype=dtype)


def test_engines_that_cannot_draw_in_a_dtype_are_errors(folder: Path, recorder: type[Recorder]) -> None:
    message = "engine 'recorder' draws in fp32 only, not in bf16; choose that dtype, or the engine 'eager'"
    with pytest.raises(GankitError, match=message):
        gankit.load(folder, device="cpu", engine="recorder", dtype="bf16")
    assert recorder.log == []


def test_auto_is_among_the_engines(folder: Path) -> None:
    with pytest.raises(GankitError, match="unknown engine 'autp'; did you mean 'auto'"):
        gankit.load(folder, device="cpu", engine="autp")
    with pytest.raises(GankitError, match="unknown engine 'x'; valid: auto, compile, eager"):
        gankit.load(folder, device="cpu", engine="x")
    with pytest.raises(GankitError, match="engine 'auto' has no options, but is given mode"):
        gankit.load(folder, device="cpu", engine={"name": "auto", "mode": "fast"})
    assert gankit.load(folder, device="cpu", engine={"name": "auto"}).engine.name == "auto"


# -------------------------------------------------------------------------------------------------------- auto


@pytest.fixture
def only_recorder(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` has eager and the recorder to choose from; the others take long."""
    for name in ("openvino", "compile"):
        monkeypatch.setattr(registry().load("engine", name), "obstacle", lambda self, device: "left out")


def test_auto_measures_once_and_remembers(
    only_recorder: None, folder: Path, tmp_path: Path, recorder: type[Recorder]
) -> None:
    said: list[str] = []
    pipe = gankit.load(folder, device="cpu", engine="auto")
    pipe.engine.say = said.append
    pipe(cls="round", seeds=range(3), batch_size=3)
    assert "measuring the engines eager, recorder" in said[0]
    prepared = [entry for entry in recorder.log if entry[0] == "prepare"]
    assert [entry[1] for entry in prepared] == [3, 3]  # new, and as a later process finds it
    pipe(cls="round", seeds=range(3), batch_size=3)
    (file,) = (tmp_path / "cache" / "engines").iterdir()
    page = json.loads(file.read_text())
    assert page["seconds"].keys() == {"eager", "recorder"}
    assert all(times["batch"] > 0 for times in page["seconds"].values())
    again = gankit.load(folder, device="cpu", engine="auto")
    again.engine.say = said.append
    again(cls="square", seeds=range(3), batch_size=3)
    assert len(said) == 1
    again(cls="square", seeds=range(2), batch_size=2)  # another batch size
    assert len(said) == 2
    file.write_text("{")
    third = gankit.load(folder, device="cpu", engine="auto")
    third.engine.say = said.append
    third(cls="square", seeds=range(3), batch_size=3)
    assert len(said) == 3


def test_auto_takes_the_engine_that_is_done_first(
    only_recorder: None, folder: Path, recorder: type[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = {"eager": {"setup": 0.0, "batch": 1.0}, "recorder": {"setup": 10.0, "batch": 0.1}}
    monkeypatch.setattr(EngineRunner, "_measure", lambda *arguments: times)
    pipe = gankit.load(folder, device="cpu", engine="auto")
    for images, expected in (
        (3, "eager"),
        (20, "recorder"),
        (3, "recorder"),
    ):  # set up already, the last time
        pipe.engine.used.clear()
        ws = torch.zeros(1, pipe.generator.num_ws, pipe.generator.w_dim)
        with torch.no_grad():
            pipe.engine(ws, Condition(torch.zeros(1, 2)), "const", batch=1, images=images)
        assert pipe.engine.used == {expected}


def test_auto_remembers_by_dtype(
    only_recorder: None,
    folder: Path,
    tmp_path: Path,
    recorder: type[Recorder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pages = tmp_path / "cache" / "engines"

    def measured(dtype: str) -> list[tuple[str, list[str]]]:
        gankit.load(folder, device="cpu", engine="auto", dtype=dtype)(cls="round", seeds=range(2))
        read = [json.loads(file.read_text()) for file in pages.iterdir()]
        return sorted((page["dtype"], sorted(page["seconds"])) for page in read)

    assert measured("bf16") == [("bf16", ["eager"])]  # the recorder has fp32 only
    assert measured("fp32") == [("bf16", ["eager"]), ("fp32", ["eager", "recorder"])]
    assert len(measured("bf16")) == 2
    for file in pages.iterdir():
        file.unlink()
    monkeypatch.setattr(recorder, "dtypes", ("fp32", "bf16"))
    assert measured("bf16") == [("bf16", ["eager", "recorder"])]
    for file in pages.iterdir():
        file.unlink()
    monkeypatch.setattr(recorder, "shift", 0.5)
    with pytest.warns(RuntimeWarning, match="its bf16 images are .* dB from fp32, those of torch"):
        assert measured("bf16") == [("bf16", ["eager"])]


@pytest.mark.parametrize(("shift", "fails"), [(0.1, ""), (float("nan"), ""), (0.0, "draw")])
def test_auto_leaves_out_what_draws_other_images(
    shift: float, fails: str, only_recorder: None, folder: Path, tmp_path: Path, recorder: type[Recorder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(recorder, "shift", shift)
    monkeypatch.setattr(recorder, "fails", fails)
    pipe = gankit.load(folder, device="cpu", engine="auto")
    with pytest.warns(RuntimeWarning, match="out of luck" if fails else "grey levels"):
        images = pixels(pipe(cls="round", seeds=range(2)))
    assert (images == pixels(gankit.load(folder, device="cpu")(cls="round", seeds=range(2)))).all()
    (file,) = (tmp_path / "cache" / "engines").iterdir()
    assert json.loads(file.read_text())["seconds"].keys() == {"eager"}


def test_the_command_line(folder: Path, tmp_path: Path, gankit_cli: Callable[..., Result]) -> None:
    wish = ("sample", folder, "--class", "round", "--seeds", "0-1", "--out", tmp_path / "out")
    assert gankit_cli(*wish, "--engine", "recorder").code == 0
    facts = json.loads(Image.open(tmp_path / "out" / "seed0001.png").text["gankit"])  # type: ignore[attr-defined]
    assert facts["engine"] == "recorder"
    assert gankit_cli(*wish).code == 0
    facts = json.loads(Image.open(tmp_path / "out" / "seed0001.png").text["gankit"])  # type: ignore[attr-defined]
    assert not {"engine", "dtype"} & set(facts)
    assert gankit_cli(*wish, "--dtype", "bf16").code == 0
    facts = json.loads(Image.open(tmp_path / "out" / "seed0001.png").text["gankit"])  # type: ignore[attr-defined]
    assert facts["dtype"] == "bf16"
    done = gankit_cli(*wish, "--dtype", "half")
    assert (done.code, done.message.count("\n")) == (2, 0)
    assert "dtype 'half' is not known to sampling; choose fp32 or bf16" in done.message
    done = gankit_cli(*wish, "--dtype", "bf16", "--engine", "recorder")
    assert done.code == 2
    assert "engine 'recorder' draws in fp32 only" in done.message
    done = gankit_cli(*wish, "--engine", "fast")
    assert done.code == 2
    assert "unknown engine 'fast'" in done.message


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (
            "Every2nd",
            r"engine 'mine' of package 'my-package 0.1' returned images \[2, 3, 8, 16\], not \[4, 3, 8, 16\]",
        ),
        ("Backwards", "its images are not those of the model, but .* dB from them"),
    ],
)
def test_an_engine_that_draws_something_else_is_replaced(folder: Path, target: str, reason: str) -> None:
    with broken_plugins.registered("engine", target):
        pipe = gankit.load(folder, device="cpu", engine="mine")
    with pytest.warns(RuntimeWarning, match=reason):
        images = pixels(pipe(cls="round", seeds=range(4)))
    assert (images == pixels(gankit.load(folder, device="cpu")(cls="round", seeds=range(4)))).all()
