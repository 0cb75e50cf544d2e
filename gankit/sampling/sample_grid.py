"""Sample grids of a training run: the same latents and conditions each time, drawn with the EMA weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from gankit.core.config.recipe import Recipe
from gankit.core.data.contact_sheet import sheet
from gankit.core.data.images import BadImage, fit, to_uint8
from gankit.core.interfaces import contracts
from gankit.core.interfaces.conditions import Condition
from gankit.core.interfaces.data import Source
from gankit.core.training.step import Stepper

SAMPLE_IMAGES = 32  # images on a grid


class SampleGrid:
    """Draws grids with the same latents and conditions each time, so that the grids of a run can be compared."""

    def __init__(self, source: Source, stepper: Stepper, recipe: Recipe) -> None:
        self.stepper, self.recipe, self.source = stepper, recipe, source
        self.count = min(SAMPLE_IMAGES, len(source))
        # spread over the data, which may be sorted by class
        self.indices = [i * len(source) // self.count for i in range(self.count)]
        found = [source.label(i) for i in self.indices]
        self.labels = [replace(label, texts=label.texts[:1]) for label in found]
        z = np.random.RandomState(recipe.train.seed).randn(SAMPLE_IMAGES, stepper.parts.G.z_dim)
        self.z = torch.from_numpy(z[: self.count].astype(np.float32))

    def real(self) -> Image.Image:
        """Grid of the real images whose labels give the conditions; an unreadable one is black."""
        height, width = self.recipe.data.size
        tiles = []
        for index in self.indices:
            try:
                image = fit(
                    self.source.image(index), (height, width), self.recipe.data.fit, self.recipe.data.channels
                )
            except BadImage:
                image = np.zeros((height, width, self.recipe.data.channels), np.uint8)
            tiles.append(image)
        return sheet(tiles, columns=8)

    @torch.no_grad()
    def fake(self) -> Image.Image:
        """Grid drawn with the current EMA weights of G."""
        stepper, tiles = self.stepper, []
        micro = min(stepper.micro, 16)
        for start in range(0, self.count, micro):
            labels = self.labels[start : start + micro]
            cond: Condition = stepper.conditioner_ema.encode(labels)
            contracts.condition(stepper.conditioner_ema, cond, len(labels))
            images = stepper.G_ema(self.z[start : start + micro].to(stepper.device), cond, noise_mode="const")
            contracts.images(stepper.G_ema, images, len(labels))
            if not stepper.nimg:
                contracts.image_range(stepper.G_ema, images)
            tiles += list(to_uint8(images))
        return sheet(tiles, columns=8)
