"""The commands `gankit export`, `convert`, `inspect`, `blend`, `average` and `ema`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

from gankit.cli.strict import Strict
from gankit.errors import GankitError

app = typer.Typer()


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="Run, checkpoint or model.")],
    out: Annotated[Path, typer.Argument(help="New model folder, or file of another format.")],
    format_: Annotated[
        str, typer.Option("--format", help="model, or a file: onnx, openvino, torch-export.")
    ] = "model",
    dtype: Annotated[str, typer.Option(help="Store a model's weights as fp32, fp16 or bf16.")] = "fp32",
    noise: Annotated[
        str | None, typer.Option(help="Of a file: const (the default), none, or input: an input of its own.")
    ] = None,
    center: Annotated[
        str | None,
        typer.Option(help="Of a file: truncate towards the 'condition' (the default) or the 'global' mean."),
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Option of the format: opset=18.")] = None,
    strict_plugins: Strict = False,
) -> None:
    """Write a slim model folder (generator, conditioner, recipe), or a file that runs without gankit."""
    from gankit import api
    from gankit.core.config.recipe import parse_set

    settings = parse_set(set_ or [])
    written = api.export(
        model, out, format=format_, dtype=dtype, noise=noise, center=center, settings=settings
    )
    print(f"wrote {written}")


@app.command()
def convert(
    file: Annotated[
        str, typer.Argument(help="A .pkl or .pt file of another code base, or a folder or hub id.")
    ],
    out: Annotated[Path, typer.Argument(help="New model folder.")],
    network: Annotated[
        str | None, typer.Option(help="G_ema or G; by default the first that is there.")
    ] = None,
    discriminator: Annotated[
        bool, typer.Option("--discriminator/--no-discriminator", help="Take D too, for --init.")
    ] = True,
    classes: Annotated[
        str | None, typer.Option(help="Names of the classes in order: a,b,c, or a text file of lines.")
    ] = None,
    strict_plugins: Strict = False,
) -> None:
    """Turn a published network into a model folder. Nothing in the file is executed."""
    from gankit import api
    from gankit.interop.import_foreign import read_names

    names = None if classes is None else read_names(classes)
    for note in api.convert(file, out, network=network, discriminator=discriminator, classes=names):
        warnings.warn(note, stacklevel=1)
    print(f"wrote {out}")


@app.command()
def inspect(
    file: Annotated[str, typer.Argument(help="Model, run, .safetensors, .pkl or .pt file.")],
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="What a model takes, for programs.")] = False,
    strict_plugins: Strict = False,
) -> None:
    """Say what is in a file or folder, without opening it in torch."""
    if as_json:
        import json

        from gankit.cli.model_facts import facts

        print(json.dumps(facts(file, tensors=tensors), indent=1))
        return
    from gankit.cli.inspect import inspect as look

    print(look(file, tensors=tensors))


@app.command()
def blend(
    a: Annotated[str, typer.Argument(help="Model for coarse layers: pose, composition.")],
    b: Annotated[str, typer.Argument(help="Model for fine layers: colours, textures.")],
    out: Annotated[Path, typer.Option(help="New model folder.")] = Path("blend"),
    at: Annotated[int, typer.Option(help="Resolution of the first block of B.")] = 32,
    width: Annotated[float, typer.Option(help="Octaves of a soft boundary; 0 is a hard one.")] = 0,
    mapping: Annotated[str, typer.Option(help="Take the mapping network of a or b.")] = "a",
    strict_plugins: Strict = False,
) -> None:
    """Swap layers: the coarse ones of A with the fine ones of B, where one was fine-tuned from the other."""
    from gankit.interop.blend import blend as mix

    mix(a, b, out, at=at, width=width, mapping=mapping)
    print(f"wrote {out}")


@app.command()
def average(
    a: Annotated[str, typer.Argument(help="Model.")],
    b: Annotated[str, typer.Argument(help="Another of the same architecture.")],
    out: Annotated[Path, typer.Option(help="New model folder.")] = Path("average"),
    weight: Annotated[float, typer.Option(help="Share of B.")] = 0.5,
    strict_plugins: Strict = False,
) -> None:
    """Average the weights of two models, where one was fine-tuned from the other."""
    from gankit.interop.blend import average as mix

    mix(a, b, out, weight=weight)
    print(f"wrote {out}")


@app.command()
def ema(
    run: Annotated[Path, typer.Argument(help="Folder of a run with train.posthoc_ema.")],
    length: Annotated[float, typer.Option(help="Length of the average, relative to the run: 0.01 to 0.25.")],
    out: Annotated[
        Path | None, typer.Argument(help="New model folder; ema-LENGTH when omitted, such as ema-0.1.")
    ] = None,
    at: Annotated[
        str | None, typer.Option(help="Images at which it ends: 2M; by default the newest.")
    ] = None,
    strict_plugins: Strict = False,
) -> None:
    """Average a run's generator over a length that is chosen afterwards (post-hoc EMA)."""
    from gankit.core.config.recipe import parse_count
    from gankit.interop.blend import ema as reconstruct

    try:
        images = None if at is None else parse_count(at)
    except ValueError as error:
        raise GankitError(f"--at: {error}") from None
    out = out if out is not None else Path(f"ema-{length:g}")
    print(reconstruct(run, out, length=length, at=images))
    print(f"wrote {out}")
