"""Parts combined with each other: each composition trains two finite steps or is refused with a reason."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from compositions import KINDS, NONE, VOCABULARY, page
from conditioning_utils import make_open_clip
from torch import nn

from gankit.core.config import options
from gankit.core.config import recipe as recipes
from gankit.core.config.registry import registry
from gankit.core.interfaces.labels import Label
from gankit.core.models import build
from gankit.core.runtime import distributed
from gankit.core.training.assembly import build_parts
from gankit.core.training.step import Stepper
from gankit.errors import GankitError
from gankit.testing.common import seeded
from gankit.testing.data import with_examples

SHAPE = (3, 32, 32)
LABELS = [
    Label("cat", {"fur": 1.0}, ("a cat",)),
    Label("dog", {"fur": 1.0, "red": 1.0}, ("a red dog",)),
    Label("cat", {}, ()),
    Label(None, {"red": 1.0}, ("something red",)),
]


def names(kind: str) -> list[str]:
    """Every registered plugin, built in or not."""
    return ([NONE] if kind == "guidance" else []) + sorted(registry().names(kind))


def pairwise(columns: list[list[str]]) -> Iterator[tuple[str, ...]]:
    """Rows in which every pair of values of two columns occurs, few of them (greedily, for the pairs still missing)."""
    missing = {
        (i, a, j, b)
        for (i, one), (j, other) in itertools.combinations(enumerate(columns), 2)
        for a in one
        for b in other
    }

    def pairs(row: dict[int, str]) -> set[tuple[int, str, int, str]]:
        return {(i, a, j, b) for (i, a), (j, b) in itertools.combinations(sorted(row.items()), 2)}

    while missing:
        i, a, j, b = min(missing)
        row = {i: a, j: b}
        for k in range(len(columns)):
            if k not in row:
                row[k] = max(
                    columns[k], key=lambda value, k=k, row=row: len(pairs({**row, k: value}) & missing)
                )
        missing -= pairs(row)
        yield tuple(row[k] for k in range(len(columns)))


@pytest.fixture(scope="module", autouse=True)
def clip(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    model, weights = make_open_clip(tmp_path_factory.mktemp("clip"))
    return {"model": model, "pretrained": str(weights)}


def trains_or_is_refused(row: tuple[str, ...], clip: dict[str, Any]) -> str | None:
    """Two steps with finite losses that move G and D; or the reason why not, which must come before any network."""
    recipe = recipes.parse(page(row, clip), "the test")
    built: list[str] = []
    examples = options.build("conditioner", recipe.conditioner).examples()
    vocabulary = replace(VOCABULARY, fields=dict.fromkeys(examples, len(LABELS)))
    conditioner = build.build_conditioner(recipe, vocabulary)
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("generator", "discriminator"):
            real = getattr(build, f"build_{kind}")
            patch.setattr(
                build, f"build_{kind}", lambda *a, kind=kind, real=real: (built.append(kind), real(*a))[1]
            )
        try:
            parts = build_parts(recipe, conditioner, torch.device("cpu"))
        except GankitError as error:
            if built or "cannot work together" not in str(error):
                raise
            return str(error)
    with seeded():
        stepper = Stepper(parts, recipe, torch.device("cpu"), distributed.World(), bf16=False)
        images = torch.rand(4, *SHAPE) * 2 - 1
        before = {name: weights(network) for name, network in (("G", parts.G), ("D", parts.D))}
        for _ in range(2):
            stepper.run(images, with_examples(LABELS, conditioner))
    assert stepper.bad_total == 0, f"{row}: gradients are not finite"
    for name, network in (("G", parts.G), ("D", parts.D)):
        assert weights(network).isfinite().all()
        assert not torch.equal(weights(network), before[name]), f"{row}: {name} did not move"
    means = stepper.meter.means()
    assert all(torch.tensor(means[key]).isfinite() for key in ("loss/G", "loss/D")), f"{row}: {means}"
    return None


def weights(network: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()]).clone()


def run_row(row: tuple[str, ...], clip: dict[str, Any]) -> None:
    try:
        refusal = trains_or_is_refused(row, clip)
    except GankitError as error:
        if str(error).startswith("no weights for "):  # such as the text encoders' of transformers
            pytest.skip(str(error))
        raise
    expected = must_be_refused(row)
    assert (refusal is not None) == expected, f"{row}: {refusal}"
    if refusal is not None:
        assert sum(repr(name) in refusal for name in row) >= 2, f"both parts are to be named: {refusal}"


def must_be_refused(row: tuple[str, ...]) -> bool:
    """What is known to be senseless, so that the test notices when more is refused, or less."""
    _, _, conditioner, guidance, _ = row
    reads = {"class": {"cls"}, "tags": {"tags"}, "none": set(), "combined": {"cls", "tags"}, "box": {"box"}}
    needs = {"clip": "text", "classifier": "cls"}
    return guidance in needs and needs[guidance] not in reads.get(conditioner, {"text"})


PAIRS = list(pairwise([names(kind) for kind in KINDS]))
PRODUCT = list(itertools.product(*(names(kind) for kind in KINDS[:-1]), ["hinge"]))


def test_the_sample_has_every_pair():
    for (i, one), (j, other) in itertools.combinations(enumerate(KINDS), 2):
        found = {(row[i], row[j]) for row in PAIRS}
        assert found == set(itertools.product(names(one), names(other)))


@pytest.mark.parametrize("row", PAIRS, ids="-".join)
def test_pairs(row, clip, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    run_row(row, clip)


@pytest.mark.slow
@pytest.mark.parametrize("row", PRODUCT, ids="-".join)
def test_full_product(row, clip, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    run_row(row, clip)
