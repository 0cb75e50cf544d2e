"""The command `gankit sample`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gankit.cli.strict import Strict

app = typer.Typer()


@app.command()
def sample(
    model: Annotated[str, typer.Argument(help="Model folder, run, checkpoint, installed name or hub id.")],
    prompt: Annotated[list[str] | None, typer.Option(help="Text; may be given several times.")] = None,
    tags: Annotated[list[str] | None, typer.Option(help="Tags a,b or a:0.5,b; may be repeated.")] = None,
    cls: Annotated[
        list[str] | None, typer.Option("--class", help="Class; may be given several times.")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            help="A label field of the model's own, name=value, such as box=0.1,0.2,0.5,0.6; may be repeated."
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="0-15, or 1,5,7-9.")] = "0-7",
    psi: Annotated[float, typer.Option(help="Truncation; 1 is full variety, 0 the mean image.")] = 0.7,
    center: Annotated[
        str, typer.Option(help="Truncate towards the 'condition' or the 'global' mean.")
    ] = "condition",
    noise: Annotated[str, typer.Option(help="Per-pixel noise: const, random or none.")] = "const",
    out: Annotated[Path, typer.Option(help="Folder for the PNG files and sheet.png.")] = Path("samples"),
    batch_size: Annotated[int, typer.Option(help="Images at a time.")] = 8,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    engine: Annotated[
        str, typer.Option(help="What draws: eager, compile, openvino ...; auto measures once and remembers.")
    ] = "eager",
    dtype: Annotated[
        str, typer.Option(help="What the synthesis network computes in: fp32 or bf16.")
    ] = "fp32",
    strict_plugins: Strict = False,
) -> None:
    """Draw pictures: one PNG for each wish and seed, and a contact sheet."""
    from gankit.sampling.bulk import run_sampling

    written = run_sampling(
        model,
        prompts=prompt or [],
        tags=tags or [],
        classes=cls or [],
        labels=label or [],
        seeds=seeds,
        psi=psi,
        center=center,
        noise=noise,
        out=out,
        batch_size=batch_size,
        device=device,
        engine=engine,
        dtype=dtype,
    )
    count = len(written) - 1
    print(f"{count} image{'s' * (count != 1)} and {written[-1]}")
