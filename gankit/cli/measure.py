"""The commands `gankit evaluate`, `report` and `compare`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from gankit.cli.strict import Strict
from gankit.cli.tables import print_table
from gankit.errors import GankitError

app = typer.Typer()


# Long because each option of the command line is a parameter with its help; the body only passes them on.
@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="Model folder, run, checkpoint, installed name or hub id.")],
    metrics: Annotated[str, typer.Option(help="Metric plugins, separated by commas.")] = "fd,kid,pr",
    num: Annotated[
        str, typer.Option("--num", "-n", help="Generated images: 1000, 10k. (torchrun passes on -n only.)")
    ] = "10k",
    num_real: Annotated[
        str | None, typer.Option(help="Images of the data set, or 'all'; as many as --num by default.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Data set, if not that of the model's recipe.")] = None,
    feature: Annotated[str, typer.Option(help="Feature plugin whose pooled features count.")] = "timm-cnn",
    side: Annotated[
        int | None, typer.Option(help="Pixels at which images enter it; default: what it was trained on.")
    ] = None,
    captions: Annotated[
        Path | None,
        typer.Option(help="Text file of captions, one a line, to draw under; else the data set's."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="Precision of feature networks: fp32 or bf16.")] = "fp32",
    seed: Annotated[int, typer.Option(help="Image i is drawn from seed + i.")] = 0,
    psi: Annotated[float, typer.Option(help="Truncation; 1 is none.")] = 1.0,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Option of a plugin: feature.model=..., pr.k=5.")
    ] = None,
    out: Annotated[Path, typer.Option(help="JSON file with the numbers and all they depend on.")] = Path(
        "evaluation.json"
    ),
    batch_size: Annotated[int, typer.Option(help="Images at a time.")] = 32,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no table.")] = False,
    strict_plugins: Strict = False,
) -> None:
    """Measure a model against a data set: a table, and a JSON file."""
    from gankit.core.config import recipe as recipes
    from gankit.evaluation import evaluate

    def count(flag: str, text: str) -> int:
        try:
            return int(recipes.parse_count(text))
        except ValueError as error:
            raise GankitError(f"{flag}: {error}") from None

    numbers_real = (
        None if num_real is None else sys.maxsize if num_real == "all" else count("--num-real", num_real)
    )
    page = evaluate.run(
        model,
        metrics=[name.strip() for name in metrics.split(",") if name.strip()],
        num=count("--num", num),
        num_real=numbers_real,
        data=data,
        feature=feature,
        side=side,
        settings=recipes.parse_set(set_ or []),
        captions=captions,
        dtype=dtype,
        seed=seed,
        psi=psi,
        batch_size=batch_size,
        device=device,
        pictures=out.with_suffix(""),
        quiet=quiet,
    )
    if not page:  # one of several processes, and not the first
        return
    evaluate.write_page(page, out)
    if not quiet:
        print_table(("metric", "value", "number", "better"), evaluate.table(page))
        real = f" and {page['real']['images']:,} real" if "real" in page else ""
        print(f"{page['generated']['images']:,} generated{real} images; wrote {out}")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run, finished or not.")],
    out: Annotated[Path | None, typer.Option(help="HTML file; RUN/report.html by default.")] = None,
) -> None:
    """Write one HTML page about a run: curves, health, samples over time, metrics, recipe."""
    from gankit.report import write_report

    print(f"wrote {write_report(run, out)}")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of two to eight runs.")],
    out: Annotated[Path, typer.Option(help="HTML file.")] = Path("comparison.html"),
) -> None:
    """Write one HTML page with runs side by side, and what differs in their recipes."""
    from gankit.report import write_comparison

    print(f"wrote {write_comparison(runs, out)}")
