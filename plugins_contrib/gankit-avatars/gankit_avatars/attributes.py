"""Visible attributes of an avatar, drawn deterministically from (seed, index), and their tags.

An attribute that cannot be seen in the picture is None (a colour) or the neutral value (a shape), so every value of an
`Avatar` is true of its pixels. The sets of hidden attributes below were measured by rendering; the tests measure them
again.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

# class -> (part of python_avatars, tag). Styles that look alike at 64 px or like a known figure are left out.
HAIR_STYLES = {
    "bald": ("NONE", "bald"),
    "short": ("SHORT_FLAT", "short_hair"),
    "quiff": ("QUIFF", "quiff"),
    "mohawk": ("MOHAWK", "mohawk"),
    "bun": ("BUN", "hair_bun"),
    "bob": ("BOB", "bob_cut"),
    "half_shaved": ("HALF_SHAVED", "asymmetrical_hair"),
    "messy": ("MOWGLI", "messy_hair"),
    "afro": ("FRO", "afro"),
    "long_straight": ("STRAIGHT_STRAND", "long_straight_hair"),
    "long_wavy": ("LOOSE_HAIR", "long_wavy_hair"),
    "dreadlocks": ("DREADS", "dreadlocks"),
    "pigtails": ("DREADLOCKS", "braided_pigtails"),
}
HATS = {
    "hat": ("HAT", "sun_hat"),
    "hijab": ("HIJAB", "hijab"),
    "turban": ("TURBAN", "turban"),
    "winter_hat": ("WINTER_HAT_1", "winter_hat"),
    "beanie": ("WINTER_HAT_3", "beanie"),
}
TOPS = {**HAIR_STYLES, **HATS}

HAIR_COLORS = {
    "black": "#2C1B18",
    "brown": "#83492A",
    "blonde": "#E8C25E",
    "red": "#C93305",
    "gray": "#9A9DA3",
    "pink": "#F277A6",
    "blue": "#3D7BD9",
    "green": "#3FA35B",
}
SKIN_COLORS = {
    "pale": "#FFDBB4",
    "light": "#EDB98A",
    "tan": "#CF9060",
    "brown": "#AC662F",
    "dark": "#523528",
    "yellow": "#FFDC2E",
}
FABRIC_COLORS = {
    "black": "#262E33",
    "white": "#FFFFFF",
    "gray": "#8E9296",
    "red": "#D62828",
    "pink": "#FF7DB0",
    "blue": "#2F62C4",
    "green": "#3FA85A",
    "yellow": "#FFD93B",
    "orange": "#F98A1F",
    "purple": "#8545C0",
}
# name -> (part of python_avatars, tag or None, weight of the draw)
ACCESSORIES = {
    "none": ("NONE", None, 4),
    "glasses": ("PRESCRIPTION_2", "glasses", 2),
    "round_glasses": ("ROUND", "round_eyewear", 2),
    "sunglasses": ("SUNGLASSES", "sunglasses", 3),
    "eyepatch": ("EYEPATCH", "eyepatch", 2),
}
FACIAL_HAIR = {
    "none": ("NONE", None, 6),
    "beard": ("BEARD_MEDIUM", "beard", 2),
    "long_beard": ("BEARD_MAGESTIC", "long_beard", 1),
    "mustache": ("MOUSTACHE_FANCY", "mustache", 2),
}
CLOTHES = {
    "t_shirt": ("SHIRT_CREW_NECK", "t-shirt", 3),
    "v_neck": ("SHIRT_V_NECK", "v-neck", 2),
    "hoodie": ("HOODIE", "hoodie", 3),
    "overalls": ("OVERALL", "overalls", 2),
    "sweater": ("COLLAR_SWEATER", "collared_sweater", 2),
    "print_shirt": ("GRAPHIC_SHIRT", "print_shirt", 3),
    "suit": ("BOND_SUIT", "suit", 1),
}
GRAPHICS = {"skull": ("SKULL", "skull", 1), "bear": ("BEAR", "bear", 1), "diamond": ("DIAMOND", "diamond", 1)}
MOUTHS = {
    "smile": ("BIG_SMILE", "smile", 3),
    "serious": ("SERIOUS", "expressionless", 2),
    "sad": ("SAD", "frown", 2),
    "tongue": ("TONGUE", "tongue_out", 1),
    "grimace": ("GRIMACE", "clenched_teeth", 1),
    "shouting": ("SCREAM_OPEN", "shouting", 1),
}
EYES = {
    "open": ("DEFAULT", None, 5),
    "closed": ("CLOSED", "closed_eyes", 1),
    "wink": ("WINK_WACKY", "one_eye_closed", 1),
    "heart": ("HEART", "heart_eyes", 1),
    "wide": ("SURPRISED", "wide_eyes", 1),
}
EYEBROWS = {
    "neutral": ("DEFAULT_NATURAL", None, 3),
    "angry": ("ANGRY_NATURAL", "v-shaped_eyebrows", 1),
    "worried": ("SAD_CONCERNED_NATURAL", "worried_eyebrows", 1),
}

# Measured at 64 px as the number of pixels that change by more than 40 levels, see tests/test_truth.py.
HIDES_FACIAL_HAIR = {"long_wavy", "hijab"}
HIDES_CLOTHES = {"hijab"}  # their kind; two corners of the sleeves remain, drawn in the colour of the hijab
HIDES_EYES = {"sunglasses", "eyepatch"}  # the eyepatch leaves one eye, too little for a wink or wide eyes
HIDES_EYEBROWS = {"glasses", "sunglasses", "eyepatch", "long_wavy", "dark"}  # accessory, top or skin
WHITE_DETAILS = {"sweater", "print_shirt"}  # collar and print are white, invisible on white


class Draws:
    """Deterministic random integers from BLAKE2b, the same on every platform and with every library version."""

    def __init__(self, *key: int | str) -> None:
        self.key = repr(key).encode()
        self.block = 0
        self.words: list[int] = []

    def below(self, n: int) -> int:
        """An integer in [0, n)."""
        if not self.words:
            digest = hashlib.blake2b(self.key, salt=self.block.to_bytes(4, "little")).digest()
            self.words = list(struct.unpack("<16I", digest))
            self.block += 1
        return self.words.pop() * n >> 32

    def pick(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        rest = list(items)
        return [rest.pop(self.below(len(rest))) for _ in range(len(rest))]


def _weighted(table: Mapping[str, tuple[str, str | None, int]]) -> tuple[str, ...]:
    return tuple(name for name, (_, _, weight) in table.items() for _ in range(weight))


_TOPS, _HAIR, _SKIN, _FABRIC = tuple(TOPS), tuple(HAIR_COLORS), tuple(SKIN_COLORS), tuple(FABRIC_COLORS)
_ACCESSORIES, _FACIAL_HAIR, _CLOTHES = _weighted(ACCESSORIES), _weighted(FACIAL_HAIR), _weighted(CLOTHES)
_GRAPHICS, _MOUTHS = _weighted(GRAPHICS), _weighted(MOUTHS)
_EYES, _EYEBROWS = _weighted(EYES), _weighted(EYEBROWS)


@dataclass(frozen=True)
class Avatar:
    """Visible attributes of an avatar: keys of the tables of this module, None where nothing can be seen."""

    top: str
    hair_color: str | None  # of the hair, and of the beard
    hat_color: str | None
    skin: str
    accessory: str
    facial_hair: str
    clothes: str | None
    clothes_color: str | None
    graphic: str | None
    mouth: str
    eyes: str
    eyebrows: str

    @classmethod
    def draw(cls, seed: int, index: int) -> Avatar:
        """Draw avatar number `index` of the data set `seed`."""
        draws = Draws("avatar", seed, index)
        top, accessory, facial_hair = draws.pick(_TOPS), draws.pick(_ACCESSORIES), draws.pick(_FACIAL_HAIR)
        hair_color, hat_color, skin = draws.pick(_HAIR), draws.pick(_FABRIC), draws.pick(_SKIN)
        clothes, clothes_color, graphic = draws.pick(_CLOTHES), draws.pick(_FABRIC), draws.pick(_GRAPHICS)
        mouth, eyes, eyebrows = draws.pick(_MOUTHS), draws.pick(_EYES), draws.pick(_EYEBROWS)

        if top in HIDES_FACIAL_HAIR:
            facial_hair = "none"
        hair_visible = (top in HAIR_STYLES and top != "bald") or facial_hair != "none"
        if accessory in HIDES_EYES:
            eyes = "open"
        if HIDES_EYEBROWS & {accessory, top, skin}:
            eyebrows = "neutral"
        if clothes_color == "white" and clothes in WHITE_DETAILS:
            clothes = "t_shirt"
        if clothes == "suit":
            clothes_color = "black"
        clothes_visible = top not in HIDES_CLOTHES
        return cls(
            top=top,
            hair_color=hair_color if hair_visible else None,
            hat_color=hat_color if top in HATS else None,
            skin=skin,
            accessory=accessory,
            facial_hair=facial_hair,
            clothes=clothes if clothes_visible else None,
            clothes_color=clothes_color if clothes_visible else None,
            graphic=graphic if clothes_visible and clothes == "print_shirt" else None,
            mouth=mouth,
            eyes=eyes,
            eyebrows=eyebrows,
        )

    def tags(self) -> list[str]:
        """Danbooru-style tags, one for each visible attribute."""
        tags: list[str | None] = [TOPS[self.top][1], f"{self.skin}_skin"]
        if self.clothes is not None:
            tags += [CLOTHES[self.clothes][1], f"{self.clothes_color}_clothes"]
        if self.hair_color is not None:
            tags.append(f"{self.hair_color}_hair")
        if self.hat_color is not None:
            tags.append(f"{self.hat_color}_headwear")
        if self.accessory == "round_glasses":
            tags.append("glasses")  # in addition to round_eyewear
        if self.graphic is not None:
            tags.append(GRAPHICS[self.graphic][1])
        tags += [
            ACCESSORIES[self.accessory][1],
            FACIAL_HAIR[self.facial_hair][1],
            MOUTHS[self.mouth][1],
            EYES[self.eyes][1],
            EYEBROWS[self.eyebrows][1],
        ]
        return [tag for tag in tags if tag is not None]
