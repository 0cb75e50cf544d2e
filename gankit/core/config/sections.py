"""Table of the sections of a recipe and their properties, from which the checks of a recipe are derived."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """A section of a recipe and its properties.

    Args:
        name: its key in the recipe.
        kind: kind of the plugins that it names; '' for a section of plain options.
        many: True if it maps plugin names to their options; False if it is one plugin.
        optional: True if it may be null.
        staged: True if it may differ between the stages of a run.
        scheduled: True if its numbers may have schedules.
        network: True for a network with weights, which a stage may initialise anew.
        compared: True if it counts in the search for the nearest installed recipe.
    """

    name: str
    kind: str = ""
    many: bool = False
    optional: bool = False
    staged: bool = True
    scheduled: bool = False
    network: bool = False
    compared: bool = False


SECTIONS = (
    Section("data"),
    Section("generator", "generator", network=True, compared=True),
    Section("discriminator", "discriminator", network=True, compared=True),
    Section("conditioner", "conditioner", network=True, compared=True),
    Section("loss", "loss", compared=True),
    Section("regularizers", "regularizer", many=True, scheduled=True),
    Section("optimizer_g", "optimizer"),
    Section("optimizer_d", "optimizer"),
    Section("guidance", "guidance", many=True, scheduled=True, compared=True),
    Section("augmentation", "augmentation", optional=True, scheduled=True),
    Section("trackers", "tracker", many=True, staged=False),
    Section("schedules"),
    Section("train", scheduled=True),
)

PLUGINS = {s.name: s for s in SECTIONS if s.kind and not s.many}
PLUGIN_MAPS = {s.name: s.kind for s in SECTIONS if s.many}
NETWORKS = tuple(s.name for s in SECTIONS if s.network)
STAGED = tuple(s.name for s in SECTIONS if s.staged)
SCHEDULED = tuple(s.name for s in SECTIONS if s.scheduled)
COMPARED = tuple(s.name for s in SECTIONS if s.compared)
# kinds whose plugins compute together in a step
COMBINED = tuple(dict.fromkeys(s.kind for s in SECTIONS if s.kind and s.staged))
