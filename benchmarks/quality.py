"""Quality benchmark: trains a recipe on avatars for a fixed budget and measures its checkpoints.

    python benchmarks/quality.py RECIPE --minutes 40 [--every 10k] [--set key=value] [--name NAME] [--results results]
    python benchmarks/quality.py RECIPE --images 100k ...
    python benchmarks/quality.py --model avatars [--name NAME] ...
    python benchmarks/quality.py --table results/*.json [--svg curves.svg]

RECIPE is one of RECIPES below, an installed recipe on avatars, or a YAML file. The result goes to RESULTS/NAME.json,
the run to RESULTS/NAME; the same command continues both. Minutes are training time from the run's log, without set-up,
measurements and pauses. Every checkpoint is measured after the training with a classifier that is not used in training
(`attribute_classifier.py`), on avatars that were never trained on:

- accuracy by attribute, relative to the classifier's accuracy on real pictures with the same attributes;
- Frechet distance, precision and recall on the classifier's features, between generated and real pictures.

`--model` measures a finished model (of a package, a folder, a repository) in the same way, for comparison.
`gankit report RESULTS/NAME` shows the results with curves and examples.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import attribute_classifier
import numpy as np
import prompt_following

import gankit
from gankit.core.checkpoints import folders
from gankit.core.config import options
from gankit.core.config import recipe as recipes
from gankit.core.runtime import tensor_files
from gankit.errors import GankitError
from gankit.evaluation.metric import measure
from gankit.evaluation.moments import FeatureSet
from gankit.report import charts, reading
from gankit_avatars.source import AvatarSource

FORMAT = 1
ENDLESS = 10**9  # images, where minutes end the training
CLOSE = 0.98  # share of the minutes after which no training is started: the rest would go to set-up
METRICS = {"fd": {"name": "fd"}, "pr": {"name": "pr", "k": 3}}
NUMBERS = ("fd", "precision", "recall", "density", "coverage")

ADA = {"name": "ada", "pipeline": "bgc", "target": 0.6, "kimg": 100}
# Captions name colours and small parts, so that only the shifts of Projected GAN's augmentation are used.
PROJECTED = {
    "loss": "hinge",
    "regularizers.r1": False,
    "regularizers.mismatch.form": "hinge",
    "augmentation": {"name": "diffaugment", "policy": "translation"},
}
# name -> (recipe, overrides)
RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "avatars": ("avatars", {}),
    "stylegan2-ada": ("avatars", {"augmentation": ADA}),
    "relativistic-r1-r2": (
        "avatars",
        {"augmentation": ADA, "loss": "relativistic", "regularizers.r2": {"gamma": 2.0, "interval": 16}},
    ),
    **{
        f"projected-{side}": (
            "avatars",
            {**PROJECTED, "discriminator": {"name": "projected", "side": side, "separable": True}},
        )
        for side in (64, 96, 128, 224)
    },
}


# ------------------------------------------------------------------------------------------------- training


def resolve(name: str, settings: Sequence[str], every: int, images: int | None) -> recipes.Recipe:
    """The recipe of a name in RECIPES, an installed recipe or a file, with a checkpoint every `every` images."""
    base, changes = RECIPES.get(name, (name, {}))
    fixed = {
        "train.images": images or ENDLESS,
        "train.checkpoint_every": every,
        "train.samples_every": every,
        "train.keep": 10_000,
    }
    recipe = recipes.read(base, {**changes, **recipes.parse_set(list(settings)), **fixed})
    if (recipe.data.path or "").partition(":")[0] != "avatars" or recipe.data.size != (64, 64):
        raise GankitError(f"{name} does not train on 'avatars:' at 64 x 64, which is what the judge knows")
    return recipe


def train(recipe: recipes.Recipe, run: Path, minutes: float | None, device: str, quiet: bool) -> None:
    """Train, or continue the run, until the budget is used up."""
    for _ in range(3):  # set-up takes some of a training's minutes, which the next one makes up for
        left = None if minutes is None else minutes - spent(run)
        if left is not None and left < (1 - CLOSE) * (minutes or 0):
            return
        gankit.train(recipe, run, minutes=left, device=device, quiet=quiet)
        if minutes is None:
            return


def spent(run: Path) -> float:
    """Minutes of training so far; 0 without a run."""
    return reading.Run(run).seconds / 60 if (run / "recipe.yaml").is_file() else 0.0


def minutes_at(run: Path) -> dict[int, float]:
    """Checkpoint's images -> minutes of training up to it, interpolated linearly between lines of the log."""
    log = reading.Run(run)
    nimgs, total, seconds, before = [0], [0.0], 0.0, 0
    for line in log.lines:
        speed = reading.finite(line.get("speed/images_per_s"))
        seconds += (line["nimg"] - before) / speed if speed else 0.0
        before = line["nimg"]
        nimgs.append(before)
        total.append(seconds)
    saved = [int(folder.name) for folder in folders.checkpoints(run)]
    return {nimg: float(np.interp(nimg, nimgs, total)) / 60 for nimg in saved}


# ------------------------------------------------------------------------------------------------ measuring


class Judge:
    """Measures models on held-out avatars with the attribute classifier.

    Args:
        count: number of avatars.
        by: the labels given to models, 'text', 'tags' or 'class'.
    """

    def __init__(self, count: int, by: str) -> None:
        self.by = by
        self.source = AvatarSource("", count=count, seed=prompt_following.HELD_OUT_SEED, cache="off")
        self.wanted = [self.source.avatar(i) for i in range(count)]
        pictures = [self.source.image(i) for i in range(count)]
        self.ceiling = attribute_classifier.agreement(pictures, self.wanted)
        self.real = FeatureSet.of(attribute_classifier.features(pictures))
        self.metrics = {name: options.build("metric", spec) for name, spec in METRICS.items()}

    def facts(self) -> dict[str, Any]:
        """Settings on which the numbers depend, and the numbers of other real avatars for comparison."""
        others = AvatarSource(
            "", count=len(self.source), seed=prompt_following.HELD_OUT_SEED + 1, cache="off"
        )
        rows = attribute_classifier.features([others.image(i) for i in range(len(others))])
        return {
            "avatars": len(self.source),
            "seed": prompt_following.HELD_OUT_SEED,
            "by": self.by,
            "psi": 1.0,
            "ceiling": self.ceiling,
            "real": self.numbers(FeatureSet.of(rows)),
        }

    def numbers(self, fake: FeatureSet) -> dict[str, float]:
        """Frechet distance, precision, recall, density and coverage of a set of pictures."""
        found: dict[str, float] = {}
        for name, metric in self.metrics.items():
            found.update(measure(name, metric, self.real, fake))
        return {name: found[name] for name in NUMBERS}

    def look(self, model: str | Path, page: Path) -> dict[str, Any]:
        """Measure a model; writes `page` for `gankit report` and returns the numbers."""
        start = time.monotonic()
        pipe = gankit.load(model)
        drawn = prompt_following.draw(pipe, self.source, self.by, 1.0)
        values = self.numbers(FeatureSet.of(attribute_classifier.features(drawn)))
        page.parent.mkdir(exist_ok=True, parents=True)
        told = prompt_following.conditioning(page, drawn, self.wanted, self.ceiling, self.by)
        accuracy = {n: row["accuracy"] / row["ceiling"] for n, row in told["attributes"].items()}
        values["accuracy"] = sum(accuracy.values()) / len(accuracy)
        better = {name: "lower" if name == "fd" else "higher" for name in values}
        shown = {
            "metrics": {"judge": {"values": values, "better": better}},
            "generated": {"trained_images": pipe.nimg, "images": len(drawn), "psi": 1.0},
            "real": {"images": len(drawn)},
            "feature": {"name": "attribute classifier", "input": 64},
            "conditioning": told,
        }
        page.write_text(json.dumps(shown, indent=1), encoding="utf-8")
        return {
            "nimg": pipe.nimg,
            **{name: float(f"{value:.6g}") for name, value in values.items()},
            "attributes": {name: round(value, 4) for name, value in accuracy.items()},
            "seconds": round(time.monotonic() - start, 1),
        }


def bench(arguments: argparse.Namespace) -> Path:
    """Train, measure the checkpoints that were not measured before, and write the result; returns its path."""
    name = arguments.name or Path(arguments.recipe).stem
    out, run = arguments.results / f"{name}.json", arguments.results / name
    images = None if arguments.images is None else int(recipes.parse_count(arguments.images))
    recipe = resolve(arguments.recipe, arguments.set, int(recipes.parse_count(arguments.every)), images)
    judged = (arguments.count, arguments.by)
    page: dict[str, Any] = {"points": []}
    if out.is_file():
        page = json.loads(out.read_text(encoding="utf-8"))
        if page.get("format") != FORMAT or (page["judge"]["avatars"], page["judge"]["by"]) != judged:
            raise GankitError(
                f"{out} was measured otherwise; give the same --count and --by, or another --name"
            )
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    train(recipe, run, arguments.minutes, arguments.device, arguments.quiet)

    judge = Judge(*judged)
    sessions = reading.Run(run).sessions
    page |= {
        "format": FORMAT,
        "name": name,
        "recipe": recipe.model_dump(mode="json"),
        "budget": {"minutes": arguments.minutes, "images": images},
        "judge": page.get("judge") or judge.facts(),
        "machine": dict(sessions[-1][2]) if sessions else {},
        "load_before": page.get("load_before", load),
    }
    known = {point["nimg"]: point for point in page["points"]}
    for folder in folders.checkpoints(run):
        if int(folder.name) not in known:
            point = judge.look(folder, run / "evaluations" / f"{folder.name}.json")
            known[point["nimg"]] = point
            print(line(point), flush=True)
        page["points"] = _dated(known, minutes_at(run))
        tensor_files.write_text(out, json.dumps(page, indent=1))
    return out


def finished(arguments: argparse.Namespace) -> Path:
    """Measure a finished model; returns the path of the result, which has one point."""
    name = arguments.name or Path(arguments.model).stem
    out = arguments.results / f"{name}.json"
    judge = Judge(arguments.count, arguments.by)
    point = judge.look(arguments.model, arguments.results / name / "evaluations" / "model.json")
    page = {"format": FORMAT, "name": name, "judge": judge.facts(), "points": [{**point, "minutes": None}]}
    tensor_files.write_text(out, json.dumps(page, indent=1))
    return out


def _dated(known: dict[int, dict[str, Any]], minutes: dict[int, float]) -> list[dict[str, Any]]:
    """Points sorted by images, each with its minutes of training."""
    return [
        {**point, "minutes": round(minutes.get(nimg, point.get("minutes", 0.0)), 3)}
        for nimg, point in sorted(known.items())
    ]


def line(point: dict[str, Any]) -> str:
    numbers = "  ".join(f"{name} {point[name]:.4g}" for name in ("accuracy", *NUMBERS))
    return f"{point['nimg']:>9,} images  {numbers}  (measured in {point['seconds']:.0f} s)"


# ------------------------------------------------------------------------------------------------ comparing


def read_results(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Read results with at least one point. Raises GankitError for other files and for results of other settings."""
    pages = []
    for file in files:
        try:
            page = json.loads(file.read_text(encoding="utf-8"))
            known = page["format"] == FORMAT and page["points"] and page["judge"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise GankitError(f"{file} is no result of this benchmark: {error}") from None
        if not known:
            raise GankitError(f"{file} has no measured points yet, or is of another version")
        pages.append(page)
    if len({json.dumps({k: p["judge"][k] for k in ("avatars", "by", "psi", "seed")}) for p in pages}) > 1:
        raise GankitError(
            "the results were not judged on the same avatars in the same way; measure them again"
        )
    return pages


def table(pages: Sequence[dict[str, Any]]) -> str:
    """The last point of each result as a Markdown table, the best number of a column in bold."""
    columns = ["accuracy", *NUMBERS, *pages[0]["points"][-1]["attributes"]]
    last = [{**page["points"][-1], **page["points"][-1]["attributes"]} for page in pages]
    best = {c: (min if c == "fd" else max)(point[c] for point in last) for c in columns}
    head = ["recipe", "images", "minutes", "images/s", *columns]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    for page, point in zip(pages, last):
        cells = [f"`{page['name']}`", f"{point['nimg']:,}"]
        if point["minutes"]:
            cells += [f"{point['minutes']:.1f}", f"{point['nimg'] / (60 * point['minutes']):.1f}"]
        else:  # not known of a finished model
            cells += ["", ""]
        for column in columns:
            text = f"{point[column]:.2f}" if column == "fd" else f"{point[column]:.3f}"
            cells.append(f"**{text}**" if point[column] == best[column] and len(pages) > 1 else text)
        rows.append(cells)
    real = pages[0]["judge"]["real"]
    judge = pages[0]["judge"]
    notes = (
        f"{judge['avatars']} held-out avatars, asked for by {judge['by']}; attributes as fractions of what the judge "
        f"reads off real ones. Other real avatars get fd {real['fd']:.2f}, precision {real['precision']:.3f}, "
        f"recall {real['recall']:.3f}."
    )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n\n" + notes


def curves(pages: Sequence[dict[str, Any]]) -> str:
    """Distance and mean accuracy of all results over images and over minutes, as one SVG."""
    cells = []
    for column, (x, what) in enumerate((("nimg", "images"), ("minutes", "minutes of training"))):
        for row, (y, title) in enumerate((("fd", "Frechet distance"), ("accuracy", "accuracy / ceiling"))):
            lines = [
                charts.Curve(
                    page["name"], [(point[x], point[y]) for point in page["points"]], i % charts.COLOURS
                )
                for i, page in enumerate(pages)
                if len(page["points"]) > 1
            ]
            made = charts.chart(f"{title} over {what}", lines, dots=True)
            if made is not None:
                left, top = column * (charts.WIDTH + 20), row * (charts.HEIGHT + 40)
                inner = made.svg.replace("<svg ", f'<svg width="{charts.WIDTH}" height="{charts.HEIGHT}" ', 1)
                cells.append(
                    f'<g transform="translate({left} {top})"><text class="title" x="8" y="22">{escape(made.title)}'
                    f'</text><g transform="translate(0 30)">{inner}</g></g>'
                )
    width, height = 2 * charts.WIDTH + 20, 2 * (charts.HEIGHT + 40) + 30
    legend = "".join(
        f'<g transform="translate({12 + i * (width - 24) // len(pages)} {height - 18})"><rect class="dot c{i % 8}" '
        f'width="12" height="12" rx="3"/><text class="name" x="18" y="11">{escape(page["name"])}</text></g>'
        for i, page in enumerate(pages)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f'<style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>{"".join(cells)}{legend}</svg>\n'
    )


COLOURS = ("#2f62c4", "#d9541e", "#1b8a5a", "#9b3fb5", "#a87c00", "#0f8a99", "#c2286f", "#6b7280")
STYLE = (
    "text{font-family:system-ui,sans-serif;fill:#1c2230;font-size:13px}.title{font-weight:600;font-size:14px}"
    ".tick{font-size:11px;fill:#5c6577}.grid{stroke:#e1e5ec}.line{fill:none;stroke-width:2}.faint{opacity:.3}"
    + "".join(f".line.c{i}{{stroke:{c}}}.dot.c{i}{{fill:{c}}}" for i, c in enumerate(COLOURS))
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", nargs="?", help=f"one of {', '.join(RECIPES)}; or a recipe on avatars")
    parser.add_argument("--minutes", type=float, help="of training")
    parser.add_argument("--images", help="instead of minutes, such as 100k")
    parser.add_argument("--every", default="10k", help="images between measured checkpoints")
    parser.add_argument("--set", action="append", default=[], help="override of the recipe, key=value")
    parser.add_argument("--count", type=int, default=1000, help="pictures that are judged")
    parser.add_argument("--by", choices=["text", "tags", "class"], default="text")
    parser.add_argument("--name", help="of the result; that of the recipe when omitted")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--model", help="measure this model instead of training one")
    parser.add_argument("--table", nargs="+", type=Path, metavar="JSON", help="compare results")
    parser.add_argument("--svg", type=Path, help="with --table: write curves to this file")
    arguments = parser.parse_args(argv)
    try:
        if arguments.table:
            pages = read_results(arguments.table)
            print(table(pages))
            if arguments.svg:
                tensor_files.write_text(arguments.svg, curves(pages))
            return
        budget = (arguments.minutes is None) != (arguments.images is None)
        if (arguments.recipe is None) == (arguments.model is None) or (arguments.recipe and not budget):
            parser.error(
                "name a recipe and either --minutes or --images; or --model MODEL; or --table RESULT.json ..."
            )
        out = finished(arguments) if arguments.model else bench(arguments)
        print(table([json.loads(out.read_text(encoding="utf-8"))]))
        print(f"wrote {out}")
    except (GankitError, ValueError) as error:
        sys.exit(f"quality: {error}")


if __name__ == "__main__":
    main()
