"""Train, export and convert models from Python; lists of what is installed.

This module joins the rooms: it hands the trainer what lies outside the core. Every function imports what it needs, so
that listing plugins or printing help does not import torch.
"""

from __future__ import annotations

import contextlib
import math
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gankit.core.config.registry import Plugin, registry
from gankit.errors import GankitError, unknown
from gankit.hookspecs import KINDS

if TYPE_CHECKING:
    from gankit.core.config.recipe import Recipe
    from gankit.core.training.trackers import Event
    from gankit.core.training.trainer import Trainer


# Long because every argument is explained, and checked before anything is begun.
def train(
    recipe: str | Path | Recipe,
    out: str | Path,
    *,
    data: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    tiny: bool = False,
    device: str = "auto",
    init: str | Path | None = None,
    minutes: float | None = None,
    quiet: bool = False,
    on_event: Callable[[Event], Any] | None = None,
) -> Path:
    """Train a recipe, or continue the run in `out`.

    Args:
        recipe: a recipe's name, a YAML file, or a resolved `Recipe`.
        out: the run's folder; if it holds a run of the same recipe, that run continues where it was.
        data: folder, zip, shards, or 'source:' (short for overrides['data.path']).
        overrides: dotted recipe keys -> values, for example {'train.images': '200k'}.
        tiny: apply the recipe's section of that name, which makes it train in seconds on a CPU, to try it out.
        device: 'auto', 'cpu', 'cuda' or 'mps'.
        init: a model, run or checkpoint to take weights from when the run begins.
        minutes: stop, with a checkpoint, after this long.
        quiet: print nothing.
        on_event: called with an `Event` at every tick, sample grid and checkpoint; if it returns 'stop', the run stops
            with a checkpoint. If it raises, a warning says so and it is not called again.

    Returns the newest checkpoint, which `gankit.load` opens. Settings of the process, such as torch's default dtype and
    random state, are left as they were; while it trains, gankit handles signals. Raises GankitError for every mistake
    in the input; after Ctrl-C or SIGTERM, KeyboardInterrupt or SystemExit once a checkpoint is written.
    """
    from gankit.core.config import recipe as recipes
    from gankit.core.config.recipe import Recipe

    sound = {
        "recipe": isinstance(recipe, (str, Path, Recipe)),
        "out": isinstance(out, (str, Path)),
        "overrides": isinstance(overrides or {}, Mapping)
        and all(isinstance(k, str) for k in overrides or {}),
        "minutes": minutes is None or (isinstance(minutes, (int, float)) and minutes > 0),
        "init": init is None or isinstance(init, (str, Path)),
        "on_event": on_event is None or callable(on_event),
    }
    for name, value in zip(sound, (recipe, out, overrides, minutes, init, on_event)):
        if not sound[name]:
            raise GankitError(f"{name} = {value!r} is not what gankit.train takes; see its help")
    if not isinstance(recipe, Recipe):
        recipe = str(recipe)
        merged = dict(overrides or {})
        if data is not None:
            merged["data.path"] = str(data)
        recipe = recipes.read(recipe, merged, tiny=tiny)
    elif tiny:
        raise ValueError("tiny applies to a recipe that is named, not to a resolved one")
    wishes: dict[str, Any] = {"device": device, "init": init, "minutes": minutes, "quiet": quiet}
    with open_run(recipe, Path(out), **wishes, on_event=on_event) as trainer:
        last = trainer.run()
    if trainer.stop_signal == signal.SIGINT:
        raise KeyboardInterrupt
    if trainer.stop_signal:
        raise SystemExit(128 + trainer.stop_signal)
    return last


@contextlib.contextmanager
def open_run(
    recipe: Recipe,
    out: Path,
    *,
    device: str = "auto",
    init: str | Path | None = None,
    minutes: float | None = None,
    quiet: bool = False,
    on_event: Callable[[Event], Any] | None = None,
) -> Iterator[Trainer]:
    """Context with the trainer of the run in `out`, whose `run()` trains to the end. Arguments as in `train`."""
    import torch

    from gankit.core.runtime import devices, distributed
    from gankit.core.training.attachments import Attachments
    from gankit.core.training.trackers import Listener
    from gankit.core.training.trainer import Trainer
    from gankit.evaluation.while_training import Monitor
    from gankit.interop.find_model import find_model
    from gankit.sampling.sample_grid import SampleGrid

    if minutes is not None and math.isnan(minutes):
        raise GankitError("--minutes nan is not a number of minutes, such as 90")
    listeners = [] if on_event is None else [Listener(on_event)]
    attachments = Attachments(find_model, Monitor, SampleGrid, listeners)
    place = devices.pick_device(device, distributed.world_from_env().local_rank)
    gpus = [place] if place.type == "cuda" else []
    with (
        devices.settings(place),
        torch.random.fork_rng(gpus),
        Trainer(recipe, out, attachments, device=device, init=init, minutes=minutes, quiet=quiet) as trainer,
    ):
        yield trainer


def export(
    model: str,
    out: str | Path,
    *,
    format: str = "model",
    dtype: str = "fp32",
    noise: str | None = None,
    center: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Write a slim model folder, or a file that runs without gankit.

    Args:
        model: what `gankit.load` takes.
        out: the new folder, or the file; a file gets the suffix of its format where it lacks it.
        format: 'model' for a folder; 'onnx', 'openvino', 'torch-export' or another exporter plugin for a file.
        dtype: type in which a folder stores weights: 'fp32', 'fp16' or 'bf16'. Files hold fp32.
        noise: of a file: 'const' (the default), 'none', or 'input' for an input of its own.
        center: of a file: truncate towards the mean of the 'condition' (the default) or the 'global' mean.
        settings: options of the exporter.

    Returns the path that was written. Raises GankitError for an option that the format does not have, and for what
    cannot be read, written or exported.
    """
    out = Path(out)
    if format == "model":
        from gankit.sampling.export_model import export_model

        for flag, value in (("--noise", noise), ("--center", center), ("--set", settings)):
            if value:
                raise GankitError(
                    f"{flag} is for files such as --format onnx; a model folder keeps every choice"
                )
        export_model(model, out, dtype)
        return out
    from gankit.sampling.export_file import export_file

    if dtype != "fp32":
        raise GankitError(f"--dtype {dtype} is for model folders; --format {format} holds fp32")
    choices = {name: value for name, value in (("noise", noise), ("center", center)) if value is not None}
    return export_file(model, out, format, settings=settings, **choices)


def convert(
    file: str | Path,
    out: str | Path,
    *,
    network: str | None = None,
    discriminator: bool = True,
    classes: Sequence[str] | None = None,
) -> list[str]:
    """Turn a published network into a model folder; nothing in the file is executed.

    Args:
        file: a .pkl or .pt file of another code base, or a folder or hub id that holds one.
        out: the new model folder.
        network: the generator to take, 'G_ema' or 'G'; by default the first of them that is there.
        discriminator: take D too, if an importer knows it, for training to start from.
        classes: names of the classes in order, for networks that are conditioned on classes.

    Returns notes for the user, such as what was left out. Raises GankitError for a file that is damaged, hostile, or
    holds networks that no importer knows.
    """
    from gankit.interop import import_foreign
    from gankit.interop.find_model import find_foreign

    return import_foreign.convert(
        find_foreign(file), Path(out), network=network, discriminator=discriminator, classes=classes
    )


def list_recipes() -> dict[str, str]:
    """Names of the installed recipes, sorted, with a line on each: its description, or why it cannot be read."""
    from gankit.core.config.recipe import read_page

    found = {}
    for name in sorted(registry().names("recipe")):
        try:
            description = read_page(name)[0].get("description", "")
        except GankitError as error:  # one broken recipe must not keep the others from being listed
            description = error
        found[name] = " ".join(str(description).split())
    return found


def list_plugins(kind: str | None = None) -> list[Plugin]:
    """The installed plugins by kind and name, or those of one kind. Raises GankitError for an unknown kind."""
    if kind is not None and kind not in KINDS:
        raise GankitError(unknown("plugin kind", kind, KINDS))
    found = sorted(registry().plugins.values(), key=lambda p: (list(KINDS).index(p.kind), p.name))
    return [plugin for plugin in found if kind in (None, plugin.kind)]


def list_models() -> list[str]:
    """Names of the models that installed packages carry, for `gankit.load(NAME)`."""
    return sorted(registry().names("model"))
