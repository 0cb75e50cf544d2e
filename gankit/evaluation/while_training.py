"""Evaluations during training: metrics of the EMA weights, within a time limit, without effect on the training.

Nothing here changes the state of the random generators that training uses. An evaluation that exceeds its time limit is
dropped, and the log says so.
"""

from __future__ import annotations

import json
import math
import time
import warnings
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
from gankit.core.runtime import devices, tensor_files
from gankit.core.training.step import Stepper
from gankit.errors import GankitError, raised
from gankit.evaluation import evaluate
from gankit.evaluation.metric import Measure
from gankit.evaluation.metric_context import DEFAULT_SIDE, MetricContext, Progress
from gankit.sampling.pipeline import Pipeline

FOLDER = (
    "evaluations"  # sub-folder of the run for JSON pages as of `gankit evaluate`, named by images trained
)
PSI = 1.0


class _Late(Exception):
    """The evaluation is aborted without a result; the message is the reason."""


@dataclass
class _Live:
    """A stand-in for `gankit.sampling.pipeline.Pipeline` over the run's current EMA weights (no copy)."""

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
    """A Progress that shows nothing but calls `look` as images get done, to check the time limit."""

    def __init__(self) -> None:
        super().__init__(False)
        self.look: Callable[[str], None] = lambda how_far: None

    def of(self, what: str, total: int) -> Callable[[int], None]:
        return lambda done: self.look(f"{done:,} of {total:,} {what}")


class Monitor:
    """Evaluates a run while it trains, in one process; the others wait for it at their next collective operation.

    Args:
        out: the run's folder.
        recipe: recipe with `evaluation.every` set.
        source: the data set.
        stepper: the run's stepper, whose EMA weights are measured.
        say: called with a line for the user.

    Raises GankitError if a metric cannot be measured: too few images, or a missing feature network.
    """

    def __init__(
        self, out: Path, recipe: Recipe, source: Source, stepper: Stepper, say: Callable[[str], None]
    ) -> None:
        self.out, self.recipe, self.source, self.stepper, self.say = out, recipe, source, stepper, say
        self.wish = recipe.evaluation
        self.keep, self.better = Retention.parse(recipe.train.keep), measured(recipe.evaluation)
        live: Any = _Live(recipe, stepper)  # has all attributes of a Pipeline that MetricContext uses
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
        """Measure the current EMA weights, log the numbers and write a page.

        Returns False, after a line to the user, if `want_stop` returns True, the time is up, a metric does not suit the
        model or memory runs out; after a warning, if a metric or feature network raises anything else."""
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
        advice = f"lower evaluation.batch = {self.wish.batch}, or choose a smaller evaluation.feature"
        try:
            with self._undisturbed(), self.stepper.meter.timed("eval"), devices.memory_advice(advice):
                results = self.session.measure()
        except (_Late, GankitError) as error:
            self.say(f"no evaluation at {nimg:,} images: {error}")
            return False
        except Exception as error:  # of metrics and feature networks, which only watch
            warnings.warn(f"no evaluation at {nimg:,} images: {raised(error)}", RuntimeWarning, stacklevel=2)
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
        """Numbers of images trained of the checkpoints to keep by the 'best:' entries of `train.keep`."""
        nimgs = {int(folder.name) for folder in folders.checkpoints(self.out)} | {self.stepper.nimg}
        chosen: set[int] = set()
        for count, wanted in self.keep.best:
            key = wanted or next(iter(self.better))
            ranked = [nimg for nimg in self._ranked(key) if nimg in nimgs]
            chosen.update(ranked[:count])
        return chosen

    def stalled(self, patience: int) -> bool:
        """True if the last `patience` evaluations of this stage did not improve the first number that is measured."""
        start = self.stepper.stage_start
        here = [n for n in self._ranked(next(iter(self.better))) if start < n <= self.stepper.nimg]
        return bool(here) and sum(n > here[0] for n in here) >= patience

    def _undisturbed(self) -> Any:
        """Context that restores torch's random generators afterwards, so that training is not affected."""
        devices = [self.stepper.device] if self.stepper.device.type == "cuda" else []
        return torch.random.fork_rng(devices)

    def _side(self, network: FeatureNetwork) -> int | None:
        """Side of the feature network's input: `evaluation.side`, else the images', at most the network's own.

        None for a network that resizes by itself. Raises GankitError if `evaluation.side` does not suit the network."""
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
        """Numbers of images trained of the pages that have the value `key`, best first; ties: the earlier first."""
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
