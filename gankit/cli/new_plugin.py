"""`gankit plugins new`: writes a package with a small working plugin of any kind, from the files in `templates/`.

A new kind needs an entry in TEMPLATES and, if it is Python code, a file `templates/KIND.py.txt`. In templates,
'my-plugin' stands for the plugin's name, MyPlugin for its class, 'my-package' and my_package for the distribution and
its module.
"""

from __future__ import annotations

import importlib.resources
import importlib.util
import keyword
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gankit._version import __version__
from gankit.core.config.registry import registry
from gankit.core.config.sections import COMBINED
from gankit.errors import GankitError, unknown
from gankit.hookspecs import KINDS

Sections = Mapping[str, tuple[str, Mapping[str, Any]]]  # section -> (its YAML, options that make it tiny)

SMALL = "{name: stylegan2, channel_base: 4096, channel_max: 256}"
RECIPE: Sections = {
    "data": ("{size: [64, 64]}", {"size": 16}),
    "conditioner": ("none", {}),
    "generator": (SMALL, {"z_dim": 8, "w_dim": 8, "channel_base": 128}),
    "discriminator": (SMALL, {"channel_base": 128}),
    "loss": ("non-saturating", {}),
    "regularizers": ("{r1: {gamma: 0.1, interval: 16}}", {}),
    "augmentation": ('{name: diffaugment, policy: "color,translation"}', {}),
    "trackers": ("{tensorboard: {}}", {}),
    "train": (
        "{images: 1M, batch: 32, lr_g: 0.001, lr_d: 0.001}",
        {"images": 16, "batch": 4, "workers": 0},
    ),
}
TRAIN = "gankit train my-plugin --data photos/ --tiny"
TINY_FEATURE = {"discriminator": ("{name: projected, feature: my-plugin}", {"side": 64, "cout": 8})}


@dataclass(frozen=True)
class Template:
    """How a package of one kind differs from the others.

    Args:
        about: what the package has, a sentence.
        command: a command that uses the plugin, for the README.
        sections: sections of the package's recipe that differ from RECIPE; None for a package without a recipe.
        target: target within the package, without its module's name; '' for a class in a file of the kind's name.
        others: further registrations, as (kind, target).
    """

    about: str
    command: str = TRAIN
    sections: Sections | None = None
    target: str = ""
    others: tuple[tuple[str, str], ...] = field(default=())


TEMPLATES = {
    "generator": Template(
        "A small generator of convolutions.", sections={"generator": ("my-plugin", {"channels": 8})}
    ),
    "discriminator": Template(
        "A small discriminator of convolutions.", sections={"discriminator": ("my-plugin", {"channels": 8})}
    ),
    "feature": Template("Frozen filters for colours and edges.", sections=TINY_FEATURE),
    "conditioner": Template(
        "A conditioner that counts the words of captions.", sections={"conditioner": ("my-plugin", {})}
    ),
    "loss": Template("The loss of least squares GANs.", sections={"loss": ("my-plugin", {})}),
    "regularizer": Template(
        "A penalty on large logits.", sections={"regularizers": ("{my-plugin: {weight: 0.001}}", {})}
    ),
    "optimizer": Template(
        "The optimizer RMSprop.",
        sections={"optimizer_g": ("my-plugin", {}), "optimizer_d": ("my-plugin", {})},
    ),
    "guidance": Template(
        "A loss against grain in images.", sections={"guidance": ("{my-plugin: {weight: 0.1}}", {})}
    ),
    "augmentation": Template("An augmentation of brightness.", sections={"augmentation": ("my-plugin", {})}),
    "source": Template(
        "Drawn discs and squares to train on.",
        "gankit train my-plugin --tiny",
        {"data": ('{path: "my-plugin:", size: [64, 64]}', {"size": 16}), "conditioner": ("class", {})},
    ),
    "weights": Template(
        "Weights of pretrained networks, found without a download.", "gankit plugins show weights/my-plugin"
    ),
    "importer": Template(
        "An importer of a simple generator of another code base, and that generator.",
        "gankit convert FILE.pt my-model",
        others=(("generator", "importer:TwoLayersGenerator"),),
    ),
    "exporter": Template(
        "An exporter to torch programs with a list of their inputs.",
        "gankit export RUN my-file --format my-plugin",
    ),
    "engine": Template("An engine that needs little memory.", "gankit sample MODEL --engine my-plugin"),
    "op-backend": Template("A kernel of the operator bias_act.", "GANKIT_OPS=my-plugin gankit doctor"),
    "metric": Template("A metric of contrast.", "gankit evaluate RUN --data photos/ --metrics my-plugin"),
    "tracker": Template("A tracker that writes a CSV file.", sections={"trackers": ("{my-plugin: {}}", {})}),
    "recipe": Template("A recipe.", sections={}, target="recipes/my-plugin.yaml"),
    "model": Template("A trained model.", "gankit sample my-plugin", target="model"),
    "command": Template(
        "A command that counts the sizes of images.", "gankit my-plugin photos/", target="command:run"
    ),
}


def new(name: str, kind: str, folder: Path | None = None, *, model: str | None = None) -> Path:
    """Write a package that installs, passes its tests and, where its kind takes part in training, trains.

    Args:
        name: name of the distribution; the plugin is called so, too, without a leading 'gankit-'.
        kind: kind of its plugin, a key of `gankit.hookspecs.KINDS`.
        folder: the new folder; by default of that name in the current one.
        model: the trained model or run to put into a package of kind 'model'.

    Returns the folder. Raises GankitError for a name that cannot be taken, and for a folder that exists.
    """
    if kind not in TEMPLATES:
        raise GankitError(unknown("plugin kind", kind, TEMPLATES))
    words = _words(name, kind)
    folder = Path(name) if folder is None else folder
    if folder.exists():
        raise GankitError(f"{folder} exists already; choose another --out, or remove it first")
    if (kind == "model") != (model is not None):
        wish = (
            "name the run or model that it shall carry by --model" if model is None else "leave --model away"
        )
        raise GankitError(f"a package of kind {kind!r}: {wish}")
    try:
        for place, text in _files(kind, words):
            path = folder / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        if model is not None:
            from gankit.sampling.export_model import export_model

            export_model(model, folder / words["my_package"] / "model", "fp32")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # it is ours: it did not exist
        raise
    return folder


def _words(name: str, kind: str) -> dict[str, str]:
    """Words of the templates -> those of this package. Raises GankitError for a name that cannot be taken."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*([-_.][A-Za-z0-9]+)*", name):
        raise GankitError(
            f"{name!r} cannot be the name of a package: take letters and digits, with single '-' between, and a letter "
            "first, such as gankit-sagan"
        )
    module = re.sub(r"[-.]", "_", name).lower()
    plugin = re.sub(r"[-_.]+", "-", name).lower().removeprefix("gankit-")
    words = {"my-package": name, "my_package": module, "my-plugin": plugin}
    ending = "" if plugin.endswith(f"-{kind}") else f"-{kind}"
    words["MyPlugin"] = "".join(part.capitalize() for part in f"{plugin}{ending}".split("-"))
    used = _read(f"{kind}.py.txt") or ""
    if not words["MyPlugin"].isidentifier() or re.search(rf"\b{words['MyPlugin']}\b", used):
        raise GankitError(
            f"{words['MyPlugin']} cannot be the name of its class; choose another name than {name!r}"
        )
    if keyword.iskeyword(module) or importlib.util.find_spec(module) is not None:
        raise GankitError(
            f"there is a Python module {module!r} already; choose another name, such as gankit-{plugin}"
        )
    if plugin in registry().names(kind):
        package = registry().get(kind, plugin).package
        raise GankitError(f"package {package!r} has a {kind} {plugin!r} already; choose another name")
    return words


def _files(kind: str, words: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(path, text) of every file of a new package."""
    template, file = TEMPLATES[kind], kind.replace("-", "_")
    targets = [(kind, template.target or f"{file}:MyPlugin"), *template.others]
    if template.sections is not None and kind != "recipe":
        targets.append(("recipe", "recipes/my-plugin.yaml"))

    def line(kind: str, target: str) -> str:
        files = KINDS[kind][0].startswith("'package:")
        return f'    register("{kind}", "my-plugin", "my_package{":" if files else "."}{target}")'

    texts = {
        "MY DESCRIPTION": template.about,
        "MY KIND": kind,
        "MY COMMAND": template.command,
        "MY GANKIT": ".".join(__version__.split(".")[:2]),
        "MY REGISTRATIONS": "\n".join(line(*each) for each in targets),
    }
    tests = [_read("test.py.txt"), _read("test_parts.py.txt") if kind in COMBINED else None]
    files = {
        "pyproject.toml": _read("pyproject.toml.txt"),
        "README.md": _read("README.md.txt"),
        "my_package/__init__.py": _read("init.py.txt"),
        f"my_package/{file}.py": _read(f"{kind}.py.txt"),
        "my_package/recipes/my-plugin.yaml": _recipe(template),
        "tests/test_my_package.py": "".join(filter(None, tests)),
    }
    for place, text in files.items():
        if text is not None:
            yield _replaced(place, words), _replaced(_replaced(text, texts), words)


def _replaced(text: str, words: Mapping[str, str]) -> str:
    """A text with all words replaced at once, so that no replacement is replaced again."""
    return re.sub("|".join(map(re.escape, words)), lambda found: words[found.group()], text)


def _read(name: str) -> str | None:
    """A file of the templates; None if there is none."""
    file = importlib.resources.files("gankit.cli") / "templates" / name
    return file.read_text(encoding="utf-8") if file.is_file() else None


def _recipe(template: Template) -> str | None:
    if template.sections is None:
        return None
    sections = {**RECIPE, **template.sections}
    tiny = {f"{name}.{key}": value for name, (_, small) in sections.items() for key, value in small.items()}
    lines = ["gankit: 1", "name: my-plugin", 'description: "MY DESCRIPTION"']
    lines += [f"{name}: {text}" for name, (text, _) in sections.items()]
    lines += [
        "tiny:  # what `gankit train my-plugin --tiny` changes",
        *(f"  {k}: {v}" for k, v in tiny.items()),
    ]
    return "\n".join([*lines, ""])
