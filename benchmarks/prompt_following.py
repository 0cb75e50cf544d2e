"""Prompt following of a model: attributes of samples for held-out avatars, predicted by a classifier.

    python benchmarks/prompt_following.py MODEL [--count 1000] [--by text|tags|class] [--psi 1.0] [--sheet FILE.png]
        [--report RUN]

For each attribute prints the share of pictures predicted as requested, the classifier's accuracy on real avatars with
the same attributes (the ceiling), and the ratio of the two. With --report the numbers and example pictures go into the
run's folder, where `gankit report` finds them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attribute_classifier import HIDDEN, agreement, judge, truth
from PIL import Image

import gankit
from gankit.core.data.contact_sheet import save_png, sheet
from gankit.core.data.images import to_uint8
from gankit.core.interfaces.labels import Label
from gankit_avatars.attributes import Avatar
from gankit_avatars.source import AvatarSource

HELD_OUT_SEED = 909  # never trained on: neither by the generator (seed 0) nor by the classifier (101, 202)
JUDGE = "a CNN trained on other avatars (benchmarks/attribute_classifier.py)"
EXAMPLES = 6  # of each attribute, half of them wrong where there are as many


def wish(source: AvatarSource, index: int, by: str) -> Label:
    """The label of an avatar as the model is given it, by 'text', 'tags' or 'class'."""
    label = source.label(index)
    if by == "text":
        return Label(texts=label.texts[:1])  # the full caption
    return Label(tags=label.tags) if by == "tags" else Label(cls=label.cls)


@torch.no_grad()
def draw(pipe: Any, source: AvatarSource, by: str, psi: float) -> np.ndarray:
    """Draw a picture for each avatar of a source, uint8 [N, H, W, 3]."""
    drawn: list[np.ndarray] = []
    for start in range(0, len(source), 25):
        rows = range(start, min(start + 25, len(source)))
        cond = pipe.conditioner.encode([wish(source, i, by) for i in rows])
        z = pipe.latents([10_000 + i for i in rows])
        ws = pipe.generator.mapping(z, cond, truncation_psi=psi)
        drawn += list(to_uint8(pipe.generator.synthesis(ws, cond, noise_mode="const")))
    return np.stack(drawn)


def conditioning(
    page: Path, drawn: np.ndarray, wanted: Sequence[Avatar], ceiling: dict[str, float], by: str
) -> dict[str, Any]:
    """The entry of `page`, a JSON file, that `gankit report` shows as a table; writes example pictures beside it."""
    got, answers, right = agreement(drawn, wanted), judge(drawn), [truth(avatar) for avatar in wanted]
    examples: dict[str, list[dict[str, str]]] = {}
    for name in got:
        shown = [i for i, answer in enumerate(right) if answer[name] != HIDDEN]
        wrong = [i for i in shown if answers[name][i] != right[i][name]][: EXAMPLES // 2]
        good = [i for i in shown if answers[name][i] == right[i][name]][: EXAMPLES - len(wrong)]
        examples[name] = []
        for i in [*good, *wrong]:
            image = f"{page.stem}/{name}-{i}.png"
            save_png(Image.fromarray(drawn[i]), page.parent / image)
            examples[name].append({"image": image, "asked": right[i][name], "seen": answers[name][i]})
    return {
        "by": by,
        "images": len(drawn),
        "judge": JUDGE,
        "attributes": {name: {"accuracy": got[name], "ceiling": ceiling[name]} for name in got},
        "examples": examples,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--by", choices=["text", "tags", "class"], default="text")
    parser.add_argument("--psi", type=float, default=1.0)
    parser.add_argument("--sheet", help="write the first 64 pictures to this PNG")
    parser.add_argument(
        "--report", type=Path, help="folder of a run that is to show the numbers in its report"
    )
    arguments = parser.parse_args()

    pipe = gankit.load(arguments.model)
    source = AvatarSource("", count=arguments.count, seed=HELD_OUT_SEED, cache="off")
    wanted = [source.avatar(i) for i in range(arguments.count)]
    real = [source.image(i) for i in range(arguments.count)]
    drawn = draw(pipe, source, arguments.by, arguments.psi)
    got, ceiling = agreement(drawn, wanted), agreement(real, wanted)
    print(
        f"{arguments.model}, {pipe.nimg} images, by {arguments.by}, psi {arguments.psi}, {arguments.count} samples"
    )
    for name in got:
        print(
            f"{name:15} {got[name]:6.3f}   ceiling {ceiling[name]:6.3f}   fraction {got[name] / ceiling[name]:6.3f}"
        )
    print(json.dumps({name: round(got[name] / ceiling[name], 4) for name in got}))
    if arguments.sheet:
        pairs = [image for i in range(min(32, len(drawn))) for image in (np.asarray(real[i]), drawn[i])]
        save_png(sheet(pairs, columns=16), Path(arguments.sheet))
    if arguments.report:
        page = arguments.report / "evaluations" / f"conditioning-{arguments.by}.json"
        told = {
            "generated": {"trained_images": pipe.nimg, "psi": arguments.psi},
            "conditioning": conditioning(page, drawn, wanted, ceiling, arguments.by),
        }
        page.write_text(json.dumps(told, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
