"""Recipes of any plugins at the size of the conformance tests."""

from __future__ import annotations

from typing import Any

from gankit.core.config.options import options_of
from gankit.core.config.registry import registry
from gankit.core.interfaces.labels import Vocabulary

KINDS = ("generator", "discriminator", "conditioner", "guidance", "loss")
NONE = "none"  # no guidance
VOCABULARY = Vocabulary(classes={"cat": 2, "dog": 1}, tags={"fur": 2, "red": 2}, captioned=3, total=4)


def page(row: tuple[str, ...], clip: dict[str, Any]) -> dict[str, Any]:
    """A recipe of these plugins at their conformance size."""

    def spec(kind: str, name: str) -> dict[str, Any]:
        target = registry().load(kind, name)
        options = clip if name in ("clip", "clip-text") else getattr(target, "conformance", {})
        return {"name": name, **options}

    parts = dict(zip(KINDS, row))
    made: dict[str, Any] = {kind: spec(kind, name) for kind, name in parts.items() if kind != "guidance"}
    if parts["guidance"] != NONE:
        options = spec("guidance", parts["guidance"])
        del options["name"]
        made["guidance"] = {parts["guidance"]: options}
    if made["conditioner"]["name"] == "tags" and "min_count" in options_of(
        registry().load("conditioner", "tags")
    ):
        made["conditioner"]["min_count"] = 1
    train = {"batch": 4, "micro_batch": 4, "precision": "fp32"}
    return {**made, "data": {"size": [32, 32]}, "train": train}
