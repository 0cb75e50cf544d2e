"""The command line. torch, pydantic and yaml are imported inside the command that needs them."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import gankit
from gankit.core.plugins import ENV_STRICT, registry
from gankit.errors import GankitError

app = typer.Typer(
    help="Train and sample image generators conditioned on text prompts, tags, classes or nothing.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
CommandLineError: Any = typer.BadParameter.__mro__[
    2
]  # click's ClickException; newer typers carry their own click
Strict = Annotated[bool, typer.Option("--strict-plugins", help="A plugin that cannot be loaded is an error.")]


def main() -> None:
    """Run the command line; a user's mistake is one sentence on stderr and exit code 2."""
    warnings.showwarning = _one_line_warning
    try:
        if "--strict-plugins" in sys.argv:
            os.environ[ENV_STRICT] = "1"
        arguments = sys.argv[1:] or ["--help"]
        _add_plugin_commands(arguments)
        sys.exit(app(arguments, prog_name="gankit", standalone_mode=False))
    except GankitError as error:
        print(f"gankit: {error}", file=sys.stderr)
        sys.exit(2)
    except CommandLineError as error:
        print(f"gankit: {' '.join(error.format_message().split())} (see --help)", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _one_line_warning(message: Any, category: Any, *_: Any, **__: Any) -> None:
    print(f"gankit: warning: {message}", file=sys.stderr)


def _add_plugin_commands(arguments: list[str]) -> None:
    """Commands of plugins are imported only when they are called; for --help, a line says where they come from."""
    called = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name in registry().names("command"):
        if name in OWN_COMMANDS:
            package = registry().get("command", name).package
            warnings.warn(
                f"command {name!r} of package {package!r} is ignored: gankit has its own", stacklevel=1
            )
            continue
        app.registered_commands = [command for command in app.registered_commands if command.name != name]
        if name != called:
            app.command(name, help=f"(from {registry().get('command', name).package})")(lambda: None)
            continue
        target = registry().load("command", name)
        if isinstance(target, typer.Typer):
            app.add_typer(target, name=name)
        else:
            app.command(name)(target)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    strict_plugins: Strict = False,
) -> None:
    if version:
        print(f"gankit {gankit.__version__}")
        raise typer.Exit


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
    from gankit.core import recipe as recipes

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
        from gankit.core.summary import sections

        for number, section in enumerate(sections(resolved)):
            print("\n" * bool(number) + section, flush=True)
        return
    out = out if out is not None else Path("runs") / resolved.name
    from gankit.core.trainer import Trainer

    with Trainer(resolved, out, device=device, init=init, minutes=minutes, quiet=quiet) as trainer:
        last = trainer.run()
        trainer.progress.say(f"saved {last}; sample it with: gankit sample {out}")
        code = 128 + trainer.stop_signal if trainer.stop_signal else 0
    raise typer.Exit(code)


@app.command()
def sample(
    model: Annotated[str, typer.Argument(help="Model folder, run, checkpoint, installed name or hub id.")],
    prompt: Annotated[list[str] | None, typer.Option(help="Text; may be given several times.")] = None,
    tags: Annotated[list[str] | None, typer.Option(help="Tags a,b or a:0.5,b; may be repeated.")] = None,
    cls: Annotated[
        list[str] | None, typer.Option("--class", help="Class; may be given several times.")
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
    from gankit.sampling import run_sampling

    written = run_sampling(
        model,
        prompts=prompt or [],
        tags=tags or [],
        classes=cls or [],
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
    print(f"{len(written) - 1} images and {written[-1]}")


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
    from gankit import evaluation
    from gankit.core import recipe as recipes

    def count(flag: str, text: str) -> int:
        try:
            return int(recipes.parse_count(text))
        except ValueError as error:
            raise GankitError(f"{flag}: {error}") from None

    numbers_real = (
        None if num_real is None else sys.maxsize if num_real == "all" else count("--num-real", num_real)
    )
    page = evaluation.run(
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
    evaluation.write_page(page, out)
    if not quiet:
        _table(("metric", "value", "number", "better"), evaluation.table(page))
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
    if format_ == "model":
        from gankit.sampling import export_model

        for flag, value in (("--noise", noise), ("--center", center), ("--set", set_)):
            if value is not None:
                raise GankitError(
                    f"{flag} is for files such as --format onnx; a model folder keeps every choice"
                )
        export_model(model, out, dtype)
    else:
        from gankit.core.recipe import parse_set
        from gankit.export import export_file

        if dtype != "fp32":
            raise GankitError(f"--dtype {dtype} is for model folders; --format {format_} holds fp32")
        choices = {"noise": noise, "center": center}
        out = export_file(
            model,
            out,
            format_,
            settings=parse_set(set_ or []),
            **{name: value for name, value in choices.items() if value is not None},
        )
    print(f"wrote {out}")


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
    from gankit.core.importing import convert as convert_file
    from gankit.core.importing import read_names
    from gankit.core.locate import find_foreign

    names = None if classes is None else read_names(classes)
    for note in convert_file(
        find_foreign(file), out, network=network, discriminator=discriminator, classes=names
    ):
        warnings.warn(note, stacklevel=1)
    print(f"wrote {out}")


@app.command()
def inspect(
    file: Annotated[str, typer.Argument(help="Model, run, .safetensors, .pkl or .pt file.")],
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    strict_plugins: Strict = False,
) -> None:
    """Say what is in a file or folder, without opening it in torch."""
    from gankit.inspection import inspect as look

    print(look(file, tensors=tensors))


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
    from gankit.class_table import write_class_table
    from gankit.core import recipe as recipes

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
    from gankit.operations import blend as mix

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
    from gankit.operations import average as mix

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
    from gankit.core.recipe import parse_count
    from gankit.operations import ema as reconstruct

    try:
        images = None if at is None else parse_count(at)
    except ValueError as error:
        raise GankitError(f"--at: {error}") from None
    out = out if out is not None else Path(f"ema-{length:g}")
    print(reconstruct(run, out, length=length, at=images))
    print(f"wrote {out}")


@app.command()
def recipes(strict_plugins: Strict = False) -> None:
    """List recipes."""
    from gankit.core.recipe import read_page

    rows = []
    for name in sorted(registry().names("recipe")):
        page, _ = read_page(name)
        description = " ".join(str(page.get("description", "")).split())
        rows.append((name, registry().get("recipe", name).package, description))
    _table(("recipe", "package", "what it is"), rows)


@app.command()
def doctor(strict_plugins: Strict = False) -> None:
    """Show torch, devices and the operators' implementations, and test these; exit code 1 if one is wrong."""
    from gankit.doctor import examine

    page, well = examine()
    print(page)
    raise typer.Exit(0 if well else 1)


plugins_app = typer.Typer(help="List plugins, or show the options of one.", rich_markup_mode=None)
app.add_typer(plugins_app, name="plugins")


@plugins_app.callback(invoke_without_command=True)
def plugins(
    context: typer.Context,
    kind: Annotated[str | None, typer.Option(help="Only this kind.")] = None,
    strict_plugins: Strict = False,
) -> None:
    """List plugins with their packages, and say why a package failed to load."""
    if context.invoked_subcommand is not None:
        return
    from gankit.errors import unknown
    from gankit.hookspecs import KINDS

    if kind is not None and kind not in KINDS:
        raise GankitError(unknown("plugin kind", kind, KINDS))
    found = sorted(registry().plugins.values(), key=lambda p: (list(KINDS).index(p.kind), p.name))
    _table(
        ("name", "kind", "package", "version"),
        [(p.name, p.kind, p.package, p.version) for p in found if kind in (None, p.kind)],
    )
    for failure in registry().failures:
        print(f"\n{failure.summary}")
        if failure.traceback:
            print("  " + failure.traceback.rstrip().replace("\n", "\n  "))


@plugins_app.command()
def show(
    name: Annotated[str, typer.Argument(help="A plugin's name, or kind/name.")],
    strict_plugins: Strict = False,
) -> None:
    """Print the options of a plugin: types, defaults, help."""
    from gankit.core.describe import describe

    print(describe(name))


OWN_COMMANDS = (
    *("train", "sample", "evaluate", "report", "compare", "export", "convert", "inspect", "blend", "average"),
    *("class-table", "ema", "recipes", "plugins", "doctor"),
)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
