"""How images enter feature networks: resizing, transparency."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from gankit.evaluation.backbone import on_white, resize


def test_resizing_is_pillows_bicubic() -> None:
    rng = np.random.default_rng(0)
    for size in ((40, 24), (9, 17)):
        channel = rng.random(size).astype(np.float32)
        expected = np.asarray(Image.fromarray(channel).resize((16, 16), Image.Resampling.BICUBIC))
        actual = resize(torch.from_numpy(channel)[None, None], 16)[0, 0].numpy()
        assert abs(actual - expected).max() < 1e-5


def test_transparent_parts_become_white() -> None:
    rgba = torch.tensor([200, 100, 0, 0, 200, 100, 0, 255, 200, 100, 0, 51], dtype=torch.uint8).view(
        3, 4, 1, 1
    )
    assert on_white(rgba).flatten(1).tolist() == [[255, 255, 255], [200, 100, 0], [244, 224, 204]]
    grey = torch.tensor([[[[7]]]], dtype=torch.uint8)
    assert on_white(grey).flatten().tolist() == [7, 7, 7]
