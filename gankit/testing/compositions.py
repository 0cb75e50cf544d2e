"""A suite that trains plugins together with the other installed ones, two by two."""

from __future__ import annotations

import itertools
import unittest
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar
from unittest import mock

import torch
from torch import Tensor, nn

from gankit.core.config import options
from gankit.core.config import recipe as recipes
from gankit.core.config.registry import canonical, registry
from gankit.core.config.sections import COMBINED, SECTIONS
from gankit.core.interfaces.labels import Label, Vocabulary
from gankit.core.models import build
from gankit.core.runtime import distributed
from gankit.core.training.assembly import build_parts
from gankit.core.training.step import Stepper
from gankit.errors import GankitError
from gankit.testing.common import seeded
from gankit.testing.data import with_examples

NONE = "none"  # in a row: no plugin of a kind of which a recipe may have none
LABELS = [
    Label("cat", {"fur": 1.0}, ("a cat",)),
    Label("dog", {"fur": 1.0, "red": 1.0}, ("a red dog",)),
    Label("cat", {}, ()),
    Label(None, {"red": 1.0}, ("something red",)),
]
VOCABULARY = Vocabulary.collect(LABELS)

Row = tuple[str, ...]


class CompositionSuite:
    """Subclass it in a test module under a name that begins with ``Test``.

    Every plugin of the package meets every installed one of the other kinds, in few trainings of two steps each, on
    random images. Losses, gradients and weights must stay finite and G and D must move; or the recipe is refused before
    any network is built, with a message that names both parts.

    Attributes:
        package: the distribution whose plugins are tested; None tests all that are registered.
        kinds: the kinds that are combined, sections of a recipe; a row has one name of each, 'none' for no plugin.
        shape: (C, H, W) of the images.
    """

    package: ClassVar[str | None] = None
    kinds: ClassVar[Row] = COMBINED
    shape: ClassVar[tuple[int, int, int]] = (3, 32, 32)

    def options(self, kind: str, name: str) -> dict[str, Any]:
        """The options that a plugin is built with here: its class attribute `conformance`, if it has one."""
        return getattr(registry().load(kind, name), "conformance", {})

    def must_be_refused(self, row: Row) -> bool | None:
        """True or False if it is known that a row has to be refused, so that more or fewer refusals are noticed."""
        return None

    def rows(self) -> list[Row]:
        """Rows in which each plugin of the package stands beside each one of the other kinds."""
        columns = [self.names(kind) for kind in self.kinds]
        mine = {(p.kind, p.name) for p in registry().plugins.values() if self._is_mine(p.package)}
        wanted = [
            {(i, a, j, b) for a in columns[i] for b in columns[j] if {(one, a), (other, b)} & mine}
            for (i, one), (j, other) in itertools.combinations(enumerate(self.kinds), 2)
        ]
        return list(pairwise(columns, set().union(*wanted)))

    def names(self, kind: str) -> list[str]:
        """The installed plugins of a kind, and 'none' for one that a recipe can do without."""
        section = next(section for section in SECTIONS if section.kind == kind)
        return [NONE] * (section.many or section.optional) + sorted(registry().names(kind))

    def _is_mine(self, package: str) -> bool:
        return self.package is None or canonical(package) == canonical(self.package)

    def pytest_generate_tests(self, metafunc: Any) -> None:
        if "row" in metafunc.fixturenames:
            rows = self.rows()
            if not rows:
                raise GankitError(
                    f"package {self.package!r} has no plugin of the kinds {', '.join(self.kinds)}"
                )
            metafunc.parametrize("row", rows, ids="-".join)

    def test_row(self, row: Row) -> None:
        """Train or refuse a row, without downloads; skipped if it needs weights that are not here."""
        try:
            with mock.patch("huggingface_hub.constants.HF_HUB_OFFLINE", True):
                refusal = self.train(row)
        except GankitError as error:
            if str(error).startswith("no weights for "):
                raise unittest.SkipTest(str(error)) from None
            raise
        expected = self.must_be_refused(row)
        assert expected is None or (refusal is not None) == expected, f"{row}: {refusal}"
        if refusal is not None:
            assert sum(repr(name) in refusal for name in row) >= 2, f"both parts are to be named: {refusal}"

    def page(self, row: Row) -> dict[str, Any]:
        """The recipe of a row, with plugins of the options `options`."""
        page: dict[str, Any] = {}
        for section in SECTIONS:
            name = dict(zip(self.kinds, row)).get(section.kind)
            if name is None:
                continue
            if section.many:
                page[section.name] = {} if name == NONE else {name: dict(self.options(section.kind, name))}
            elif section.optional and name == NONE:
                page[section.name] = None
            else:
                page[section.name] = {"name": name, **self.options(section.kind, name)}
        channels, height, width = self.shape
        train = {"batch": len(LABELS), "micro_batch": len(LABELS), "precision": "fp32"}
        return {**page, "data": {"size": [height, width], "channels": channels}, "train": train}

    def train(self, row: Row) -> str | None:
        """Train a row for two steps; returns the reason if it is refused, which must come before any network."""
        recipe = recipes.parse(self.page(row), "the test")
        examples = options.build("conditioner", recipe.conditioner).examples()
        vocabulary = replace(VOCABULARY, fields=dict.fromkeys(examples, len(LABELS)))
        conditioner = build.build_conditioner(recipe, vocabulary)
        built: list[str] = []

        def noting(kind: str) -> Any:
            real = getattr(build, f"build_{kind}")

            def note(*arguments: Any) -> Any:
                built.append(kind)
                return real(*arguments)

            return mock.patch.object(build, f"build_{kind}", note)

        with noting("generator"), noting("discriminator"):
            try:
                parts = build_parts(recipe, conditioner, torch.device("cpu"))
            except GankitError as error:
                if built or "cannot work together" not in str(error):
                    raise
                return str(error)
        networks = {"G": parts.G, "D": parts.D}
        with seeded():
            stepper = Stepper(parts, recipe, torch.device("cpu"), distributed.World(), bf16=False)
            images = torch.rand(len(LABELS), *self.shape) * 2 - 1
            before = {name: _weights(network) for name, network in networks.items()}
            for _ in range(2):
                stepper.run(images, with_examples(LABELS, conditioner))
        assert stepper.bad_total == 0, f"{row}: gradients are not finite"
        for name, network in networks.items():
            assert _weights(network).isfinite().all(), f"{row}: weights of {name} are not finite"
            assert not torch.equal(_weights(network), before[name]), f"{row}: {name} did not move"
        means = stepper.meter.means()
        assert all(torch.tensor(means[key]).isfinite() for key in ("loss/G", "loss/D")), f"{row}: {means}"
        return None


def pairwise(columns: list[list[str]], missing: set[tuple[int, str, int, str]]) -> Iterator[Row]:
    """Rows of one value of each column that hold the `missing` pairs (column, value, later column, value).

    Few of them, chosen greedily."""
    missing = set(missing)

    def held(row: dict[int, str]) -> set[tuple[int, str, int, str]]:
        """The missing pairs that a row, some of whose columns may be open, holds."""
        pairs = itertools.combinations(sorted(row.items()), 2)
        return {(i, a, j, b) for (i, a), (j, b) in pairs} & missing

    while missing:
        i, a, j, b = min(missing)
        row = {i: a, j: b}
        for k in range(len(columns)):
            if k not in row:
                counts = [len(held({**row, k: value})) for value in columns[k]]
                row[k] = columns[k][counts.index(max(counts))]
        missing -= held(row)
        yield tuple(row[k] for k in range(len(columns)))


def _weights(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()]).clone()
