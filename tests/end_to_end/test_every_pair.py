"""Parts combined with each other: each composition trains two finite steps or is refused with a reason."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import pytest
from conditioning_utils import make_open_clip

import gankit.testing


class Built(gankit.testing.CompositionSuite):
    """What is known of the built-in plugins."""

    kinds = ("generator", "discriminator", "conditioner", "guidance", "loss")
    clip: ClassVar[dict[str, Any]] = {}

    @pytest.fixture(scope="class", autouse=True)
    def tiny_clip(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        model, weights = make_open_clip(tmp_path_factory.mktemp("clip"))
        Built.clip = {"model": model, "pretrained": str(weights)}

    def options(self, kind: str, name: str) -> dict[str, Any]:
        if name in ("clip", "clip-text"):
            return self.clip
        return {"min_count": 1} if (kind, name) == ("conditioner", "tags") else super().options(kind, name)

    def must_be_refused(self, row: tuple[str, ...]) -> bool:
        """What is known to be senseless, so that the test notices when more is refused, or less."""
        _, _, conditioner, guidance, _ = row
        reads = {
            "class": {"cls"},
            "tags": {"tags"},
            "none": set(),
            "combined": {"cls", "tags"},
            "box": {"box"},
        }
        needs = {"clip": "text", "classifier": "cls"}
        return guidance in needs and needs[guidance] not in reads.get(conditioner, {"text"})


class TestPairs(Built):
    pass


@pytest.mark.slow
class TestFullProduct(Built):
    def rows(self) -> list[tuple[str, ...]]:
        return list(itertools.product(*(self.names(kind) for kind in self.kinds[:-1]), ["hinge"]))
