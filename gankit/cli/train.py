"""The commands `gankit train` and `gankit class-table`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from gankit.cli.strict import Strict
from gankit.errors import GankitError

app = typer.Typer()


# Long because each option of the command line is a parameter with its help; the body maps them to keys of the recipe.
@app.command()
def train(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe's name (see `gankit recipes`) or a YAML file.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Folder, zip or shards of images; or 'source:' of a plugin.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; an existing run continues.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue this run with its own recipe.")] = None,
    size: Annotated[str | None, typer.Option(help="Height x width, such as 128x64, or 64.")] = None,
    channels: Annotated[int | None, typer.Option(help="1 grey, 3 RGB, 4 RGBA.")] = None,
    fit: Annotated[str | None, typer.Option(help="crop, top-crop, pad or stretch.")] = None,
    mirror: Annotated[bool | None, typer.Option(help="Mirror images with probability 1/2.")] = None,
    images: Annotated[str | None, typer.Option(help="Length: 200000, 200k, 8Mi.")] = None,
    kimg: Annotated[float | None, typer.Option(help="The same in thousand images.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Stop after this long.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images a step, over all processes.")] = None,
    micro_batch: Annotated[int | None, typer.Option(help="Images in memory at once.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that decode images.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    init: Annotated[str | None, typer.Option(help="Model or run to take weights from.")] = None,
    eval_every: Annotated[
        str | None, typer.Option(help="Measure the model each 50k images; off by default.")
    ] = None,
    keep: Annotated[str | None, typer.Option(help="Checkpoints to keep: 2, or last:2,best:3.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override: generator.channel_base=4096.")
    ] = None,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="Small networks, a few steps: try the recipe out in seconds.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the recipe and networks; no training.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing.")] = False,
    strict_plugins: Strict = False,
) -> None:
    """Train a recipe on images. The same command, or --resume RUN, continues a stopped run exactly."""
    from gankit.core.config import recipe as recipes

    if kimg is not None and not math.isfinite(kimg):
        raise GankitError(f"--kimg {kimg} is not a number of thousand images, such as 200")
    overrides: dict[str, Any] = {}
    direct = {
        "data.path": data,
        "data.size": size,
        "data.channels": channels,
        "data.fit": fit,
        "data.mirror": mirror,
        "train.images": images if kimg is None else round(kimg * 1000),
        "train.batch": batch,
        "train.micro_batch": micro_batch,
        "train.workers": workers,
        "train.seed": seed,
        "train.keep": keep,
        "evaluation.every": eval_every,
    }
    overrides.update({key: value for key, value in direct.items() if value is not None})
    overrides.update(recipes.parse_set(set_ or []))
    if images is not None and kimg is not None:
        raise GankitError("--images and --kimg say the same; give one of them")
    if resume is not None:
        if recipe is not None or out is not None:
            raise GankitError(
                "--resume RUN takes the recipe and the folder from the run; leave RECIPE and --out away"
            )
        if tiny:
            raise GankitError("--resume RUN takes the recipe from the run, tiny or not; leave --tiny away")
        if not (resume / "recipe.yaml").is_file():
            raise GankitError(f"--resume {resume}: no run there (recipe.yaml is missing)")
        recipe, out = str(resume / "recipe.yaml"), resume
    if recipe is None:
        raise GankitError("name a recipe (see `gankit recipes`), or continue a run with --resume RUN")
    resolved = recipes.read(recipe, overrides, tiny=tiny)
    if dry_run:
        from gankit.core.training.dry_run import sections

        for number, section in enumerate(sections(resolved)):
            print("\n" * bool(number) + section, flush=True)
        return
    out = out if out is not None else Path("runs") / resolved.name
    from gankit.api import open_run
    from gankit.core.runtime import devices

    with open_run(resolved, out, device=device, init=init, minutes=minutes, quiet=quiet) as trainer:
        if trainer.device.type == "cpu":
            devices.keep_freed_memory()  # changes the whole process, which is this command's own
        last = trainer.run()
        trainer.progress.say(f"saved {last}; sample it with: gankit sample {out}")
        code = 128 + trainer.stop_signal if trainer.stop_signal else 0
    raise typer.Exit(code)


@app.command("class-table")
def class_table(
    recipe: Annotated[str, typer.Argument(help="Recipe whose conditioner and image size count.")],
    out: Annotated[Path, typer.Option(help="Safetensors file for the option class_table.")],
    data: Annotated[str | None, typer.Option(help="Data set, if not that of the recipe.")] = None,
    feature: Annotated[str, typer.Option(help="Feature plugin whose coarsest map counts.")] = "timm-cnn",
    side: Annotated[int, typer.Option(help="Pixels with which images enter it.")] = 224,
    num: Annotated[
        str | None, typer.Option("--num", "-n", help="Images that are read; all by default.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Recipe key=value, may be repeated.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images at a time.")] = 32,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    strict_plugins: Strict = False,
) -> None:
    """Mean features of each class or tag, from which the class vectors of StyleGAN-XL start."""
    from gankit.core.config import recipe as recipes
    from gankit.evaluation.class_table import write_class_table

    overrides = recipes.parse_set(set_ or [])
    if data is not None:
        overrides["data.path"] = data
    try:
        count = None if num is None else int(recipes.parse_count(num))
    except ValueError as error:
        raise GankitError(f"--num: {error}") from None
    page = recipes.read(recipe, overrides)
    rows, width = write_class_table(
        page, out, feature=feature, side=side, num=count, batch=batch_size, device=device
    )
    print(f"wrote {out}: {rows} rows of {width} numbers")
