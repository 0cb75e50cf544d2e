"""The conditioner of unconditional models."""

from __future__ import annotations

from conditioning_utils import ready

from gankit.core.interfaces.conditions import Condition, CondSpec
from gankit.core.interfaces.labels import Label
from gankit.plugins.conditioning.none import NoCondition


def test_no_condition():
    conditioner = ready(NoCondition())
    assert conditioner.encode([Label(cls="cat")]) == Condition() == conditioner.augment(Condition())
    assert conditioner.spec == CondSpec()
    assert not conditioner.accepts
