"""Sampling with engines: set-up for each batch size, fallback to torch, and choice of the fastest engine.

`auto` measures every engine that can run, once for each network architecture, batch size and machine, and stores the
times in the cache folder `engines`. Each request is then drawn by the engine that is estimated to finish first, set-up
included.
"""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from gankit._version import __version__
from gankit.core.config import options
from gankit.core.config.registry import registry
from gankit.core.interfaces import contracts
from gankit.core.interfaces.conditions import Condition
from gankit.core.interfaces.networks import Generator
from gankit.core.runtime import tensor_files
from gankit.core.runtime.devices import multiplies
from gankit.core.runtime.paths import cache_dir
from gankit.core.runtime.precision import check_dtype
from gankit.errors import GankitError
from gankit.sampling.engine import Engine
from gankit.sampling.graphs import SynthesisGraph, noise_numbers, synthesize

EAGER, AUTO = "eager", "auto"
TOLERANCE = 1 / 127.5  # one grey level, for images in [-1, 1]
# In bf16, engines round at other places than torch. Their PSNR against fp32 must be at least SIMILAR, or at most SLACK
# below that of torch's bf16 images.
SIMILAR, SLACK = 40.0, 3.0  # dB (peak 2) beside fp32
ALIKE = 20.0  # dB (peak 2) below which an image is another one, not the same by other roundings
REPEATS = 3  # runs of a measurement; the fastest counts
Draw = Callable[[Mapping[str, Tensor]], Tensor]


class EngineRunner:
    """Runs a generator's synthesis with an engine.

    Args:
        generator: generator in eval mode, on `device`.
        device: the generator's device.
        spec: engine spec, 'name' or {'name': ..., option: value}; or 'auto'.
        identity: JSON value that is equal for networks of equal speed, a key of stored measurements of `auto`; None
            stores none.
        dtype: dtype of the synthesis network, 'fp32' or 'bf16'; ws and images are float32 in any case. On a CPU without
            bf16 matrix products, only gankit's own kernels compute in bf16.

    Raises GankitError for an unknown engine or dtype, and for an engine that cannot run here or not in this dtype.

    Attributes:
        used: names of the engines that have drawn since the caller last cleared it.
        say: called with a sentence before a long operation.
    """

    def __init__(
        self,
        generator: Generator,
        device: torch.device,
        spec: Any = EAGER,
        identity: Any = None,
        dtype: str = "fp32",
    ) -> None:
        self.generator, self.device, self.identity = generator, device, identity
        self.dtype = check_dtype(dtype)
        self._multiplies = multiplies(torch.bfloat16, device)
        self.used: set[str] = set()
        self.say: Callable[[str], None] = lambda text: None
        self._prepared: dict[tuple[str, int, str], Draw] = {}
        self._failed: set[str] = set()
        self._compared: set[str] = set()
        self._times: dict[tuple[int, str], dict[str, dict[str, float]]] = {}
        self._numbers: int | None = None
        self._engines: dict[str, Engine] = {}
        self.name, given = options.split_spec("engine", spec, "engine")
        if self.name == AUTO:
            if given:
                raise GankitError(
                    f"engine {AUTO!r} has no options, but is given {', '.join(map(str, given))}"
                )
            for name in sorted(registry().names("engine"), key=lambda n: n != EAGER):
                engine: Engine = options.build("engine", name)
                engine.dtype = dtype
                if dtype in engine.dtypes and engine.obstacle(device) is None:
                    self._engines[name] = engine
            return
        registry().get("engine", self.name, also=[AUTO])
        engine = options.build("engine", spec)
        engine.dtype = dtype
        if dtype not in engine.dtypes:
            raise GankitError(
                f"engine {self.name!r} draws in {' or '.join(engine.dtypes)} only, not in {dtype}; choose that dtype, "
                f"or the engine {EAGER!r}"
            )
        if reason := engine.obstacle(device):
            raise GankitError(f"engine {self.name!r} cannot run here: {reason}")
        self._engines[self.name] = engine

    def __call__(
        self, ws: Tensor, cond: Condition, noise_mode: str, *, batch: int | None = None, images: int = 1
    ) -> Tensor:
        """Draw images [B, C, H, W], float32 in [-1, 1].

        Args:
            ws: [B, num_ws, w_dim], float32.
            cond: condition of the images.
            noise_mode: 'const', 'random' or 'none'.
            batch: batch size of the request, at least B; its last batch may be smaller. None is B.
            images: number of images left to draw, including these; `auto` weighs set-up time against it.
        """
        batch = batch or len(ws)
        name = self._choose(ws, cond, noise_mode, batch, images) if self.name == AUTO else self.name
        if name != EAGER and name not in self._failed and len(ws):
            try:
                drawn = self._draw(name, ws, cond, noise_mode, batch)
                if self.name != AUTO and noise_mode != "random" and name not in self._compared:
                    self._compared.add(name)  # `auto` has compared all images, and more strictly
                    expected = self._plain(ws[-1:], cond[-1:], noise_mode).clamp(-1, 1)
                    if (alike := _decibels(drawn[-1:].clamp(-1, 1), expected)) < ALIKE:
                        raise ValueError(
                            f"its images are not those of the model, but {alike:.1f} dB from them"
                        )
            except Exception as error:  # compilers and runtimes may raise anything
                self._give_up(name, error)
            else:
                self.used.add(name)
                return drawn
        self.used.add(EAGER)
        return self._plain(ws, cond, noise_mode)

    def _plain(self, ws: Tensor, cond: Condition, noise_mode: str) -> Tensor:
        dtype = self.dtype if self._multiplies or self.generator.follows_ws else "fp32"
        drawn = synthesize(self.generator, ws, cond, noise_mode, dtype)
        contracts.drawn(self.generator, drawn, (len(ws), *self.generator.image_shape))
        return drawn

    # ------------------------------------------------------------------------------------------- one engine

    def _draw(self, name: str, ws: Tensor, cond: Condition, noise_mode: str, batch: int) -> Tensor:
        engine, count = self._engines[name], len(ws)
        if engine.fixed_batch and count < batch:
            ws, cond = _fill(ws, batch), cond.map(lambda t: _fill(t, batch))
        inputs = self._inputs(engine, ws, cond, noise_mode)
        key = (name, batch if engine.fixed_batch else 0, noise_mode)
        if key not in self._prepared:
            noise = "input" if "noise" in inputs else noise_mode
            dtype = "fp32" if engine.casts or not self._multiplies else self.dtype
            graph = SynthesisGraph(self.generator, noise, dtype).eval()  # type: ignore[arg-type]
            self._prepared[key] = engine.prepare(graph, inputs)
        drawn = self._prepared[key](inputs)
        contracts.drawn(engine, drawn, (len(ws), *self.generator.image_shape))
        return drawn[:count]

    def _inputs(self, engine: Engine, ws: Tensor, cond: Condition, noise_mode: str) -> dict[str, Tensor]:
        given = {"ws": ws, "c": cond.embedding, "tokens": cond.tokens, "mask": cond.mask}
        if noise_mode == "random" and not engine.draws_noise:
            if self._numbers is None:
                self._numbers = noise_numbers(self.generator, ws, cond)
            if self._numbers:
                given["noise"] = torch.randn(len(ws), self._numbers, device=ws.device)
        return {key: tensor for key, tensor in given.items() if tensor is not None}

    def _give_up(self, name: str, error: Exception) -> None:
        self._failed.add(name)
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        warnings.warn(
            f"engine {name!r} failed ({reason}); torch draws without it, slower but the same images",
            RuntimeWarning,
            stacklevel=4,
        )

    # ------------------------------------------------------------------------------------------------- auto

    def _choose(self, ws: Tensor, cond: Condition, noise_mode: str, batch: int, images: int) -> str:
        times = self._times.get((batch, noise_mode))
        if times is None and not len(ws):
            return EAGER
        if times is None:
            times = self._remembered(batch, noise_mode)
            if times is None:
                times = self._measure(_fill(ws, batch), cond.map(lambda t: _fill(t, batch)), noise_mode)
                self._remember(batch, noise_mode, times)
            self._times[batch, noise_mode] = times
        ready = {key[0] for key in self._prepared if key[1] in (0, batch) and key[2] == noise_mode}

        def seconds(name: str) -> float:
            setup = 0.0 if name in ready else times[name]["setup"]
            return setup + -(-images // batch) * times[name]["batch"]

        return min(
            (name for name in times if name in self._engines and name not in self._failed), key=seconds
        )

    def _measure(self, ws: Tensor, cond: Condition, noise_mode: str) -> dict[str, dict[str, float]]:
        """Engine -> seconds of 'setup', as in a new process, and of a 'batch'.

        Engines that fail or whose images differ from torch's are left out, with a warning."""
        others = [name for name in self._engines if name != EAGER]
        if others:
            self.say(
                f"measuring the engines {', '.join(self._engines)} for this model at batch size {len(ws)}; this may "
                "take minutes, and is done once"
            )
        compared = "const" if noise_mode == "random" else noise_mode
        expected = synthesize(self.generator, ws, cond, compared).clamp(-1, 1)
        torchs = self._plain(ws, cond, compared).clamp(-1, 1) if self.dtype != "fp32" else expected
        plain = _fastest(lambda: self._plain(ws, cond, noise_mode), self.device)
        times = {EAGER: {"setup": 0.0, "batch": plain}}
        for name in others:
            try:
                drawn = self._draw(name, ws, cond, compared, len(ws)).clamp(-1, 1)
                if reason := self._difference(drawn, expected, torchs):
                    raise ValueError(reason)
                self._engines[
                    name
                ].forget()  # measure the set-up of later processes, which find files of the first one
                self._prepared = {key: draw for key, draw in self._prepared.items() if key[0] != name}
                draw = functools.partial(self._draw, name, ws, cond, noise_mode, len(ws))
                setup = _seconds(draw, self.device)
                one = _fastest(draw, self.device)
            except Exception as failure:
                self._give_up(name, failure)
                continue
            times[name] = {"setup": max(setup - one, 0.0), "batch": one}
        return times

    def _difference(self, drawn: Tensor, expected: Tensor, torchs: Tensor) -> str:
        """Reason why an engine's images are not accepted, or ''.

        Args:
            drawn: images of the engine, in [-1, 1].
            expected: torch's images in fp32.
            torchs: torch's images in this runner's dtype.
        """
        if self.dtype == "fp32":
            error = (drawn - expected).abs().max().item()
            return "" if error <= TOLERANCE else f"its images are off by {error * 127.5:.3g} grey levels"
        similarity, usual = _decibels(drawn, expected), _decibels(torchs, expected)
        if similarity >= min(SIMILAR, usual - SLACK):
            return ""
        return f"its {self.dtype} images are {similarity:.1f} dB from fp32, those of torch {usual:.1f} dB"

    def _page(self, batch: int, noise_mode: str) -> dict[str, Any] | None:
        """Everything on which the measured times depend, the key of the stored times; None without an `identity`."""
        if self.identity is None:
            return None
        device = (
            torch.cuda.get_device_name(self.device)
            if self.device.type == "cuda"
            else f"{self.device.type} {platform.machine()} {platform.node()} {torch.get_num_threads()} threads"
        )
        engines = {name: registry().get("engine", name).version for name in self._engines}
        versions = {"gankit": __version__, "torch": torch.__version__, **engines}
        return {
            "network": self.identity, "batch": batch, "noise": noise_mode, "dtype": self.dtype, "device": device,
            "versions": versions,
        }  # fmt: skip

    def _remembered(self, batch: int, noise_mode: str) -> dict[str, dict[str, float]] | None:
        page = self._page(batch, noise_mode)
        if page is None:
            return None
        try:
            times = json.loads((cache_dir("engines") / _file(page)).read_text(encoding="utf-8"))["seconds"]
            return {name: {key: float(times[name][key]) for key in ("setup", "batch")} for name in times}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def _remember(self, batch: int, noise_mode: str, times: dict[str, dict[str, float]]) -> None:
        page = self._page(batch, noise_mode)
        if page is None:
            return
        try:
            folder = cache_dir("engines")
            folder.mkdir(parents=True, exist_ok=True)
            tensor_files.write_text(folder / _file(page), json.dumps({**page, "seconds": times}, indent=1))
        except (OSError, GankitError) as error:
            warnings.warn(f"what was measured cannot be kept: {error}", stacklevel=2)


def _file(page: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(page, sort_keys=True).encode()).hexdigest()[:24] + ".json"


def _fill(t: Tensor, count: int) -> Tensor:
    """Pad a tensor to `count` rows by repeating its last row."""
    return t if len(t) >= count else torch.cat([t, t[-1:].expand(count - len(t), *t.shape[1:])])


def _decibels(images: Tensor, expected: Tensor) -> float:
    """PSNR in dB of images in [-1, 1]; infinite if they are equal."""
    return 10 * torch.log10(4 / (images.double() - expected.double()).square().mean()).item()


def _seconds(run: Callable[[], Any], device: torch.device) -> float:
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _fastest(run: Callable[[], Any], device: torch.device) -> float:
    return min(_seconds(run, device) for _ in range(REPEATS))
