"""The extension points of gankit: the kinds of plugins, and the hook by which a package registers them.

A plugin package is a module with one function and an entry point in its ``pyproject.toml``::

    [project.entry-points.gankit]
    mine = "my_package"

    # my_package/__init__.py: light, imports nothing heavy
    from gankit import hookimpl

    @hookimpl
    def gankit_register(register):
        register("generator", "my-gan", "my_package.networks:MyGenerator")

The target is imported when a recipe or a command first needs it. Keyword-only constructor parameters are the plugin's
options: `gankit plugins show my-gan`, the checks of recipes and their error messages are made from their types,
defaults and docstrings. Positional parameters are supplied by gankit (column 3; contracts: `gankit.interfaces`).
"""

from __future__ import annotations

from collections.abc import Callable

import pluggy

hookspec = pluggy.HookspecMarker("gankit")
hookimpl = pluggy.HookimplMarker("gankit")

# kind -> (base class in gankit.interfaces, or the form of the target; what it does; positional arguments)
KINDS: dict[str, tuple[str, str, str]] = {
    "generator": ("Generator", "latents and a condition -> images", "image_shape, cond"),
    "discriminator": ("Discriminator", "images and a condition -> logits", "image_shape, cond"),
    "feature": ("FeatureNetwork", "frozen network whose feature maps a discriminator or metric reads", ""),
    "conditioner": ("Conditioner", "labels (class, tags, texts, other fields) -> Condition", ""),
    "loss": ("AdversarialLoss", "logits -> losses of D and G", ""),
    "regularizer": ("Regularizer", "a penalty on G or D, possibly lazy", ""),
    "optimizer": ("Optimizer", "named parameters of G or D -> their optimizer", ""),
    "guidance": ("Guidance", "a loss on generated images and their labels", ""),
    "augmentation": ("Augmentation", "differentiable changes to whatever D sees", "image_shape"),
    "source": ("Source", "where images and their labels come from", "path"),
    "weights": ("WeightSource", "hub id -> pretrained weights, without a download", ""),
    "importer": ("Importer", "networks in files of other code bases -> plugins with options", ""),
    "exporter": ("Exporter", "a generator -> a file that runs without gankit", ""),
    "engine": ("Engine", "makes drawing fast on a device", ""),
    "op-backend": ("OpBackend", "kernels of the operators for a device", ""),
    "metric": ("Measure", "features of two sets of images, single images, or a model -> numbers", ""),
    "tracker": ("Tracker", "training events -> log files, dashboards", "run_dir"),
    "recipe": ("'package:path/to/recipe.yaml'", "a named recipe", ""),
    "model": ("'package:folder'", "a trained model that a package carries, for `gankit.load(NAME)`", ""),
    "command": ("'module:typer_app_or_function'", "`gankit NAME ...`", ""),
}


@hookspec
def gankit_register(register: Callable[[str, str, str], None]) -> None:
    """Call ``register(kind, name, target)`` for everything this package adds; names are unique per kind."""
