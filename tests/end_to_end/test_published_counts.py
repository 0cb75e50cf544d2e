"""Recipes at full size have as many parameters as their papers say, or as the official constructors make."""

from __future__ import annotations

from typing import Any

import pytest
from repository import ROOT
from torch import nn

from gankit.core.config import options
from gankit.core.config.recipe import read
from gankit.core.interfaces.conditions import CondSpec
from gankit.core.interfaces.labels import Vocabulary
from gankit.core.training.assembly import rehearse
from gankit.core.training.footprint import META
from gankit.core.training.freezing import freeze

# recipe, changes, classes; parameters of G, of D that are trained; source.
# A number with a decimal point is in millions, as it was published.
PUBLISHED: list[tuple[str, dict[str, Any], int, int | float | None, int | float | None, str]] = [
    ("stylegan2-ada-paper256", {}, 0, 24_767_458, 24_001_089, "official code; R3GAN's table: 24.767, 24.001"),
    ("stylegan2-ada-paper512", {}, 0, 30_276_583, 28_982_849, "official code"),
    ("stylegan2-ada-paper1024", {}, 0, 30_370_060, 29_012_513, "official code"),
    ("stylegan2-ext-danbooru", {}, 0, 116.84, 29.00, "with the code of StyleGAN2-ADA; 1 GB with G's average"),
    ("stylegan-t-64", {}, 0, 975.5, 7.754, "official code; synthesis network and heads"),
    ("stylegan-t-512", {}, 0, 1020.5, None, "the paper's 1.02 billion"),
    ("stylegan3-t", {}, 0, 28_472_133, None, "official code"),
    ("stylegan3-t", {"data.size": 512}, 0, 24_873_519, 28_982_849, "official code"),
    ("stylegan3-t", {"data.size": 1024}, 0, 22_313_167, 29_012_513, "official code"),
    ("stylegan3-r", {}, 0, 18_816_387, None, "official code"),
    ("stylegan3-r", {"data.size": 512}, 0, 16_665_594, None, "official code"),
    ("stylegan3-r", {"data.size": 1024}, 0, 15_093_151, None, "official code"),
    ("projected-fastgan", {}, 0, 105.68, 10_331_328, "official code"),
    ("projected-fastgan", {"data.size": 512}, 0, 105.87, 10_331_328, "official code"),
    ("projected-fastgan-lite", {}, 0, 79.35, 10_331_328, "official code"),
    ("projected-stylegan2", {}, 0, None, 696_512, "official code"),
    ("r3gan-cifar10", {}, 10, 20.78, 21.28, "R3GAN, tables of the appendix"),
    ("r3gan-ffhq64", {}, 0, 22.43, 22.38, "R3GAN, tables of the appendix"),
    ("r3gan-ffhq256", {}, 0, 23.06, 23.01, "R3GAN, tables of the appendix; 23.058, 23.010 in its table 2"),
    ("r3gan-imagenet32", {}, 1000, 82.91, 86.55, "R3GAN, tables of the appendix"),
    ("r3gan-imagenet64", {}, 1000, 103.57, 107.21, "R3GAN, tables of the appendix"),
]


@pytest.mark.parametrize(
    ("name", "changes", "classes", "g", "d", "source"),
    PUBLISHED,
    ids=[f"{row[0]}-{row[1].get('data.size', '')}".rstrip("-") for row in PUBLISHED],
)
def test_parameters(name: str, changes: dict[str, Any], classes: int, g: Any, d: Any, source: str) -> None:
    counts = {str(i): 1300 for i in range(classes)}
    recipe = read(name, changes)
    if recipe.stages:
        recipe = recipe.at_stage(-1)
    parts = rehearse(recipe, Vocabulary(counts, captioned=1, total=1))
    network = parts.G.synthesis if name.startswith("stylegan-t-") else parts.G
    assert isinstance(network, nn.Module)
    for expected, module in ((g, network), (d, parts.D)):
        if expected is None:
            continue
        count = sum(p.numel() for p in module.parameters() if p.requires_grad)
        if isinstance(expected, int):
            assert count == expected, source
        else:
            decimals = len(str(expected).partition(".")[2])
            assert abs(count / 1e6 - expected) <= 0.51 * 10**-decimals, (count, source)


def test_the_documentation_has_these_counts() -> None:
    def number(value: Any) -> str:
        return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value} M"

    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    for name, changes, classes, g, d, source in PUBLISHED:
        what = [f"`{name}`", *[f"{side} px" for side in changes.values()]]
        what += [f"{classes:,} classes"] if classes else []
        assert f"| {', '.join(what)} | {number(g)} | {number(d)} | {source} |\n" in text
    together = ", ".join(f"{count:.2f}" for count, _ in XL[:-1]) + f" and {XL[-1][0]:.2f} M parameters"
    assert together in " ".join(text.split())


# StyleGAN-XL's specification counted the official networks: millions in all, in the head that a stage trains.
XL = [
    (101.88, None),
    (151.70, 70.27),
    (201.52, 70.27),
    (225.85, 44.79),
    (233.38, 13.53),
    (235.47, 3.81),
    (235.80, 0.86),
]


@pytest.mark.parametrize("stage", range(len(XL)))
def test_stages_of_stylegan_xl(stage: int) -> None:
    recipe = read("stylegan-xl")
    assert len(recipe.stages) == len(XL)
    G = _staged("stylegan-xl", stage)
    count, head = XL[stage]
    assert sum(p.numel() for p in G.parameters()) / 1e6 == pytest.approx(count, abs=0.0051)
    if head is not None:
        assert sum(p.numel() for p in G.parameters() if p.requires_grad) / 1e6 == pytest.approx(
            head, abs=0.0051
        )


@pytest.mark.parametrize("name", ["stylegan-xl", "stylegan-xl-small"])
def test_stages_train_their_own_head(name: str) -> None:
    """All layers of the stage before stand still, but for the critically sampled ones, which are gone."""
    before: list[str] = []
    for stage in range(len(read(name).stages)):
        G = _staged(name, stage)
        trained = {n.split(".")[1] for n, p in G.named_parameters() if p.requires_grad}
        names = list(G.synthesis.layer_names)
        if before:
            assert names[: len(before) - 3] == before[:-3]
            assert trained == set(names[len(before) - 3 :])
        before = names


def _staged(name: str, stage: int) -> Any:
    """G at full size with what is frozen in a stage."""
    recipe = read(name).at_stage(stage)
    spec = CondSpec(1000 if recipe.conditioner["name"] == "class" else 0)
    with META:
        G = options.build("generator", recipe.generator, recipe.image_shape, spec)
    freeze({"generator": G}, [pattern for pattern in recipe.train.freeze if pattern.startswith("generator")])
    return G
