"""Metrics while a run trains: of the moving average, within a time limit, without a trace in the training.

Nothing here draws from the random numbers that training uses, and a number is reported whole or not at all: if the time
is up before all images are drawn, the log says so.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gankit.core.checkpoints import folders
from gankit.core.config import options
from gankit.core.config.recipe import Recipe, measured
from gankit.core.config.retention import Retention
from gankit.core.interfaces.conditions import Conditioner
from gankit.core.interfaces.data import Source
from gankit.core.interfaces.networks import FeatureNetwork, Generator
from gankit.core.runtime import tensor_files
from gankit.core.training.step import Stepper
from gankit.errors import GankitError
from gankit.evaluation import evaluate
from gankit.evaluation.metric import Measure
from gankit.evaluation.metric_context import DEFAULT_SIDE, MetricContext, Progress
from gankit.sampling.pipeline import Pipeline

FOLDER = (
    "evaluations"  # in the run's folder; pages as `gankit evaluate` writes them, named like the checkpoints
)
PSI = 1.0


class _Late(Exception):
    """The evaluation is to end without a result; the text says why."""


@dataclass
class _Live:
    """What training has at the moment, in the form of a `gankit.sampling.pipeline.Pipeline`."""

    recipe: Recipe
    stepper: Stepper
    latents = Pipeline.latents

    @property
    def conditioner(self) -> Conditioner:
        return self.stepper.conditioner_ema

    @property
    def generator(self) -> Generator:
        return self.stepper.G_ema

    @property
    def device(self) -> torch.device:
        return self.stepper.device

    @property
    def nimg(self) -> int:
        return self.stepper.nimg


class _Watch(Progress):
    """Takes the place of the progress line: looks at the clock as images get done."""

    def __init__(self) -> None:
        super().__init__(False)
        self.look: Callable[[str], None] = lambda how_far: None

    def of(self, what: str, total: int) -> Callable[[int], None]:
        return lambda done: self.look(f"{done:,} of {total:,} {what}")


class Monitor:
    """Measures a run as it goes. One process does; the others wait for it at their next exchange.

    Args:
        out: the run's folder.
        recipe: with `evaluation.every` set.
        source: the data set.
        stepper: that trains.
        say: shows a line to the user.

    Raises GankitError if a metric cannot be measured at all: too few images, or a missing feature network.
    """

    def __init__(
        self, out: Path, recipe: Recipe, source: Source, stepper: Stepper, say: Callable[[str], None]
    ) -> None:
        self.out, self.recipe, self.source, self.stepper, self.say = out, recipe, source, stepper, say
        self.wish = recipe.evaluation
        self.keep, self.better = Retention.parse(recipe.train.keep), measured(recipe.evaluation)
        live: Any = _Live(recipe, stepper)  # all of a pipeline that a context asks for
        self.watch = _Watch()
        self.context = MetricContext(
            live,
            source,
            num=self.wish.num,
            num_real=min(self.wish.num, len(source)),
            seed=self.wish.seed,
            psi=PSI,
            batch=self.wish.batch,
            feature=self.wish.feature,
            progress=self.watch,
        )
        self.metrics: dict[str, Measure] = {
            name: options.build("metric", {**given, "name": name})
            for name, given in self.wish.metrics.items()
        }
        for page in self._pages():  # written by an interrupted run after its last checkpoint
            if int(page.stem) > stepper.nimg:
                page.unlink()
        with self._undisturbed():
            self.context.side = self._side(self.context.network(self.wish.feature))
            evaluate.check_before_drawing(self.context, self.metrics)
            self.session = evaluate.Session(self.context, self.metrics)
            start = time.monotonic()
            self.say(f"evaluations: looking at {self.context.num_real:,} real images, once for this data set")
            self.session.real()
            how = "found in the cache" if self.session.cached else "done"
            self.say(f"  {how} in {time.monotonic() - start:.0f} s")

    def evaluate(self, want_stop: Callable[[], bool]) -> bool:
        """Measure what there is now, log it, and write a page. False if it was given up, which has been said then."""
        nimg, start = self.stepper.nimg, time.monotonic()

        def look(how_far: str) -> None:
            seconds = time.monotonic() - start
            if want_stop():
                raise _Late("the training is to stop")
            if seconds > self.wish.seconds:
                raise _Late(
                    f"{how_far} took {seconds:.0f} s; lower evaluation.num, or raise "
                    f"evaluation.seconds = {self.wish.seconds:g}"
                )

        self.watch.look = look
        try:
            with self._undisturbed(), self.stepper.meter.timed("eval"):
                results = self.session.measure()
        except (_Late, GankitError) as reason:
            self.say(f"no evaluation at {nimg:,} images: {reason}")
            return False
        finally:
            self.watch.look = lambda how_far: None
        for name in results:
            results[name] |= {"better": dict(self.metrics[name].values), "options": self.wish.metrics[name]}
        seconds = time.monotonic() - start
        where, cached = self.recipe.data.path, self.session.cached
        facts = evaluate.page_of(self.context, results, str(self.out), where, cached, None, start)
        tensor_files.write_text(self._page(nimg), json.dumps(facts, indent=1, ensure_ascii=False))
        numbers = {key: value for result in results.values() for key, value in result["values"].items()}
        for key, value in numbers.items():
            self.stepper.meter.add(f"eval/{key}", value)
        told = "  ".join(f"{key} {value:.4g}{self._rank(key, nimg)}" for key, value in numbers.items())
        self.say(f"evaluated at {nimg:,} images: {told}  ({seconds:.0f} s)")
        return True

    def best_checkpoints(self) -> set[int]:
        """Images trained at the checkpoints that must be kept because they are the best so far."""
        nimgs = {int(folder.name) for folder in folders.checkpoints(self.out)} | {self.stepper.nimg}
        chosen: set[int] = set()
        for count, wanted in self.keep.best:
            key = wanted or next(iter(self.better))
            ranked = [nimg for nimg in self._ranked(key) if nimg in nimgs]
            chosen.update(ranked[:count])
        return chosen

    def stalled(self, patience: int) -> bool:
        """Whether as many measurements in a row as `patience` says, all of this stage, have not improved the first
        number that is measured."""
        start = self.stepper.stage_start
        here = [n for n in self._ranked(next(iter(self.better))) if start < n <= self.stepper.nimg]
        return bool(here) and sum(n > here[0] for n in here) >= patience

    def _undisturbed(self) -> Any:
        """Whatever happens inside, training goes on with the random numbers that it would have had."""
        devices = [self.stepper.device] if self.stepper.device.type == "cuda" else []
        return torch.random.fork_rng(devices)

    def _side(self, network: FeatureNetwork) -> int | None:
        """The size of the images, at most what the network was trained on: small images need no large input."""
        multiple, wish = network.input_multiple, self.wish.side
        if network.own_resize:
            if wish is not None:
                raise GankitError(
                    f"evaluation.side = {wish}: {network.name!r} resizes images by itself; leave it out"
                )
            return None
        if wish is None:
            side = min(max(self.recipe.data.size), network.input_side or DEFAULT_SIDE)
            return math.ceil(side / multiple) * multiple
        if wish % multiple:
            raise GankitError(f"evaluation.side = {wish}: {network.name!r} takes multiples of {multiple}")
        return wish

    # ---------------------------------------------------------------------------------------------------- pages

    def _page(self, nimg: int) -> Path:
        folder = self.out / FOLDER
        with tensor_files.write_advice(folder):
            folder.mkdir(exist_ok=True)
        return folder / f"{nimg:09d}.json"

    def _pages(self) -> list[Path]:
        return sorted(page for page in (self.out / FOLDER).glob("*.json") if page.stem.isdigit())

    def _ranked(self, key: str) -> list[int]:
        """Images trained at the pages that hold a number, the best first; of equal ones the earlier."""
        found = []
        for page in self._pages():
            try:
                results = json.loads(page.read_text(encoding="utf-8"))["metrics"].values()
                value = next(r["values"][key] for r in results if key in r["values"])
                found.append((float(value), int(page.stem)))
            except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration):
                continue  # damaged, or of other metrics
        sign = -1 if self.better[key] == "higher" else 1
        return [nimg for _, nimg in sorted(found, key=lambda pair: (sign * pair[0], pair[1]))]

    def _rank(self, key: str, nimg: int) -> str:
        return " (best so far)" if key in self.better and self._ranked(key)[:1] == [nimg] else ""
