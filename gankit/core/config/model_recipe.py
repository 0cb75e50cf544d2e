"""What a trained model needs of its recipe: facts of the images, conditioner and generator.

The rest of the page is for training. It is carried as it stands and neither checked nor built, so that a model draws
without the plugins that trained it, and also if a later version or another package has written keys that are unknown
here.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from gankit.core.config import options, packages
from gankit.errors import GankitError, unknown

VERSION: Literal[1] = 1
# Unknown keys are kept, and values that JSON does not have, such as infinity, are written as YAML has them.
CARRIES = ConfigDict(
    extra="allow", validate_default=True, ser_json_bytes="base64", ser_json_inf_nan="constants"
)


def parse_size(value: Any) -> Any:
    """'128x64' (height x width), '64' or 64 -> (H, W); other values pass through. Raises ValueError for other text."""
    if isinstance(value, int):
        return (value, value)
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+)(?:\s*[xX]\s*(\d+))?\s*", value)
        if not match:
            raise ValueError(f"{value!r} is not a size such as 64 or 128x64 (height x width)")
        return (int(match.group(1)), int(match.group(2) or match.group(1)))
    return value


class ModelData(BaseModel):
    """The section `data`; keys that are unknown here are carried along."""

    model_config = CARRIES

    path: str | None = Field(
        None, description="folder, zip, shards, or 'source:' with a source plugin's name"
    )
    size: Annotated[tuple[int, int], BeforeValidator(parse_size)] = Field(
        (64, 64), description="height, width"
    )
    channels: Literal[1, 3, 4] = Field(3, description="1 grey, 3 RGB, 4 RGBA")
    fit: Literal["crop", "top-crop", "pad", "stretch"] = Field(
        "crop", description="how images are brought to size"
    )
    mirror: bool = Field(False, description="mirror each image with probability 1/2")
    options: dict[str, Any] = Field({}, description="options of the source plugin")


class ModelRecipe(BaseModel):
    """The recipe of a trained model: `conditioner` and `generator` hold the plugin's name and all of its options; the
    sections for training are carried unchecked, see `to_page`."""

    model_config = CARRIES

    gankit: Literal[1] = VERSION
    name: str = "custom"
    description: str = ""
    data: ModelData = ModelData()
    conditioner: Any = "none"
    generator: Any = "stylegan2"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return (self.data.channels, *self.data.size)

    @property
    def seed(self) -> int:
        """The seed of training; 0 if the page has none. Stored tensors do not depend on it."""
        train = self.to_page().get("train")
        seed = train.get("seed") if isinstance(train, dict) else None
        return seed if isinstance(seed, int) and 0 <= seed < 2**32 else 0

    def to_page(self) -> dict[str, Any]:
        """The whole page as nested dicts, lists, texts and numbers."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """The whole page as YAML; parsing that gives an equal recipe."""
        return yaml.safe_dump(self.to_page(), sort_keys=False, allow_unicode=True, width=110)


def parse(data: Any, origin: str) -> ModelRecipe:
    """Check what a model needs of a recipe, given as nested dicts, and fill in defaults there.

    Raises GankitError naming `origin`, the key at fault, or the package that has a missing plugin."""
    page = checked_page(data, origin)
    try:
        recipe = ModelRecipe.model_validate(page)
    except ValidationError as error:
        raise GankitError(f"{origin}: {explain(error, ModelRecipe)}") from None
    with packages.explaining(page.get("packages")):
        recipe.conditioner = options.check("conditioner", recipe.conditioner)
        recipe.generator = options.check("generator", recipe.generator)
    return recipe


def checked_page(data: Any, origin: str) -> dict[str, Any]:
    """A copy of a page. Raises GankitError if it is no mapping, or of a format that this gankit does not read."""
    if not isinstance(data, dict):
        raise GankitError(
            f"{origin} is not a recipe: expected a mapping with keys such as generator, data, train"
        )
    if data.get("gankit", VERSION) != VERSION:
        raise GankitError(
            f"{origin} is a recipe of format {data['gankit']!r}, this gankit reads {VERSION}; "
            "use the gankit that wrote it, or bring the page up to date by the docs"
        )
    return dict(data)


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first mistake of a page in one sentence."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        section: Any = model
        for part in first["loc"][:-1]:
            section = section.model_fields[part].annotation
        parents = [str(part) for part in first["loc"][:-1]]
        return unknown("key", place, [".".join([*parents, name]) for name in section.model_fields])
    own = first["type"] == "value_error"
    reason = first["msg"].removeprefix("Value error, ") if own else first["msg"].lower()
    return f"{place} = {first['input']!r}: {reason}"
