"""Unconditional training: labels are ignored."""

from __future__ import annotations

from collections.abc import Sequence

from gankit.core.interfaces.conditions import Condition, Conditioner, CondSpec
from gankit.core.interfaces.labels import Label, Vocabulary


class NoCondition(Conditioner):
    """No condition at all."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = CondSpec()

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        pass

    def vocabulary(self) -> Vocabulary:
        return Vocabulary()

    @property
    def accepts(self) -> frozenset[str]:
        return frozenset()

    def encode(self, labels: Sequence[Label]) -> Condition:
        return Condition()
