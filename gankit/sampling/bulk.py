"""`gankit sample`: writes one PNG for each request and seed, and a contact sheet, into a folder."""

from __future__ import annotations

import json
import re
import sys
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from PIL.PngImagePlugin import PngInfo

from gankit.core.config.recipe import parse_value
from gankit.core.data.contact_sheet import save_png, sheet
from gankit.core.interfaces.labels import listed
from gankit.core.runtime import devices
from gankit.errors import GankitError, unknown
from gankit.sampling.pipeline import load

ARGUMENTS = {"--prompt": "prompt", "--tags": "tags", "--class": "cls"}  # of this command, and of a Pipeline


def parse_seeds(text: str) -> list[int]:
    """'0-3,7' -> [0, 1, 2, 3, 7]. Raises GankitError for other text and for seeds outside [0, 2^32)."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
        if not match:
            raise GankitError(f"--seeds {text!r} must look like 0-15 or 1,5,7-9")
        first, last = int(match.group(1)), int(match.group(2) or match.group(1))
        if last < first or last - first >= 100_000 or last >= 2**32:
            raise GankitError(f"--seeds {part.strip()!r} is not a range of seeds from 0 to {2**32 - 1}")
        seeds += range(first, last + 1)
    return seeds


def parse_tags(text: str) -> dict[str, float]:
    """'smile,glasses:0.5' -> {'smile': 1.0, 'glasses': 0.5}."""
    tags = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, weight = part.rpartition(":")
        try:
            tags[name or part] = float(weight) if name else 1.0
        except ValueError:
            tags[part] = 1.0  # a tag that has a colon in its name
    return tags


def parse_labels(items: list[str]) -> dict[str, list[Any]]:
    """Arguments of --label, 'box=0.1,0.2,0.5,0.6', 'angle=30', 'pose={yaw: 3}' -> name -> its values, in their order.

    Numbers between commas are a list, other text is parsed as YAML. Raises GankitError for an argument without '='."""
    values: dict[str, list[Any]] = {}
    for item in items:
        name, equals, text = item.partition("=")
        if not equals or not name.strip() or not text.strip():
            raise GankitError(f"--label {item!r} must look like name=value, such as box=0.1,0.2,0.5,0.6")
        if name.strip() in ARGUMENTS.values():
            raise GankitError(
                f"--label {item!r}: prompts, tags and classes are given by {listed([*ARGUMENTS])}"
            )
        parts = [parse_value(part) for part in text.split(",")]
        if len(parts) > 1 and all(type(part) in (int, float) for part in parts):
            value: Any = parts
        elif isinstance(value := parse_value(text), date):  # a datetime as well
            value = text
        values.setdefault(name.strip(), []).append(value)
    return values


# Long because it checks the request first, so that mistakes show before any drawing, and writes each image's metadata.
def run_sampling(
    model: str,
    *,
    prompts: list[str],
    tags: list[str],
    classes: list[str],
    labels: list[str],
    seeds: str,
    psi: float,
    center: str,
    noise: str,
    out: Path,
    batch_size: int,
    device: str,
    engine: str = "eager",
    dtype: str = "fp32",
) -> list[Path]:
    """Write one PNG for each request and seed, and sheet.png with a row for each request.

    Args:
        model: model as `gankit.load` takes it.
        prompts: prompts; request i has prompt, tags, class and label fields number i. Each of these lists may be empty,
            or have one item that goes with all requests.
        tags: tag lists, see `parse_tags`.
        classes: class names.
        labels: values of label fields, see `parse_labels`.
        seeds: seeds, see `parse_seeds`.
        psi: truncation; 1 is none.
        center: 'condition' or 'global', see `Pipeline.__call__`.
        noise: 'const', 'random' or 'none'.
        out: folder for the PNG files.
        batch_size: images at a time.
        device: 'auto', 'cpu', 'cuda' or 'mps'.
        engine: engine plugin, or 'auto'.
        dtype: dtype of the synthesis network, 'fp32' or 'bf16'.

    Returns the paths, the sheet's last. Raises GankitError for requests that the model does not take.
    """
    numbers = parse_seeds(seeds)
    if noise not in ("const", "random", "none"):
        raise GankitError(unknown("noise mode", noise, ["const", "random", "none"]))
    given: dict[str, list[Any]] = {
        "--prompt": prompts,
        "--tags": [*map(parse_tags, tags)],
        "--class": classes,
    }
    given |= {f"--label {name}": values for name, values in parse_labels(labels).items()}
    count = max(*map(len, given.values()), 1)
    for what, values in given.items():
        if len(values) not in (0, 1, count):
            raise GankitError(
                f"{what} is given {len(values)} times and another {count} times; give it once or {count} times"
            )
    pipe = load(model, device=device, engine=engine, dtype=dtype)
    if pipe.device.type == "cpu":
        devices.keep_freed_memory()  # changes the whole process, which is this command's own
    pipe.engine.say = lambda text: print(f"gankit: {text}", file=sys.stderr)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GankitError(f"cannot create {out}: {error.strerror or error}; choose another --out") from None
    wishes: list[dict[str, Any]] = []
    for i in range(count):
        wish = {
            ARGUMENTS.get(what, what.removeprefix("--label ")): values[min(i, len(values) - 1)]
            for what, values in given.items()
            if values
        }
        pipe.conditioner.encode([pipe.label(**wish)])  # complain before the first picture is drawn
        wishes.append(wish)
    paths, tiles = [], []
    for i, wish in enumerate(wishes):
        pipe.engine.used.clear()
        images = pipe(
            **wish,
            seeds=numbers,
            psi=psi,
            center=center,  # type: ignore[arg-type]
            noise_mode=noise,  # type: ignore[arg-type]
            batch_size=batch_size,
        )
        for seed, image in zip(numbers, images):
            prefix = f"{i:03d}-" if count > 1 else ""
            path = out / f"{prefix}seed{seed:04d}.png"
            info = PngInfo()
            facts = {
                "model": str(model),
                "images": pipe.nimg,
                "seed": seed,
                "psi": psi,
                "center": center,
                "noise": noise,
            }
            if pipe.engine.used != {"eager"}:
                facts["engine"] = ", ".join(sorted(pipe.engine.used))
            if dtype != "fp32":
                facts["dtype"] = dtype
            facts.update({key: wish[key] for key in ARGUMENTS.values() if key in wish})
            if own := {key: value for key, value in wish.items() if key not in ARGUMENTS.values()}:
                facts["label"] = own
            info.add_itxt("gankit", json.dumps(facts, ensure_ascii=False))
            info.add_itxt("recipe", pipe.recipe.to_yaml())
            save_png(image, path, pnginfo=info)
            paths.append(path)
            pixels = np.asarray(image)
            tiles.append(pixels[:, :, None] if pixels.ndim == 2 else pixels)
    contact = out / "sheet.png"
    save_png(sheet(tiles, columns=min(len(numbers), 8) if count == 1 else len(numbers)), contact)
    return [*paths, contact]
