"""The table of a recipe's sections agrees with the page, and with what is derived from it."""

from __future__ import annotations

from gankit.core.config import sections
from gankit.core.config.recipe import Recipe
from gankit.hookspecs import KINDS

NOT_SECTIONS = {"gankit", "name", "description", "stages", "evaluation", "packages"}  # of the page as a whole


def test_the_table_has_every_section_of_the_page() -> None:
    assert {section.name for section in sections.SECTIONS} == Recipe.model_fields.keys() - NOT_SECTIONS


def test_kinds_are_kinds_of_plugins() -> None:
    named = {section.kind for section in sections.SECTIONS if section.kind}
    assert named <= KINDS.keys()
    assert sections.PLUGINS.keys() | sections.PLUGIN_MAPS.keys() == {
        section.name for section in sections.SECTIONS if section.kind
    }


def test_what_may_be_null_is_so_by_default() -> None:
    for name, section in sections.PLUGINS.items():
        assert (Recipe.model_fields[name].default is None) == section.optional
