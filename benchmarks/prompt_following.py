"""How well pictures follow their prompts: fresh samples of held-out attribute combinations, read by a classifier.

    python benchmarks/prompt_following.py MODEL [--count 1000] [--by text|tags|class] [--psi 1.0] [--sheet FILE.png]

For each attribute prints the share of pictures that show what was asked for, the classifier's own accuracy on real
avatars with the same attributes (its ceiling), and the quotient of the two.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch
from attribute_classifier import agreement

import gankit
from gankit.core.grids import save_png, sheet
from gankit.core.images import to_uint8
from gankit.core.labels import Label
from gankit_avatars.source import AvatarSource

HELD_OUT_SEED = 909  # never trained on: neither by the generator (seed 0) nor by the classifier (101, 202)


def wish(source: AvatarSource, index: int, by: str) -> Label:
    """What the model is told about an avatar."""
    label = source.label(index)
    if by == "text":
        return Label(texts=label.texts[:1])  # the full caption
    return Label(tags=label.tags) if by == "tags" else Label(cls=label.cls)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--by", choices=["text", "tags", "class"], default="text")
    parser.add_argument("--psi", type=float, default=1.0)
    parser.add_argument("--sheet", help="write the first 64 pictures to this PNG")
    arguments = parser.parse_args()

    pipe = gankit.load(arguments.model)
    source = AvatarSource("", count=arguments.count, seed=HELD_OUT_SEED, cache="off")
    wanted = [source.avatar(i) for i in range(arguments.count)]
    real = [source.image(i) for i in range(arguments.count)]
    drawn: list[np.ndarray] = []
    with torch.no_grad():
        for start in range(0, arguments.count, 25):
            rows = range(start, min(start + 25, arguments.count))
            cond = pipe.conditioner.encode([wish(source, i, arguments.by) for i in rows])
            z = pipe.latents([10_000 + i for i in rows])
            ws = pipe.generator.mapping(z, cond, truncation_psi=arguments.psi)
            drawn += list(to_uint8(pipe.generator.synthesis(ws, cond, noise_mode="const")))
    got, ceiling = agreement(np.stack(drawn), wanted), agreement(real, wanted)
    print(
        f"{arguments.model}, {pipe.nimg} images, by {arguments.by}, psi {arguments.psi}, {arguments.count} samples"
    )
    for name in got:
        print(
            f"{name:15} {got[name]:6.3f}   ceiling {ceiling[name]:6.3f}   fraction {got[name] / ceiling[name]:6.3f}"
        )
    print(json.dumps({name: round(got[name] / ceiling[name], 4) for name in got}))
    if arguments.sheet:
        pairs = [image for i in range(32) for image in (np.asarray(real[i]), drawn[i])]
        from pathlib import Path

        save_png(sheet(pairs, columns=16), Path(arguments.sheet))


if __name__ == "__main__":
    main()
