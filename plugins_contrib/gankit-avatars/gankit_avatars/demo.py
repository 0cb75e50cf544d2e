"""The command `gankit demo`: samples the shipped model, trains one for minutes, writes a page about both."""

from __future__ import annotations

import base64
import html
import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

PROMPTS = (
    "a smiling person with a pink afro and sunglasses, wearing a yellow hoodie",
    "a sad man with a long gray beard and a green turban",
    "dark skin, short blonde hair, round glasses and a black suit",
    "someone shouting, with a red beanie and heart eyes",
    "yellow skin and long wavy blue hair",
)
TAGS = (
    "afro, orange_clothes, green_hair, dark_skin",
    "sunglasses, smile, mohawk, red_hair",
    "winter_hat, blue_headwear, beard, brown_hair, hoodie",
    "glasses",
)
CLASSES = ("bob", "mohawk", "turban", "hijab", "bald", "pigtails")
SEEDS = range(8)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for index.html and the training run.")] = Path("demo"),
    minutes: Annotated[float, typer.Option(help="Length of the training; 0 leaves it out.")] = 3.0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Sample the avatars model, train one from scratch for three minutes, and show both on a page."""
    from gankit.interfaces import write_advice, write_text

    with write_advice(out):
        out.mkdir(parents=True, exist_ok=True)
    sections = [
        *_samples(device),
        *(_training(out / "run", minutes, device) if minutes > 0 else []),
        _yourself(),
    ]
    page = out / "index.html"
    write_text(page, PAGE.replace("{sections}", "\n".join(sections)))
    print(f"\nlook at {page.resolve().as_uri()}")


# ----------------------------------------------------------------------------------------------- the shipped model


def _samples(device: str) -> list[str]:
    import gankit

    print("sampling the model 'avatars' ...", flush=True)
    try:
        pipe = gankit.load("avatars", device=device)
    except gankit.GankitError as error:
        print(f"  {error}")
        return [
            _section(
                "Pictures", f"<p>This copy of gankit-avatars carries no trained model: {_text(error)}</p>"
            )
        ]
    wishes: dict[str, list[dict[str, Any]]] = {
        "By prompt": [{"prompt": prompt} for prompt in PROMPTS],
        "By tags": [{"tags": tags} for tags in TAGS],
        "By class": [{"cls": cls} for cls in CLASSES],
        "From nothing": [{}],
    }
    fields = {"prompt": "text", "tags": "tags", "cls": "cls"}
    sections = []
    for title, rows in wishes.items():
        if not {fields[key] for row in rows for key in row} <= pipe.conditioner.accepts:
            continue
        figures = []
        for wish in rows:
            images = pipe(**wish, seeds=SEEDS, psi=0.7)
            figures.append(
                _figure(_row(images), next(iter(wish.values()), "no condition at all, seeds 0 to 7"))
            )
        sections.append(_section(title, *figures))
    made = f"{pipe.nimg / 1000:,.0f} thousand images" if pipe.nimg else "a while"
    note = (
        f"<p>The model <b>avatars</b> was trained on {made} with the recipe <b>{_text(pipe.recipe.name)}</b>."
    )
    sections[0] = sections[0].replace("</h2>", f"</h2>\n{note} Every column is one seed.</p>", 1)
    return sections


def _row(images: Sequence[Any]) -> bytes:
    import numpy as np

    from gankit.interfaces import sheet

    stream = io.BytesIO()
    sheet([np.asarray(image.convert("RGB")) for image in images], columns=len(images)).save(stream, "PNG")
    return stream.getvalue()


# ---------------------------------------------------------------------------------------------------- the training


def _training(run: Path, minutes: float, device: str) -> list[str]:
    import gankit

    def train(what: str) -> None:
        print(f"{what} the recipe 'avatars' in {run} for {minutes:g} minutes ...", flush=True)
        gankit.train("avatars", run, minutes=minutes, device=device)

    if (run / "checkpoints").is_dir():
        try:
            train("going on with")
        except gankit.GankitError as error:  # the recipe or the data of another version, say
            print(f"  {error}\n  so the demo begins anew", flush=True)
            shutil.rmtree(run)
            train("training")
    else:
        train("training")
    log = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    grids = sorted((run / "samples").glob("[0-9]*.png"))
    figures = [
        _figure(grids[0].read_bytes(), "before the first step"),
        _figure(grids[-1].read_bytes(), f"after {log[-1]['nimg']:,} images"),
        _figure(
            (run / "samples" / "real.png").read_bytes(), "the real images that these were asked to match"
        ),
    ]
    columns = {
        "images": "nimg",
        "images/s": "speed/images_per_s",
        "loss of G": "loss/G",
        "loss of D": "loss/D",
    }
    shown = [log[i * (len(log) - 1) // 5] for i in range(6)] if len(log) > 6 else log
    rows = ["".join(f"<th>{name}</th>" for name in columns)]
    rows += ["".join(f"<td>{_number(line.get(key))}</td>" for key in columns.values()) for line in shown]
    table = "<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"
    note = (
        f"<p>{minutes:g} minutes, {log[-1]['nimg']:,} images so far; good pictures take hours. "
        "The next <code>gankit demo</code> goes on from here.</p>"
    )
    return [_section("Training on this machine", note, *figures, table)]


def _number(value: Any) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


# -------------------------------------------------------------------------------------------------------- the page

COMMANDS = """\
gankit sample avatars --prompt "a wink, a bun and an orange sweater" --seeds 0-15
gankit sample avatars --tags "afro, smile" --class afro --psi 0.5
gankit train stylegan2 --data FOLDER --size 64 --out runs/mine    # your images
gankit sample runs/mine
gankit recipes                                                    # what else can be trained"""
PYTHON = """\
import gankit

pipe = gankit.load("avatars")
images = pipe("a smiling person with a mohawk", seeds=range(4), psi=0.7)
images[0].save("mohawk.png")"""


def _yourself() -> str:
    return _section("Do it yourself", f"<pre>{_text(COMMANDS)}</pre>", f"<pre>{_text(PYTHON)}</pre>")


def _text(value: object) -> str:
    return html.escape(str(value))


def _figure(png: bytes, caption: str) -> str:
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return f'<figure><img src="{source}" alt="{_text(caption)}"><figcaption>{_text(caption)}</figcaption></figure>'


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{_text(title)}</h2>\n" + "\n".join(parts) + "\n</section>"


PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>gankit demo</title>
<style>
  :root { color-scheme: light dark; --soft: #8884; }
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 2rem auto; padding: 0 1rem; }
  h1 { margin-bottom: 0; }
  h2 { margin: 2.5rem 0 .5rem; border-bottom: 1px solid var(--soft); }
  figure { margin: 1rem 0; }
  figcaption { font-style: italic; }
  img { display: block; width: 100%; max-width: 66rem; border-radius: 4px; image-rendering: pixelated; }
  pre { background: var(--soft); padding: .8rem 1rem; border-radius: 4px; overflow-x: auto; }
  table { border-collapse: collapse; }
  th, td { padding: .2rem 1rem; text-align: right; border-bottom: 1px solid var(--soft); }
</style>
<h1>gankit</h1>
<p>Image generators of the StyleGAN family, asked by prompt, by tags, by class, or by nothing at all.</p>
{sections}
</html>
"""
