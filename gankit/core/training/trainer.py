"""The training loop: batch -> condition -> D step -> G step -> moving average -> log, samples, checkpoints."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import torch

from gankit.core.checkpoints import folders
from gankit.core.config import compatibility
from gankit.core.config import recipe as recipes
from gankit.core.config.recipe import Recipe
from gankit.core.config.retention import Retention
from gankit.core.cuda.dispatch import backends_in_use
from gankit.core.data.contact_sheet import save_png
from gankit.core.data.images import from_uint8
from gankit.core.data.loader import Batches, open_source
from gankit.core.interfaces import contracts
from gankit.core.models import build, model_folder, warm_start
from gankit.core.runtime import devices, distributed, hardware, tensor_files
from gankit.core.runtime.paths import cache_dir
from gankit.core.runtime.progress import Progress
from gankit.core.training import carry_over, journal, run_folder
from gankit.core.training.assembly import build_parts, check_labels, check_stages
from gankit.core.training.attachments import Attachments, Observer
from gankit.core.training.phases import Parts
from gankit.core.training.step import Stepper
from gankit.core.training.trackers import Trackers
from gankit.errors import GankitError

LOCK = ".lock"  # in the run's folder, held by the process that trains there


class Trainer:
    """A run in progress. Use as a context manager; `run` trains to the end."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        attachments: Attachments,
        *,
        device: str = "auto",
        init: str | Path | None = None,
        minutes: float | None = None,
        quiet: bool = False,
    ) -> None:
        self.whole, self.out, self.attachments, self.init = recipe, out, attachments, init
        self.stage, self.recipe = 0, recipe.at_stage(0)  # what is trained now
        self.stage_over = False
        self.deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self.world = distributed.world_from_env()
        self.device = devices.pick_device(device, self.world.local_rank)
        batches = [recipe.at_stage(stage).train.batch for stage in range(len(recipe.stages) or 1)]
        for batch in batches:
            if batch % self.world.size == 0:
                continue
            raise GankitError(
                f"train.batch = {batch} cannot be shared by {self.world.size} processes; "
                f"use a multiple of {self.world.size}"
            )
        distributed.start(self.world, self.device)
        self.progress = Progress(self.world.main and not quiet)
        self._lock = filelock.FileLock(out / LOCK, timeout=0)
        self.batches: Batches | None = None
        self.observer: Observer | None = None
        self.trackers = Trackers()
        self.stop_signal = 0
        self._machine: dict[str, Any] = {}  # goes into the first line that this process logs

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *_: object) -> None:
        if self.batches is not None:
            self.batches.close()
        self.trackers.send("close")
        self.progress.close()
        self._lock.release()
        distributed.stop()

    # ------------------------------------------------------------------------------------------------ set-up

    def set_up(self) -> None:
        """Build everything and restore the newest checkpoint if there is one."""
        if self.world.main:
            self._claim_folder()
        distributed.barrier()
        found = folders.checkpoints(self.out)
        distributed.same_everywhere(found[-1].name if found else "", "the checkpoint to continue from")
        self.stage, self.stage_over = run_folder.stage_of(found[-1]) if found else (0, False)
        recipe = self.recipe = self.whole.at_stage(self.stage)
        if recipe.data.path is None:
            raise GankitError(
                "no data: give --data PATH (a folder, zip or shards of images) or --data 'source:'"
            )
        self.op_backends = backends_in_use(self.device)
        self.source = open_source(recipe.data.path, recipe.data.options, recipe.packages)
        fingerprint = self.source.fingerprint()
        contracts.fingerprint(self.source, fingerprint)
        distributed.same_everywhere(fingerprint, "the data set")
        self.vocabulary = model_folder.read_vocabulary(found[-1]) if found else self.source.vocabulary()
        check_stages(self.whole, self.vocabulary, self.stage)
        self.stepper = self._build(init=self.init is not None and not found)
        conditioner = self.stepper.parts.conditioner
        fields = check_labels(self.source, conditioner)
        distributed.same_everywhere(fields, "the labels of the data set")
        if not found:
            hints = (
                compatibility.unused_labels(self.vocabulary, conditioner),
                compatibility.advice(self.whole),
            )
            for hint in filter(None, hints):
                self.progress.say(hint)
        self.ties = run_folder.ties(fingerprint, fields, self.stepper)
        if found:
            before = run_folder.restore(found[-1], recipe, self.stepper, self.ties)
            self._note_backends(before)
            self.progress.say(f"continuing {self.out} at {self.stepper.nimg / 1000:g} kimg")
        if self.world.main:
            self.trackers.build(recipe.trackers, self.out)
            for tracker in self.attachments.trackers:
                self.trackers.add(tracker)
            self._trim_log()
            self._machine = hardware.facts(self.device, self.world, self.stepper.bf16)
            self._machine["op_backends"] = _listed(self.op_backends)
        self._open_data()

    def _build(self, *, init: bool = False) -> Stepper:
        """The stepper of this stage, with initial weights or, if `init`, those of the model that `--init` names."""
        recipe = self.recipe
        conditioner = build.build_conditioner(recipe, self.vocabulary)
        conditioner.prepare(cache_dir("text"), self.device)
        parts = build_parts(recipe, conditioner, self.device)
        if init:
            self._start_from(parts)
        precision = recipe.train.precision
        bf16 = precision == "bf16" or (precision == "auto" and devices.has_fast_bf16(self.device))
        if bf16 and not devices.multiplies(torch.bfloat16, self.device):
            self.progress.say(
                "train.precision = 'bf16': this CPU has no products in bf16, so training is in fp32, which is faster"
            )
            bf16 = False
        return Stepper(parts, recipe, self.device, self.world, bf16)

    def _open_data(self) -> None:
        """Open the batches, sample grids and evaluations of this stage."""
        recipe = self.recipe
        if self.world.main and recipe.evaluation.every is not None:
            make = self.attachments.observer
            self.observer = make(self.out, recipe, self.source, self.stepper, self.progress.say)
        if self.batches is not None:
            self.batches.close()
        self._sheets = self.attachments.sample_sheets(self.source, self.stepper, recipe)
        self.batches = Batches(
            self.source,
            size=recipe.data.size,
            channels=recipe.data.channels,
            fit=recipe.data.fit,
            mirror=recipe.data.mirror,
            mirror_label=self.stepper.parts.conditioner.mirror,
            fields=self.stepper.parts.conditioner.accepts,
            batch=recipe.train.batch,
            seed=recipe.train.seed,
            rank=self.world.rank,
            world=self.world.size,
            workers=recipe.train.workers,
            start_image=self.stepper.nimg,
        )

    def _next_stage(self) -> None:
        """Build the networks of the next stage and carry over what this one has learned."""
        before, old = self.recipe, self.stepper
        self.stage, self.stage_over = self.stage + 1, False
        self.recipe = self.whole.at_stage(self.stage)
        self.progress.say(f"stage {self.stage + 1} of {len(self.whole.stages)} at {old.nimg / 1000:g} kimg")
        self.stepper = self._build()
        restart = self.whole.stages[self.stage].get("restart", [])
        for line in carry_over.carry(old, self.stepper, before, self.recipe, restart):
            self.progress.say(f"  {line}")
        fields = check_labels(self.source, self.stepper.parts.conditioner)
        self.ties = run_folder.ties(self.ties["data"], fields, self.stepper)
        self._open_data()
        if self.world.main and before.data.size != self.recipe.data.size:
            save_png(self._sheets.real(), self.out / "samples" / "real.png")

    def _claim_folder(self) -> None:
        """Refuse to mix two runs in a folder, or two processes in a run; write the resolved recipe of a new one."""
        page = self.out / "recipe.yaml"
        with tensor_files.write_advice(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
            if not page.is_file() and any(entry.name != LOCK for entry in self.out.iterdir()):
                raise GankitError(f"{self.out} is not empty and holds no run; choose another --out")
            try:
                self._lock.acquire()
            except filelock.Timeout:
                raise GankitError(
                    f"another process is training in {self.out}; wait until it has ended, or choose another --out"
                ) from None
            except NotImplementedError:  # some network file systems have no locks
                self.progress.say(
                    f"{self.out} cannot be locked; take care that no other process trains there"
                )
            if not page.is_file():
                tensor_files.write_text(page, self.whole.to_yaml())
                return
        differences = recipes.read(str(page)).differences(self.whole)
        if differences and not folders.checkpoints(
            self.out
        ):  # it ended before there was anything to continue
            tensor_files.write_text(page, self.whole.to_yaml())
        elif differences:
            more = f"; and {len(differences) - 8} more" if len(differences) > 8 else ""
            raise GankitError(
                f"{self.out} holds a run of another recipe; choose another --out, or undo these changes: "
                + "; ".join(differences[:8])
                + more
            )

    def _start_from(self, parts: Parts) -> None:
        assert self.init is not None
        folder = self.attachments.find_model(self.init)
        for line in warm_start.start_from(
            self.init, folder, self.recipe, parts.conditioner, parts.G, parts.D
        ):
            self.progress.say(line)

    def _note_backends(self, before: dict[str, str] | None) -> None:
        """Tell the user and the journal if other op backends compute from here on: numbers are no longer equal bit for
        bit to those of an uninterrupted run."""
        if not self.world.main or before is None or before == self.op_backends:
            return
        journal.note(self.out, self.stepper.nimg, "op_backends", before, self.op_backends)
        self.progress.say(
            f"operators were computed by {_listed(before)} until here, now by {_listed(self.op_backends)}: "
            "results may differ slightly"
        )

    def _trim_log(self) -> None:
        """Drop log lines that the interrupted run wrote after its last checkpoint; they will be written again."""
        path = self.out / "log.jsonl"
        if path.is_file():
            lines = []
            for line in path.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError):
                    if json.loads(line)["nimg"] <= self.stepper.nimg:
                        lines.append(line + "\n")
            tensor_files.write_text(path, "".join(lines))

    # ------------------------------------------------------------------------------------------------- the loop

    def run(self) -> Path:
        """Train to `train.images`, the deadline or a signal; returns the last checkpoint."""
        micro = self.recipe.train.micro_batch or self.recipe.train.batch
        advice = (
            f"try --micro-batch {max(micro // 2, 1)} (same result, less memory), a smaller --size, "
            "--set generator.channel_base=N, or a smaller discriminator side"
        )
        with devices.memory_advice(advice):
            self.set_up()
            self.progress.start(self.stepper.nimg, self.whole.train.images, self.deadline)
            with self._signals():
                last, stopped = self._loop()
                while not stopped and self.stepper.nimg < self.whole.train.images:
                    self._next_stage()
                    last, stopped = self._loop()
                return last

    # Long because a pass does in order what hangs together: a step, measuring, the log, checkpoint, snapshots, samples.
    def _loop(self) -> tuple[Path, bool]:
        """Train to the end of the stage; returns the last checkpoint, and True if a process is to stop."""
        train, stepper = self.recipe.train, self.stepper
        until = self.whole.stages[self.stage].get("until") if self.whole.stages else None
        keep = Retention.parse(train.keep)
        assert self.batches is not None
        last = None
        if stepper.nimg == 0:
            self._write_samples(real=True)
        tick_start, tick_nimg, waited = time.perf_counter(), stepper.nimg, self.batches.wait_s
        over = self.stage_over
        stop, done = False, over or stepper.nimg >= train.images
        stream = iter(self.batches)
        while not (stop or done):
            batch = next(stream)
            for name, reason in batch.skipped:
                self.progress.say(f"skipped {name}: {reason}")
            images = from_uint8(batch.images.to(self.device, memory_format=torch.channels_last))
            stop = stepper.run(images, batch.labels, want_stop=self._wants_stop)
            if stepper.bad_in_a_row >= train.max_bad_steps:
                raise GankitError(
                    f"the gradients of {train.max_bad_steps} steps in a row were not finite; the last good checkpoint "
                    f"is {last or self._newest() or 'none yet'}: start a new run with --init from it, or a fresh one, "
                    "with lower train.lr_g and train.lr_d"
                )
            over = until is not None and stepper.nimg >= until
            done = over or stepper.nimg >= train.images
            self.progress.advance(stepper.nimg)
            measured, stalled = (False, False) if stop else self._evaluate(done)
            over, done = over or stalled, done or stalled
            if crossed(stepper.nimg, train.batch, train.tick) or stop or done:
                now = time.perf_counter()
                seconds, images_done = now - tick_start, stepper.nimg - tick_nimg
                self._tick(seconds, images_done, self.batches.wait_s - waited)
                tick_start, tick_nimg, waited = now, stepper.nimg, self.batches.wait_s
            due = crossed(stepper.nimg, train.batch, train.checkpoint_every) or (measured and bool(keep.best))
            # while gradients are bad the weights may be, too: good checkpoints must not be pushed out by such
            if (due and not stepper.bad_in_a_row) or stop or done:
                spared = self.observer.best_checkpoints() if self.observer is not None else ()
                last = run_folder.save_checkpoint(
                    self.out,
                    self.recipe,
                    stepper,
                    self.ties,
                    self.op_backends,
                    keep.last,
                    spared,
                    stage=self.stage,
                    stage_over=over,
                )
                self.trackers.send("on_checkpoint", stepper.nimg, last)
            every = train.posthoc_every or max(train.images // 50, 1)
            if train.posthoc_ema and (crossed(stepper.nimg, train.batch, every) or done):
                run_folder.save_snapshots(self.out, self.recipe, stepper, self.ties)
            if crossed(stepper.nimg, train.batch, train.samples_every) or stop or done:
                self._write_samples()
        newest = last or self._newest()
        assert newest is not None
        return newest, stop

    def _evaluate(self, done: bool) -> tuple[bool, bool]:
        """Measure if it is time to. Returns True if that was done, and True if the stage ends because nothing improves
        any more; the same in every process."""
        every, stepper = self.recipe.evaluation.every, self.stepper
        if every is None or stepper.bad_in_a_row:
            return False, False
        if not (crossed(stepper.nimg, self.recipe.train.batch, every) or done):
            return False, False
        measured = self.observer is not None and self.observer.evaluate(self._wants_stop)
        patience = self.whole.stages[self.stage].get("patience") if self.whole.stages else None
        stalled = (
            measured
            and patience is not None
            and self.observer is not None
            and self.observer.stalled(patience)
        )
        if self.world.size > 1:
            told = torch.tensor([float(measured), float(stalled)], dtype=torch.float64)
            distributed.all_sum(told)
            measured, stalled = (bool(value > 0) for value in told)
        return measured, stalled

    def _wants_stop(self) -> bool:
        late = self.deadline is not None and time.monotonic() > self.deadline
        return late or bool(self.stop_signal) or self.trackers.stop

    def _newest(self) -> Path | None:
        found = folders.checkpoints(self.out)
        return found[-1] if found else None

    def _tick(self, seconds: float, images: int, waited: float) -> None:
        meter = self.stepper.meter
        scalars = meter.means()
        scalars["speed/images_per_s"] = images / seconds
        scalars["time/data"] = waited / seconds
        for name, spent in meter.seconds.items():
            scalars[f"time/{name}"] = spent / seconds
        if self.stepper.parts.augmentation is not None:
            scalars.update({f"augment/{k}": v for k, v in self.stepper.parts.augmentation.scalars().items()})
        scalars["bad_steps"] = self.stepper.bad_total
        meter.reset()
        if not self.world.main:
            return
        line: dict[str, Any] = {"nimg": self.stepper.nimg, "time": round(time.time(), 1)}
        for name, value in sorted(scalars.items()):
            line[name] = float(f"{value:.5g}") if math.isfinite(value) else None
        if self._machine:
            line["machine"], self._machine = self._machine, {}
        with tensor_files.write_advice(self.out), open(self.out / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.progress.tick(self.stepper.nimg, scalars)
        self.trackers.send("on_tick", self.stepper.nimg, scalars)

    def _write_samples(self, *, real: bool = False) -> None:
        if not self.world.main:
            return
        if real:
            save_png(self._sheets.real(), self.out / "samples" / "real.png")
        path = self.out / "samples" / f"{self.stepper.nimg:09d}.png"
        save_png(self._sheets.fake(), path)
        self.trackers.send("on_images", self.stepper.nimg, "samples", path)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """The first Ctrl-C or SIGTERM finishes the step and saves; a second Ctrl-C stops at once."""

        def request(number: int, _: Any) -> None:
            if self.stop_signal and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.stop_signal = number
            self.progress.say("stopping after this step; a checkpoint will be written")

        try:
            found = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not None]
            old = {n: signal.signal(n, request) for n in found}  # without those that Python could not restore
        except ValueError:  # not the main thread: the host program owns the signals
            old = {}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


def crossed(nimg: int, batch: int, every: int) -> bool:
    """True if the step of `batch` images that led to `nimg` passed a multiple of `every`."""
    return nimg // every != (nimg - batch) // every


def _listed(backends: dict[str, str]) -> str:
    """'cpu (gankit-cpu 0.1.0)' of {'cpu': 'gankit-cpu 0.1.0'}."""
    return ", ".join(f"{name} ({version})" for name, version in backends.items())
