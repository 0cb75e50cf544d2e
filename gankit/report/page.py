"""The HTML pages of `gankit report` and `gankit compare`, one self-contained file each.

Templates escape whatever comes from a run (jinja2's autoescape); the page's content security policy forbids all
requests and any script but its own, so that a run from elsewhere is safe to look at.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

from gankit._version import __version__
from gankit.errors import GankitError
from gankit.report import pictures
from gankit.report.charts import Chart, Curve, chart, sparkline
from gankit.report.conditioning import conditioning_of
from gankit.report.health import Check, checks
from gankit.report.reading import Evaluation, Run, Series

MAX_BYTES = 16 << 20  # of pictures and film in a page
MAX_SHOWN = 6  # pictures of metrics
MAX_RUNS = 8  # side by side: as many as there are colours

# Numbers that belong together, as title and names; a name that ends in / takes all of that group.
GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Losses of G and D", ("loss/G", "loss/D")),
    ("Scores by D", ("score/real", "score/fake")),
    ("Signs of D's scores", ("sign/real", "sign/fake")),
    ("Gradient norms", ("grad_norm/G", "grad_norm/D")),
    ("Variety of the samples, share of real", ("samples/variety",)),
    ("Augmentation", ("augment/",)),
    ("Guidance", ("guidance/",)),
    ("Speed, images/s", ("speed/images_per_s",)),
    ("Where time goes, shares", ("time/",)),
    ("Skipped steps", ("bad_steps",)),
)


def write_report(run: str | Path, out: str | Path | None = None) -> Path:
    """Write the page about a run; returns its path.

    Args:
        run: folder of a run, finished, interrupted or going on.
        out: HTML file; RUN/report.html when omitted.

    Raises GankitError if the folder holds no run or the page cannot be written.
    """
    found = Run(run)
    return _write(
        _render("report.html", **_report(found)), Path(out) if out else found.folder / "report.html"
    )


def write_comparison(runs: Sequence[str | Path], out: str | Path) -> Path:
    """Write a page with two to eight runs side by side; returns its path.

    Raises GankitError if a folder holds no run or the page cannot be written.
    """
    if not 2 <= len(runs) <= MAX_RUNS:
        raise GankitError(f"name 2 to {MAX_RUNS} runs to compare, not {len(runs)}")
    return _write(_render("compare.html", **_comparison([Run(run) for run in runs])), Path(out))


def _write(text: str, path: Path) -> Path:
    from gankit.core.runtime import tensor_files

    with tensor_files.write_advice(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    tensor_files.write_text(path, text)
    return path


def _render(template: str, **values: Any) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gankit.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["Markup"] = jinja2.filters.Markup
    texts = importlib.resources.files("gankit.report").joinpath("templates")
    script = texts.joinpath("page.js").read_text(encoding="utf-8")
    return environment.get_template(template).render(
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=texts.joinpath("page.css").read_text(encoding="utf-8"),
        version=__version__,
        written=time.strftime("%Y-%m-%d %H:%M"),
        **values,
    )


# ------------------------------------------------------------------------------------------------- one run


@dataclass(frozen=True)
class Shown:
    """A health line with its sparkline."""

    check: Check
    spark: str


def _report(run: Run) -> dict[str, Any]:
    _add_variety(run)
    film = pictures.montage(run.grids, MAX_BYTES // 3)
    return {
        "run": run,
        "title": run.name,
        "state": run.state,
        "figures": _figures(run),
        "slides": pictures.slides(run.grids, MAX_BYTES // 2),
        "real": _real(run),
        "film": film,
        "film_note": "" if film else _film_note(run),
        "health": _health(run),
        "charts": _charts([run]),
        "metrics": _metric_rows(run),
        "shown": _metric_pictures(run),
        "conditioning": conditioning_of(run),
        "recipe": yaml.safe_dump(run.recipe, sort_keys=False, allow_unicode=True, width=100),
        "hardware": _hardware(run),
    }


def _add_variety(run: Run) -> None:
    found = pictures.variety(run)
    if found is not None:
        run.series[found.name] = found


def _film_note(run: Run) -> str:
    if len(run.grids) < 2:
        return "A film of the training appears here once there are two sample grids."
    if not pictures.can_encode():
        return f"For a film of the training, install PyAV with {pictures.VIDEO_ADVICE} and write this page again."
    return "The film of the training would be too large for this page."


def _real(run: Run) -> pictures.Picture | None:
    image = pictures.open_rgb(run.real) if run.real is not None else None
    return None if image is None else pictures.picture(image, "real images with the same conditions")


def _health(run: Run) -> list[Shown]:
    return [
        Shown(check, sparkline([run.series[name] for name in check.series if name in run.series]))
        for check in checks(run)
    ]


def _figures(run: Run) -> list[tuple[str, str]]:
    """The key figures at the top of the page: (name, value)."""
    of = f" of {_count(run.goal)}" if run.goal else ""
    found = [("images", f"{_count(run.nimg)}{of}")]
    if run.seconds:
        found.append(("time training", _duration(run.seconds)))
    speed = run.series.get("speed/images_per_s")
    if speed is not None and (now := speed.recent()) is not None:
        found.append(("images per second", f"{now:.3g}"))
        if run.state[0] == "running" and run.goal:
            found.append(("time left", _duration((run.goal - run.nimg) / now)))
    for name, value, nimg in _bests(run)[:2]:
        found.append((f"best {name}", f"{value:.4g}" + ("" if nimg is None else f" at {_count(nimg)}")))
    size = run.flat_recipe.get("data.size")
    if isinstance(size, list) and len(size) == 2:
        found.append(("pixels", f"{size[0]} × {size[1]}"))
    return found


def _bests(run: Run) -> list[tuple[str, float, int | None]]:
    """The best value of each measured number that has a direction: (name, value, images)."""
    best: dict[str, tuple[float, int | None, str]] = {}
    for evaluation in run.evaluations:
        for _, name, value, better in evaluation.numbers():
            if better not in ("lower", "higher"):
                continue
            old = best.get(name)
            if old is None or (value < old[0] if better == "lower" else value > old[0]):
                best[name] = (value, evaluation.nimg, better)
    return [(name, value, nimg) for name, (value, nimg, _) in best.items()]


def _metric_rows(run: Run) -> list[tuple[str, str, str, str, str]]:
    """(images trained, metric, value, which is better, what was measured) of each number, the newest first."""
    rows = []
    for evaluation in reversed(run.evaluations):
        when = "" if evaluation.nimg is None else f"{evaluation.nimg:,}"
        for metric, name, value, better in evaluation.numbers():
            shown = name if name == metric else f"{metric}: {name}"
            rows.append((when, shown, f"{value:.5g}", better, _setting(evaluation)))
    return rows


def _metric_pictures(run: Run) -> list[pictures.Picture]:
    """Pictures that metrics made, such as generated images beside their nearest training images.

    They are those of the newest evaluation that has any.
    """
    for evaluation in reversed(run.evaluations):
        found = []
        metrics = evaluation.page.get("metrics")
        for name, result in metrics.items() if isinstance(metrics, dict) else ():
            files = result.get("pictures") if isinstance(result, dict) else None
            for file in files if isinstance(files, list) else []:
                path = evaluation.file(file, run.folder)
                image = pictures.open_rgb(path) if path is not None else None
                if path is not None and image is not None:
                    found.append(pictures.picture(image, f"{name}: {path.stem}"))
        if found:
            return found[:MAX_SHOWN]
    return []


def _setting(evaluation: Evaluation) -> str:
    """The setting of an evaluation in short; only numbers with the same setting are comparable."""
    generated, real, feature = (
        section if isinstance(section := evaluation.page.get(key), dict) else {}
        for key in ("generated", "real", "feature")
    )
    parts = []
    if generated.get("images") is not None:
        parts.append(f"{generated['images']} generated")
    if real.get("images") is not None:
        parts.append(f"{real['images']} real")
    if feature.get("name") is not None:
        parts.append(f"{feature['name']} at {feature.get('input', '?')} px")
    if generated.get("psi") not in (None, 1, 1.0):
        parts.append(f"psi {generated['psi']}")
    return ", ".join(parts)


def _hardware(run: Run) -> list[dict[str, str]]:
    """One row for each process that trained here."""
    rows = []
    for nimg, when, machine in run.sessions:
        row = {"logging since": f"{nimg:,} images"}
        if when is not None:
            row["at"] = time.strftime("%Y-%m-%d %H:%M", time.localtime(when))
        rows.append(row | {str(key): str(value) for key, value in machine.items()})
    return rows


# ------------------------------------------------------------------------------------------------- charts


def _charts(runs: Sequence[Run]) -> list[Chart]:
    """Charts of one run, related numbers in one chart, or of several runs, one number of all runs in each chart."""
    names = list(dict.fromkeys(name for run in runs for name, series in run.series.items() if _worth(series)))
    measured = _measured(runs)
    found = [_measured_chart(name, measured[name], runs) for name in measured]
    left = [name for name in names if not (name.startswith("eval/") and name[5:] in {n for n, _ in measured})]
    for title, wanted in GROUPS:
        group = [name for w in wanted for name in left if name == w or (w[-1] == "/" and name.startswith(w))]
        left = [name for name in left if name not in group]
        found += _group(title, group, runs)
    for name in left:  # losses of regularizers, and what plugins log
        found += _group(name, [name], runs)
    return [one for one in found if one is not None]


def _worth(series: Series) -> bool:
    """True unless the series is a count of skipped steps that stayed 0."""
    return series.name != "bad_steps" or any(series.finite)


def _group(title: str, names: Sequence[str], runs: Sequence[Run]) -> list[Chart | None]:
    if len(runs) == 1:
        series = [runs[0].series[name] for name in names]
        curves = [Curve.of(s, _legend(s.name, names), i) for i, s in enumerate(series)]
        return [chart(title, curves, linear=any(name.startswith("time/") for name in names))]
    return [
        chart(
            title if len(names) == 1 else f"{title}: {_legend(name, names)}",
            [Curve.of(run.series[name], run.name, i) for i, run in enumerate(runs) if name in run.series],
        )
        for name in names
    ]


def _legend(name: str, names: Sequence[str]) -> str:
    """The part of a name that differs within its group."""
    prefix, slash, rest = name.partition("/")
    return (
        rest if slash and all(other.startswith(prefix + "/") for other in names) and len(names) > 1 else name
    )


def _measured(runs: Sequence[Run]) -> dict[tuple[str, str], dict[int, Series]]:
    """(number, setting) -> run's index -> its values over the images trained."""
    found: dict[tuple[str, str], dict[int, Series]] = {}
    for i, run in enumerate(runs):
        for evaluation in run.evaluations:
            if evaluation.nimg is None:
                continue
            for _, name, value, better in evaluation.numbers():
                if better in ("lower", "higher"):
                    series = found.setdefault((name, _setting(evaluation)), {}).setdefault(i, Series(name))
                    series.nimg.append(evaluation.nimg)
                    series.values.append(value)
    return found


def _measured_chart(key: tuple[str, str], series: dict[int, Series], runs: Sequence[Run]) -> Chart | None:
    name, setting = key
    curves = [Curve.of(s, runs[i].name if len(runs) > 1 else name, i) for i, s in series.items()]
    return chart(f"{name} ({setting})" if setting else name, curves, dots=True)


# --------------------------------------------------------------------------------------------- several runs


@dataclass(frozen=True)
class Difference:
    """A key of the recipe and its value in each run; `odd` are those that differ from the first run's."""

    key: str
    values: list[str]
    odd: list[bool]


def _comparison(runs: Sequence[Run]) -> dict[str, Any]:
    names = _names(runs)
    for run, name in zip(runs, names):
        run.name = name
        _add_variety(run)
    differences = _differences(runs)
    keys = {key for run in runs for key in run.flat_recipe}
    return {
        "title": " · ".join(names),
        "names": names,
        "runs": runs,
        "states": [run.state for run in runs],
        "figures": _side_by_side([dict(_figures(run)) for run in runs]),
        "slides": [pictures.slides(run.grids, MAX_BYTES // len(runs)) for run in runs],
        "health": [_health(run) for run in runs],
        "charts": _charts(runs),
        "metrics": _side_by_side([_latest(run) for run in runs]),
        "conditioning": _side_by_side([_accuracies(run) for run in runs]),
        "differences": differences,
        "equal": len(keys) - len(differences),
    }


def _names(runs: Sequence[Run]) -> list[str]:
    """Names of the folders, with the folder above where that is needed to tell them apart."""
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run.folder) for run in runs]
    return names


def _differences(runs: Sequence[Run]) -> list[Difference]:
    found = []
    for key in dict.fromkeys(key for run in runs for key in run.flat_recipe):
        if key.startswith("packages.") and not all(key in run.flat_recipe for run in runs):
            continue  # another plugin, which the section that names it tells
        values = [_plain(run.flat_recipe[key]) if key in run.flat_recipe else "–" for run in runs]
        if len(set(values)) > 1:
            found.append(Difference(key, values, [value != values[0] for value in values]))
    return found


def _plain(value: Any) -> str:
    return (
        str(value)
        if isinstance(value, str)
        else yaml.safe_dump(value, default_flow_style=True).split("\n")[0]
    )


def _latest(run: Run) -> dict[str, str]:
    """Number and setting -> value of the newest evaluation that has it."""
    found: dict[str, str] = {}
    for evaluation in run.evaluations:
        for _, name, value, better in evaluation.numbers():
            setting = _setting(evaluation)
            found[
                name + (f" ({setting})" if setting else "") + (f", {better} is better" if better else "")
            ] = f"{value:.5g}"
    return found


def _accuracies(run: Run) -> dict[str, str]:
    table = conditioning_of(run)
    return {} if table is None else {row.name: f"{row.accuracy:.3f}" for row in table.attributes}


def _side_by_side(columns: Sequence[dict[str, str]]) -> list[tuple[str, list[str]]]:
    """(row's name, a value for each column) over all names."""
    names: Iterable[str] = dict.fromkeys(name for column in columns for name in column)
    return [(name, [column.get(name, "–") for column in columns]) for name in names]


def _count(images: float) -> str:
    if images >= 1e6:
        return f"{images / 1e6:.4g}M"
    return f"{images / 1e3:.4g}k" if images >= 1e4 else f"{images:,.0f}"


def _duration(seconds: float) -> str:
    whole = timedelta(seconds=round(seconds))
    hours, rest = divmod(whole.seconds, 3600)
    days = f"{whole.days} d " if whole.days else ""
    return f"{days}{hours} h {rest // 60:02} min" if days or hours else f"{rest // 60} min {rest % 60:02} s"
