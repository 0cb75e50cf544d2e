"""Recipes, the YAML pages that name plugins and their options, checked against the plugins' signatures."""

from __future__ import annotations

import importlib.resources
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from gankit.core.config import options, packages, schedules, sections, stages
from gankit.core.config.model_recipe import VERSION as VERSION
from gankit.core.config.model_recipe import ModelData, ModelRecipe, checked_page, explain
from gankit.core.config.model_recipe import parse_size as parse_size
from gankit.core.config.registry import registry
from gankit.core.config.retention import Retention, checked_retention
from gankit.core.runtime import yaml_files
from gankit.core.runtime.units import Count
from gankit.core.runtime.units import parse_count as parse_count
from gankit.errors import GankitError, unknown


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True)


class DataOptions(ModelData):
    """The section `data` of a recipe for training."""

    model_config = _Section.model_config


class TrainOptions(_Section):
    images: Count = Field(
        200_000, ge=1, description="length of the run in images shown to D, such as 200k or 8Mi"
    )
    batch: int = Field(32, ge=1, description="images a step, over all processes")
    micro_batch: int | None = Field(
        None, ge=1, description="images in memory at once; splits the batch of a process"
    )
    order: Literal["dg", "gd"] = Field("dg", description="whether a step trains D or G first")
    d_steps: int = Field(1, ge=1, description="D steps for one G step, each with its own images (BigGAN: 2)")
    lr_g: float = Field(2e-3, gt=0, description="learning rate of G")
    lr_d: float = Field(2e-3, gt=0, description="learning rate of D")
    lr_conditioner: float = Field(3e-6, gt=0, description="learning rate of a trainable conditioner")
    ttur: float = Field(1.0, gt=0, description="factor on lr_d: two time scales (Heusel et al. 2017)")
    betas: tuple[float, float] = Field((0.0, 0.99), description="betas of the optimizers")
    betas_g: tuple[float, float] | None = Field(None, description="betas of G's optimizer, if others")
    betas_d: tuple[float, float] | None = Field(None, description="betas of D's optimizer, if others")
    eps: float = Field(1e-8, gt=0, description="epsilon of the optimizers")
    ema_kimg: float = Field(
        10.0, gt=0, description="half-life of the moving average of G, in thousand images"
    )
    ema_rampup: float | None = Field(0.05, description="half-life is at most this share of the images so far")
    posthoc_ema: list[Annotated[float, Field(gt=0, le=0.28)]] = Field(
        [], description="lengths of averages that are kept for `gankit ema`, such as [0.05, 0.1]"
    )
    posthoc_every: Count | None = Field(
        None, ge=1, description="images between snapshots of these; a 50th of the run by default"
    )
    style_mixing: float = Field(
        0.0, ge=0, le=1, description="probability of mixing two latents in a training batch"
    )
    top_k: float = Field(
        1.0, gt=0, le=1, description="share of a batch's fakes, the best by D, that G learns from"
    )
    blur_sigma: float = Field(
        0.0, ge=0, description="pixels of blur on all that D sees, at the beginning of a stage"
    )
    blur_kimg: float = Field(300.0, gt=0, description="thousand images in which that blur fades out")
    fade_kimg: float = Field(
        0.0,
        ge=0,
        description="thousand images in which the finest details fade in, at the beginning of a stage",
    )
    freeze: list[str] = Field([], description="parts that are not trained, such as discriminator.b64")
    judge_condition: Literal["trained", "pretrained"] = Field(
        "trained", description="what D sees of a trained conditioner: what G sees, or its pretrained encoder"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 autocast where hardware has it"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="seed of everything that is random")
    max_bad_steps: int = Field(
        20, ge=1, description="stop after this many steps in a row with non-finite gradients"
    )
    tick: Count = Field(1000, ge=1, description="images between log lines")
    samples_every: Count = Field(10_000, ge=1, description="images between sample grids")
    checkpoint_every: Count = Field(10_000, ge=1, description="images between checkpoints")
    keep: Annotated[int | str, BeforeValidator(checked_retention)] = Field(
        2, description="checkpoints that are kept: a number, or last:2,best:3"
    )
    workers: int | None = Field(
        None, ge=0, description="processes that decode images; default by number of cores"
    )


class EvaluationOptions(_Section):
    every: Count | None = Field(None, ge=1, description="images between evaluations; null for none")
    metrics: dict[str, Any] = Field({"fd": {}}, description="metric plugins")
    feature: Any = Field("timm-cnn", description="feature plugin whose pooled features are compared")
    num: Count = Field(2000, ge=1, description="generated images, and real ones at most")
    side: int | None = Field(None, ge=1, description="pixels at which images enter the feature network")
    batch: int = Field(32, ge=1, description="images at a time")
    seed: int = Field(0, ge=0, lt=2**31, description="image i is drawn from seed + i")
    seconds: float = Field(120.0, gt=0, description="an evaluation that takes longer is given up")


# Keys in which a resumed run may differ from the saved one: they do not change what a training step computes.
FREE_TO_CHANGE = frozenset(
    {"name", "description", "trackers", "data.path", "packages"}
    | {"train.images", "train.micro_batch", "train.max_bad_steps", "train.tick", "train.samples_every"}
    | {"train.checkpoint_every", "train.keep", "train.workers", "train.posthoc_every", "evaluation"}
)


class Recipe(ModelRecipe):
    """A resolved recipe: each plugin section holds the plugin's name and all of its options."""

    model_config = _Section.model_config

    data: DataOptions = DataOptions()
    discriminator: Any = "stylegan2"
    loss: Any = "non-saturating"
    regularizers: dict[str, Any] = {}
    optimizer_g: Any = "adam"
    optimizer_d: Any = "adam"
    guidance: dict[str, Any] = {}
    augmentation: Any = None
    trackers: dict[str, Any] = {}
    schedules: dict[str, Any] = {}
    stages: list[dict[str, Any]] = []
    train: TrainOptions = TrainOptions()
    evaluation: EvaluationOptions = EvaluationOptions()
    packages: Any = {}  # 'kind name' -> 'package version'; `parse` fills it in

    @field_validator(*sections.PLUGIN_MAPS, mode="before")
    @classmethod
    def _no_none(cls, value: Any) -> Any:
        entries = {} if value is None else value
        if isinstance(entries, dict):
            entries = {k: {} if v in (None, True) else v for k, v in entries.items() if v is not False}
        if not isinstance(entries, dict) or not all(isinstance(v, dict) for v in entries.values()):
            raise ValueError("must map names of plugins to their options, or to false to leave one out")
        return entries

    @field_validator("schedules", mode="before")
    @classmethod
    def _no_schedules(cls, value: Any) -> Any:
        return {} if value is None else value

    @property
    def seed(self) -> int:
        return self.train.seed

    def at_stage(self, index: int) -> Recipe:
        """The recipe of one stage: this one with the stage's changes merged in; itself if it has no stages."""
        if not self.stages:
            return self
        page = self.model_dump(mode="json", exclude={"stages"})
        changes = {key: value for key, value in self.stages[index].items() if key not in stages.OWN}
        return parse(stages.merge(page, changes), f"stages.{index}")

    def scheduled_options(self) -> dict[str, Any]:
        """The sections whose numbers may have schedules, as plain mappings by name."""
        page = {name: getattr(self, name) or {} for name in sections.SCHEDULED if name != "train"}
        return {**page, "train": self.train.model_dump()}

    def differences(self, other: Recipe) -> list[str]:
        """Lines 'key: mine -> other' for the keys in which the recipes differ, without those in FREE_TO_CHANGE."""
        mine, theirs = (
            flatten({**page, "stages": dict(enumerate(page["stages"]))})
            for page in (self.model_dump(mode="json"), other.model_dump(mode="json"))
        )
        lines = []
        for key in sorted(mine.keys() | theirs.keys()):
            plain = re.sub(r"^stages\.\d+\.", "", key)
            free = any(plain == f or plain.startswith(f + ".") for f in FREE_TO_CHANGE)
            if not free and mine.get(key) != theirs.get(key):
                lines.append(f"{key}: {mine.get(key)!r} -> {theirs.get(key)!r}")
        return lines


def parse(data: Any, origin: str) -> Recipe:
    """Check a recipe given as nested dicts and fill in every default.

    Raises GankitError naming `origin`, the key at fault and the nearest valid one.
    """
    data = checked_page(data, origin)
    _tiny_changes(data.pop("tiny", {}), origin)
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        raise GankitError(f"{origin}: {explain(error, Recipe)}") from None
    with packages.explaining(recipe.packages):
        return _checked(recipe, origin)


def _checked(recipe: Recipe, origin: str) -> Recipe:
    """A recipe whose plugins' options and packages are filled in. Raises GankitError as `parse` does."""
    for name, plugin in sections.PLUGINS.items():
        spec, default = getattr(recipe, name), Recipe.model_fields[name].default
        if isinstance(spec, dict) and "name" not in spec and isinstance(default, str):
            spec = {"name": default, **spec}  # options of the default plugin
        if spec is not None or not plugin.optional:
            setattr(recipe, name, options.check(plugin.kind, spec, name))
    for section, kind in sections.PLUGIN_MAPS.items():
        checked = {}
        for name, given in getattr(recipe, section).items():
            spec = options.check(kind, {**given, "name": name}, f"{section}.{name}")
            checked[name] = {key: value for key, value in spec.items() if key != "name"}
        setattr(recipe, section, checked)
    recipe.schedules = schedules.check(recipe.schedules, recipe.scheduled_options(), origin)
    staged: dict[str, str] = {}
    recipe.stages = stages.check(recipe.stages, recipe.evaluation.every is not None, origin)
    for index in range(len(recipe.stages)):
        try:
            staged |= recipe.at_stage(index).packages
        except GankitError as error:
            where = f"stages.{index}: "
            raise GankitError(f"{origin}: {where}{str(error).removeprefix(where)}") from None
    _check_evaluation(recipe)
    recipe.packages = dict(sorted((_packages(recipe) | staged).items()))
    return recipe


def _packages(recipe: Recipe) -> dict[str, str]:
    """The packages of a recipe's plugins with checked options. A source may be missing until data are read: it keeps
    its record."""
    specs = [(plugin.kind, getattr(recipe, name)) for name, plugin in sections.PLUGINS.items()]
    maps = [(kind, getattr(recipe, name)) for name, kind in sections.PLUGIN_MAPS.items()]
    if recipe.evaluation.every is not None:
        specs.append(("feature", recipe.evaluation.feature))
        maps.append(("metric", recipe.evaluation.metrics))
    specs += [(kind, {**spec, "name": name}) for kind, entries in maps for name, spec in entries.items()]
    source, colon, _ = (recipe.data.path or "").partition(":")
    if colon:
        specs.append(("source", source))
    recorded = packages.sound(recipe.packages).items()
    kept = {key: record for key, record in recorded if colon and key == f"source {source}"}
    return kept | packages.used((kind, spec) for kind, spec in specs if spec is not None)


def _check_evaluation(recipe: Recipe) -> None:
    """Check and fill in the metric and feature plugins of `evaluation`, if `evaluation.every` is set.

    Raises GankitError for options that do not fit, and if train.keep names a number that is not measured."""
    wish, best = recipe.evaluation, Retention.parse(recipe.train.keep).best
    if wish.every is None:
        if best:
            raise GankitError(
                f"train.keep = {recipe.train.keep!r} keeps the best checkpoints by a metric, which is measured only if "
                "evaluation.every is set (--eval-every 50k)"
            )
        return
    wish.feature = options.check("feature", wish.feature, "evaluation.feature")
    for name, given in wish.metrics.items():
        spec = options.check("metric", {**(given or {}), "name": name}, f"evaluation.metrics.{name}")
        wish.metrics[name] = {key: value for key, value in spec.items() if key != "name"}
    numbers = measured(wish)
    if not numbers:
        raise GankitError("evaluation.metrics names no metric that has a better side; use for example fd")
    for _, name in best:
        if name and name not in numbers:
            raise GankitError(unknown("number in train.keep:", name, numbers))


def measured(wish: EvaluationOptions) -> dict[str, str]:
    """Value name -> 'lower' or 'higher', whichever is better, in the order of the metrics; values with neither are left
    out."""
    found: dict[str, str] = {}
    for name in wish.metrics:
        for number, better in registry().load("metric", name).values.items():
            if better:
                found.setdefault(number, better)
    return found


def read(name_or_path: str, overrides: dict[str, Any] | None = None, *, tiny: bool = False) -> Recipe:
    """Read and check a recipe.

    Args:
        name_or_path: registered name, YAML file, or folder with a recipe.yaml.
        overrides: dotted key -> value, such as {'generator.channel_base': 4096}.
        tiny: first apply the page's section 'tiny', which makes the recipe train in seconds on a CPU.

    Raises GankitError for an unknown name, an unreadable file or an invalid recipe.
    """
    data, origin = read_page(name_or_path)
    if tiny:
        changes = _tiny_changes(data.pop("tiny", {}), origin)
        if not changes:
            raise GankitError(
                f"{origin} has no section 'tiny', which says how to make it small; add one, or leave --tiny away"
            )
        for key, value in changes.items():
            override(data, key, value, origin=f"{origin}: tiny")
        data["name"] = f"{data.get('name', Recipe().name)}-tiny"
    for key, value in (overrides or {}).items():
        override(data, key, value)
    return parse(data, origin)


def read_page(name_or_path: str) -> tuple[dict[str, Any], str]:
    """The raw page of a recipe's name or path, and its name for messages. Raises GankitError if it cannot be read."""
    path = Path(name_or_path)
    if path.is_dir() and (path / "recipe.yaml").is_file():
        path = path / "recipe.yaml"
    if path.suffix in (".yaml", ".yml") or path.is_file():
        origin = str(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise GankitError(f"cannot read the recipe {path}: {error}") from None
    else:
        origin = f"recipe {name_or_path!r}"
        plugin = registry().get("recipe", name_or_path)
        package, _, inner = plugin.target.partition(":")
        try:
            text = importlib.resources.files(package).joinpath(inner).read_text(encoding="utf-8")
        except Exception as error:  # imports that package, which may raise anything
            reason = " ".join(str(error).split())
            raise GankitError(
                f"{origin} of package {plugin.package!r} cannot be read ({reason}); {plugin.way_out}"
            ) from None
    try:
        data = yaml_files.load(text)
    except ValueError as error:
        raise GankitError(f"{origin} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise GankitError(
            f"{origin} is not a recipe: expected a mapping with keys such as generator, data, train"
        )
    return data, origin


def _tiny_changes(section: Any, origin: str) -> dict[str, Any]:
    if not isinstance(section, dict) or not all(isinstance(key, str) for key in section):
        raise GankitError(f"{origin}: tiny must map keys such as generator.channel_base to values")
    return section


def override(data: dict[str, Any], dotted: str, value: Any, *, origin: str = "--set") -> None:
    """Set a value in a raw page, by dotted key, in place.

    A plugin given by its bare name becomes {'name': ...} when one of its options is set. Raises GankitError if the key
    leads into a value that is not a mapping."""
    keys = dotted.split(".")
    node = data
    for depth, key in enumerate(keys[:-1]):
        child = node.get(key)
        if isinstance(child, str) and key not in ("name", "description"):
            child = {"name": child}
        elif child is None:
            child = {}
        elif not isinstance(child, dict):
            raise GankitError(
                f"{origin} {dotted}: {'.'.join(keys[: depth + 1])} is a value, it has no {keys[depth + 1]!r}"
            )
        node[key] = child
        node = child
    if isinstance(value, str) and isinstance(node.get(keys[-1]), dict) and "name" in node[keys[-1]]:
        value = {"name": value}  # another plugin: the options of the replaced one do not apply to it
    node[keys[-1]] = value


def parse_set(items: list[str]) -> dict[str, Any]:
    """Arguments 'key=value' of --set -> dotted key -> value, see `parse_value`.

    Raises GankitError for an argument without '='."""
    overrides = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise GankitError(
                f"--set {item!r} must look like key=value, for example generator.channel_base=4096"
            )
        overrides[key.strip()] = parse_value(value)
    return overrides


def parse_value(text: str) -> Any:
    """A value on the command line, parsed as YAML: 4096, 0.5, true, null, [1, 3, 3, 1], text."""
    if re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", text.strip()):
        return float(text)  # YAML 1.1 reads 2e-3 as text
    try:
        return yaml_files.load(text)
    except ValueError:
        return text


def flatten(data: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts -> one dict with dotted keys; empty dicts are kept as values."""
    if not isinstance(data, dict) or not data:
        return {prefix: data}
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat
