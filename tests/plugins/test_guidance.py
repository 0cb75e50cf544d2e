"""What all guidance losses share: documented options."""

from __future__ import annotations

from gankit.core.config import options
from gankit.plugins.guidance.classifier import ClassifierGuidance
from gankit.plugins.guidance.clip import CLIPGuidance


def test_every_option_is_documented():
    for cls in (CLIPGuidance, ClassifierGuidance):
        assert all(option.help for option in options.options_of(cls).values())
