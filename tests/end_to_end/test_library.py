"""gankit in a program of somebody else: its settings stay and do not change results; errors name arguments."""

from __future__ import annotations

import contextlib
import random
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import TINY, assert_same, pixels, train, write_images
from tiny_models import write_model

import gankit
from gankit.core.runtime import devices


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), count=8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "model")


def state() -> dict[str, Any]:
    """Everything of the process that gankit might change."""
    return {
        "signals": [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)],
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "modes": (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"),
        ),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "cudnn": (
            torch.backends.cudnn.enabled,
            torch.backends.cudnn.benchmark,
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.allow_tf32,
        ),
        "matmul": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "random": (torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state())),
        "warnings": list(warnings.filters),
        "numpy": np.geterr(),
    }


@contextlib.contextmanager
def _default(set_: Callable[[Any], None], value: Any, before: Any) -> Iterator[None]:
    set_(value)
    try:
        yield
    finally:
        set_(before)


SETTINGS: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "plain": contextlib.nullcontext,
    "float64": lambda: _default(torch.set_default_dtype, torch.float64, torch.float32),
    "meta": lambda: _default(torch.set_default_device, "meta", None),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.fixture(scope="module")
def plain(images: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    run = tmp_path_factory.mktemp("plain") / "run"
    return train(run, images, "stylegan2-class"), drawn(model)


def drawn(model: Path) -> np.ndarray:
    pipe = gankit.load(model, device="cpu")
    return pixels(pipe(cls="round", seeds=range(3), psi=0.7))


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_the_host_change_nothing_and_stay(
    name: str, images: Path, model: Path, tmp_path: Path, plain: tuple[Path, np.ndarray]
) -> None:
    with SETTINGS[name]():
        before = state()
        last = train(tmp_path / "run", images, "stylegan2-class")
        assert state() == before
        found = drawn(model)
        assert state() == before
        gankit.export(str(model), tmp_path / "slim")
        assert state() == before
        page = gankit.evaluate(
            str(model), metrics=["diversity"], num=8, data=str(images), device="cpu", **SMALL
        )
        assert page["metrics"]["diversity"]["values"]["diversity"] > 0
        assert state() == before
    assert_same(last, plain[0])
    assert (found == plain[1]).all()


SMALL: dict[str, Any] = {"settings": {"diversity.images": 4}}


def test_paths_and_devices_of_torch_are_taken(images: Path, model: Path, tmp_path: Path) -> None:
    last = gankit.train("stylegan2", tmp_path, data=images, overrides={**TINY, "train.images": 8}, quiet=True)
    assert gankit.load(last, device=torch.device("cpu"))(seeds=0)


def test_settings_stay_after_an_error(images: Path, tmp_path: Path) -> None:
    def interrupt(event: Any) -> None:
        raise KeyboardInterrupt

    before = state()
    with pytest.raises(KeyboardInterrupt):
        gankit.train("stylegan2", tmp_path, data=str(images), overrides=TINY, quiet=True, on_event=interrupt)
    assert state() == before


def test_malloc_is_that_of_the_host(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(devices, "keep_freed_memory", lambda: calls.append(1))
    train(tmp_path / "run", images)
    assert not calls
    from typer.testing import CliRunner

    from gankit.cli.app import app

    done = CliRunner().invoke(app, ["train", "--resume", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert calls == [1]


def test_names() -> None:
    assert sorted(gankit.__all__) == [
        "GankitError",
        "Pipeline",
        "__version__",
        "convert",
        "evaluate",
        "export",
        "hookimpl",
        "list_models",
        "list_plugins",
        "list_recipes",
        "load",
        "train",
    ]
    assert set(gankit.__all__) <= set(dir(gankit))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model, out: gankit.train("stylegan2", out, quiet=True), "no data: give data PATH"),
        (
            lambda model, out: gankit.export(model, out, noise="none"),
            "noise is for files such as format onnx",
        ),
        (
            lambda model, out: gankit.export(model, out, format="torch-export", noise="some"),
            "unknown noise 'some'",
        ),
        (
            lambda model, out: gankit.evaluate(model, metrics=["diversity"], num=0),
            "num 0 and batch_size 32 must be",
        ),
        (lambda model, out: gankit.load(model, device="cuda:x"), "unknown device 'cuda:x'"),
        (
            lambda model, out: gankit.load(model, device="cpu")(cls="round", seeds="0-3"),
            r"seeds = \['0-3'\]: give whole",
        ),
        (
            lambda model, out: gankit.load(model, device="cpu")(cls="round", seeds=1.0),
            "seeds = .*: give whole",
        ),
        (
            lambda model, out: gankit.load(model, device="cpu")(cls="round", batch_size=2.5),
            "batch_size = .*: give whole",
        ),
        (
            lambda model, out: gankit.load(model, device="cpu")(cls="round", psi="0.7"),
            "psi = '0.7': give a number",
        ),
    ],
)
def test_errors_name_arguments(
    call: Callable[[str, Path], Any], message: str, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(gankit.GankitError, match=f"^{message}") as caught:
        call(str(model), tmp_path / "out")
    assert "--" not in str(caught.value)


def test_threads_draw_at_the_same_time_and_leave_the_settings(model: Path) -> None:
    """The first to leave does not change what the others compute with."""
    from concurrent.futures import ThreadPoolExecutor

    pipe = gankit.load(model, device="cpu")
    wanted = pixels(pipe(seeds=range(4)))
    with _default(torch.set_default_dtype, torch.float64, torch.float32), ThreadPoolExecutor(4) as pool:
        drawn = list(pool.map(lambda _: pixels(pipe(seeds=range(4))), range(12)))
        assert torch.get_default_dtype() == torch.float64
    for picture in drawn:
        assert np.array_equal(picture, wanted)


@pytest.mark.parametrize(
    "careless",
    [
        lambda event: torch.set_default_dtype(torch.float64),
        lambda event: torch.set_grad_enabled(False),
        lambda event: torch.set_default_device("meta"),
        lambda event: torch.manual_seed(1),
    ],
    ids=["dtype", "gradients", "device", "seed"],
)
def test_what_a_callback_does_to_torch_stays_there(
    careless: Callable[[Any], None], plain: tuple[Path, np.ndarray], images: Path, tmp_path: Path
) -> None:
    before = state()
    overrides = {**TINY, "train.images": 8}
    last = gankit.train(
        "stylegan2-class", tmp_path, data=images, overrides=overrides, quiet=True, on_event=careless
    )
    assert state() == before
    assert_same(last, plain[0])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((3, "x"), {}),
        (("stylegan2", None), {}),
        (("stylegan2", "x"), {"overrides": [1]}),
        (("stylegan2", "x"), {"overrides": {3: 1}}),
        (("stylegan2", "x"), {"minutes": "a"}),
        (("stylegan2", "x"), {"minutes": -1}),
        (("stylegan2", "x"), {"init": 5}),
        (("stylegan2", "x"), {"on_event": 3}),
    ],
    ids=str,
)
def test_arguments_of_another_type_are_told(arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
    with pytest.raises(gankit.GankitError, match=r"^\w+ = .* is not what gankit\.train takes"):
        gankit.train(*arguments, **named)


@pytest.mark.parametrize("model_name", [3, None, ""])
def test_models_that_are_none(model_name: Any) -> None:
    with pytest.raises(gankit.GankitError, match="is no model: give a folder"):
        gankit.load(model_name)
