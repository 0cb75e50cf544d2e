"""`gankit export`: a slim model folder to share, with a model card."""

from __future__ import annotations

from pathlib import Path

import torch

from gankit._version import __version__
from gankit.core.checkpoints import folders
from gankit.core.config import packages
from gankit.core.config.registry import FILE_VERSION
from gankit.core.interfaces.labels import ordered, words
from gankit.core.models import model_folder
from gankit.core.runtime import devices, tensor_files
from gankit.errors import GankitError, unknown
from gankit.interop.find_model import find_model

DTYPES = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}


@devices.isolated
def export_model(model: str, out: Path, dtype: str) -> None:
    """Write a model folder with recipe, conditioner, generator and model card, without training state.

    Args:
        model: model as `gankit.load` takes it.
        out: the new folder, which must not exist.
        dtype: dtype in which weights are stored, 'fp32', 'fp16' or 'bf16'.

    Raises GankitError.
    """
    if dtype not in DTYPES:
        raise GankitError(unknown("dtype", dtype, DTYPES))
    if out.exists():
        raise GankitError(f"{out} exists already; choose another folder, or remove it first")
    loaded = model_folder.load_model(find_model(model))
    with folders.FolderWriter(out) as folder:
        model_folder.save_model(
            folder,
            loaded.recipe,
            loaded.conditioner,
            loaded.generator,
            nimg=loaded.nimg,
            encoders=loaded.conditioner.identity(),
            dtype=DTYPES[dtype],
        )
        tensor_files.write_text(folder / "README.md", _card(loaded, out.name))


def _card(model: model_folder.Model, name: str) -> str:
    """Model card in Markdown with the YAML header of the Hugging Face hub."""
    channels, height, width = model.recipe.image_shape
    examples = model.conditioner.examples()
    asked = ""
    for field in ordered(model.conditioner.accepts):
        asked += f"{field}={examples[field][0]!r}, " if field in examples else f"{words(field).call}, "
    kind = "text-to-image" if "text" in model.conditioner.accepts else "unconditional-image-generation"
    return CARD.format(
        name=name,
        kind=kind,
        recipe=model.recipe.name,
        description=model.recipe.description,
        size=f"{width} x {height} pixels, {channels} channels",
        images=f"{model.nimg:,}",
        asked=asked,
        version=__version__,
        install=" ".join(_packages(model)),
    )


def _packages(model: model_folder.Model) -> list[str]:
    """The packages that drawing takes, gankit first; plugin files are none."""
    plugins = [("generator", model.recipe.generator), ("conditioner", model.recipe.conditioner)]
    records = [record.split(" ") for record in packages.used(plugins).values()]
    found = {package for package, version in records if version != FILE_VERSION}
    return ["gankit", *sorted(found - {"gankit"})]


CARD = """\
---
library_name: gankit
pipeline_tag: {kind}
---
# {name}

A generator of {size}, trained with gankit {version} by the recipe `{recipe}`
({description}) on {images} images. `recipe.yaml` has every option.

```
pip install {install}
```

```python
import gankit

pipe = gankit.load("{name}")  # this folder, or owner/name on the hub
pipe({asked}seeds=range(8), psi=0.7)  # -> PIL images
```

Data, licence and limits: to be filled in by whoever publishes it.
"""
