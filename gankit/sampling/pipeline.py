"""`gankit.load` and Pipeline: sampling images by prompt, tags, class, other label fields and seed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from gankit.core.cuda import ConstantWeights
from gankit.core.data.contact_sheet import to_pil
from gankit.core.data.images import to_uint8
from gankit.core.interfaces import contracts
from gankit.core.interfaces.conditions import Condition
from gankit.core.interfaces.labels import COMMON, Label, listed, ordered, plain, words
from gankit.core.interfaces.networks import Generator
from gankit.core.models import build, model_folder
from gankit.core.models.model_folder import Model
from gankit.core.runtime import devices
from gankit.core.runtime.precision import check_dtype
from gankit.errors import GankitError, unknown
from gankit.interop.find_model import find_model
from gankit.sampling.engine_runner import EAGER, EngineRunner

CENTER_LATENTS = 1024  # number of latents over which the centre of truncation is averaged
CENTERS, NOISE_MODES = ("condition", "global"), ("const", "random", "none")
CENTER_CACHE = 256  # number of conditions whose centre is kept


@devices.isolated
def load(
    model: str | Path,
    *,
    device: str | torch.device = "auto",
    engine: str | Mapping[str, Any] = EAGER,
    dtype: str = "fp32",
) -> Pipeline:
    """Open a model for sampling.

    Args:
        model: a model folder, a run (its newest checkpoint is taken), a checkpoint, the name of a model that an
            installed package carries (such as 'avatars'), or a Hugging Face id 'owner/name'.
        device: 'auto', 'cpu', 'cuda' or 'mps'.
        engine: engine of synthesis: 'eager' (plain torch, no set-up), 'compile', 'openvino' or another plugin, or with
            options {'name': 'compile', 'mode': 'max-autotune'}; 'auto' measures all engines once for each architecture
            and batch size, and takes the one that finishes first.
        dtype: dtype of the synthesis network: 'fp32', or 'bf16' on devices that are faster in it. The mapping network,
            weights and images stay in fp32.

    Raises GankitError if the model, engine or dtype is unknown, the model is damaged or of another version, or the
        engine cannot run here or not in this dtype.
    """
    check_dtype(dtype)  # before a model is looked for, which may take a download
    return Pipeline(model_folder.load_model(find_model(model)), devices.pick_device(device), engine, dtype)


class Pipeline:
    """A model ready to sample.

    Attributes:
        generator: the generator with EMA weights, see `gankit.core.interfaces.networks.Generator`.
        conditioner: encodes labels into conditions, see `gankit.core.interfaces.conditions.Conditioner`.
        recipe: the recipe with which the model was trained: `name`, `description`, `data`, `conditioner`, `generator`;
            the whole page is `to_page()` or `to_yaml()`.
        engine: runs the synthesis, see `gankit.sampling.engine_runner.EngineRunner`.
    """

    def __init__(
        self,
        model: Model,
        device: torch.device,
        engine: str | Mapping[str, Any] = EAGER,
        dtype: str = "fp32",
    ) -> None:
        self.recipe, self.nimg, self.device = model.recipe, model.nimg, device
        self.conditioner = model.conditioner.to(device).eval().requires_grad_(False)
        self.generator: Generator = build.for_sampling(model.generator, device)
        self.generator.eval().requires_grad_(False)
        self._weights = ConstantWeights()
        spec = self.conditioner.spec
        identity = [self.recipe.generator, list(self.generator.image_shape), spec.c_dim, spec.token_dim]
        self.engine = EngineRunner(self.generator, device, engine, identity, dtype)
        self._centers: dict[bytes, torch.Tensor] = {}
        self._looked = False  # at the values of the first images

    # Long because every argument is explained, and checked before anything is drawn.
    def __call__(
        self,
        prompt: str | None = None,
        *,
        tags: Sequence[str] | Mapping[str, float] | None = None,
        cls: str | None = None,
        seeds: Sequence[int] | int = 0,
        psi: float = 1.0,
        center: Literal["condition", "global"] = "condition",
        noise_mode: Literal["const", "random", "none"] = "const",
        batch_size: int = 8,
        **fields: Any,
    ) -> list[Image.Image]:
        """Draw one image for each seed.

        Args:
            prompt: a text, for models conditioned on text.
            tags: tags, or tag -> weight in (0, 1].
            cls: name of a class.
            seeds: the same seed gives the same image whatever the batch size (within one grey level).
            psi: truncation: 1 is the full variety, smaller values are more typical, 0 is the mean image.
            center: centre of truncation: 'condition' is the mean under this condition, 'global' that of the network's
                family (often the mean over all conditions).
            noise_mode: 'const' uses the same per-pixel noise for all images, 'random' draws it anew, 'none' has none.
            batch_size: images at a time.
            fields: label fields of the model's own by name, such as box=[0.1, 0.2, 0.5, 0.6]; what it takes are
                `conditioner.accepts`, and examples of values `conditioner.examples()`.

        Raises GankitError for a prompt, tag, class or field that the model does not know or does not take.
        """
        seeds = list(seeds) if isinstance(seeds, Iterable) and not isinstance(seeds, str) else [seeds]
        for name, values in (("seeds", seeds), ("batch_size", [batch_size])):
            if not all(hasattr(value, "__index__") for value in values):
                raise GankitError(f"{name} = {values!r}: give whole numbers")
        if not hasattr(psi, "__float__") or not math.isfinite(psi):
            raise GankitError(f"psi = {psi!r}: give a number")
        for name, value, valid in (("center", center, CENTERS), ("noise_mode", noise_mode, NOISE_MODES)):
            if value not in valid:
                raise GankitError(unknown(name.replace("_", " "), str(value), valid))
        if batch_size < 1:
            raise GankitError(f"batch_size = {batch_size} must be at least 1")
        label = self.label(prompt, tags=tags, cls=cls, **fields)
        images = []
        with devices.settings(self.device), torch.no_grad(), self._weights.kept():
            cond = self.conditioner.encode([label])
            contracts.condition(self.conditioner, cond, 1)
            for start in range(0, len(seeds), batch_size):
                z = self.latents(seeds[start : start + batch_size])
                ws = self.mapping(z, cond, psi=psi, center=center)
                drawn = self.engine(
                    ws,
                    _repeat(cond, len(z)),
                    noise_mode,
                    batch=min(batch_size, len(seeds)),
                    images=len(seeds) - start,
                )
                if not self._looked:
                    self._looked = True
                    self._check_range(drawn)
                images += list(to_uint8(drawn))
        return [to_pil(image) for image in images]

    def _check_range(self, images: torch.Tensor) -> None:
        try:
            contracts.image_range(self.generator, images)
        except contracts.ContractError as error:
            warnings.warn(
                f"{error}; or has the training diverged? then take an earlier checkpoint", stacklevel=3
            )

    def latents(self, seeds: Sequence[int]) -> torch.Tensor:
        """z [len(seeds), z_dim]; seed s gives RandomState(s).randn(1, z_dim), as in the StyleGAN family."""
        for seed in seeds:
            if not 0 <= seed < 2**32:
                raise GankitError(f"seed {seed} is out of range; use 0 to {2**32 - 1}")
        rows = [np.random.RandomState(seed).randn(1, self.generator.z_dim) for seed in seeds]
        z = np.concatenate(rows) if rows else np.zeros((0, self.generator.z_dim))
        return torch.from_numpy(z.astype(np.float32)).to(self.device)

    def mapping(
        self, z: torch.Tensor, cond: Condition, *, psi: float = 1.0, center: str = "condition"
    ) -> torch.Tensor:
        """Truncated ws [B, num_ws, w_dim] for latents z [B, z_dim] under one condition (batch 1)."""
        rows = _repeat(cond, len(z))
        if psi == 1:
            return self.generator.mapping(z, rows)
        if center == "global":
            return self.generator.mapping(z, rows, truncation_psi=psi)
        return torch.lerp(self.center(cond), self.generator.mapping(z, rows), psi)

    def center(self, cond: Condition) -> torch.Tensor:
        """Mean of ws over CENTER_LATENTS latents under one condition (batch 1), [1, num_ws, w_dim]; cached."""
        key = b"".join(
            t.cpu().numpy().tobytes() for t in (cond.embedding, cond.tokens, cond.mask) if t is not None
        )
        if key not in self._centers:
            if len(self._centers) >= CENTER_CACHE:
                self._centers.pop(next(iter(self._centers)))
            latents = self.center_latents()
            ws = self.generator.mapping(latents, _repeat(cond, len(latents)))
            self._centers[key] = ws.mean(0, keepdim=True)
        return self._centers[key]

    def center_latents(self) -> torch.Tensor:
        """The fixed latents [CENTER_LATENTS, z_dim] over which the centre of truncation is averaged."""
        z = np.random.RandomState(0).randn(CENTER_LATENTS, self.generator.z_dim)
        return torch.from_numpy(z.astype(np.float32)).to(self.device)

    def label(
        self,
        prompt: str | None = None,
        *,
        tags: Sequence[str] | Mapping[str, float] | None = None,
        cls: str | None = None,
        **fields: Any,
    ) -> Label:
        """The Label of a request. Raises GankitError for fields that the model does not take and for bad values.

        A field that is None is left out."""
        takes = self.conditioner.accepts
        given = {"text": prompt, "tags": tags, "cls": cls}
        refused = [
            words(name).wish for name, value in given.items() if value is not None and name not in takes
        ]
        refused += [repr(name) for name in fields if name not in takes - COMMON.keys()]
        if refused:
            what = listed([words(name).wish for name in ordered(takes)], "or")
            raise GankitError(
                f"this model does not take {refused[0]}; "
                + (f"it takes {what}" if takes else "it is unconditional: give seeds only")
            )
        if isinstance(cls, int) and not isinstance(cls, bool):
            cls = str(cls)  # classes are known by name, also where names are numbers
        for argument, value in (("prompt", prompt), ("cls", cls)):
            if value is not None and not isinstance(value, str):
                raise GankitError(f"{argument} = {value!r} must be one text; call once for each of several")
        if tags is not None and not isinstance(tags, (str, Mapping, Sequence)):
            raise GankitError(f"tags = {tags!r} must be names, or a mapping from names to weights")
        if isinstance(tags, str):
            tags = [tag.strip() for tag in tags.split(",") if tag.strip()]
        weights = dict(tags) if isinstance(tags, Mapping) else dict.fromkeys(tags or (), 1.0)
        for tag, weight in weights.items():
            if not isinstance(tag, str):
                raise GankitError(f"the tag {tag!r} must be a text")
            if not isinstance(weight, (int, float)) or not 0 < weight <= 1:
                raise GankitError(f"the weight of tag {tag!r} must be above 0 and at most 1, not {weight!r}")
        for name, value in fields.items():
            try:
                fields[name] = plain(value)
            except ValueError as error:
                raise GankitError(f"{name!r} must be {error}") from None
        own = {name: value for name, value in fields.items() if value is not None}
        label = Label(cls, weights, (prompt,) if prompt is not None else (), own)
        self.conditioner.check(label)
        if ignored := self.conditioner.ignored(label):
            warnings.warn(
                f"too rare in the training data to have an effect: {', '.join(ignored)}", stacklevel=3
            )
        return label


def _repeat(cond: Condition, count: int) -> Condition:
    """Expand a condition of batch 1 to `count` rows."""
    return cond.map(lambda t: t.expand(count, *t.shape[1:]))
