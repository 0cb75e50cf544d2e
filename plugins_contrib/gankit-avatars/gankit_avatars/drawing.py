"""Rendering of avatars: python-avatars composes the SVG, resvg rasterises it."""

from __future__ import annotations

import io

import python_avatars as pa
import resvg_py
from PIL import Image

from gankit_avatars import attributes as at
from gankit_avatars.attributes import Avatar

CANVAS = 'width="264px" height="280px" viewBox="0 0 264 280"'
SQUARE = "0 8 264 264"  # the widest hat fits; the lower edge cuts the chest below the print


def svg(avatar: Avatar) -> str:
    """SVG text of an avatar on a transparent canvas of 264 x 280."""
    part = at.TOPS[avatar.top][0]
    hair = at.HAIR_COLORS[avatar.hair_color or "black"]
    graphic = at.GRAPHICS[avatar.graphic][0] if avatar.graphic else "NONE"
    fabric = at.FABRIC_COLORS[avatar.clothes_color or avatar.hat_color or "gray"]
    if avatar.clothes == "suit":  # always black; this is the colour of the shirt under it
        fabric = "#FFFFFF"
    return pa.Avatar(
        style=pa.AvatarStyle.TRANSPARENT,
        top=pa.HatType[part] if avatar.top in at.HATS else pa.HairType[part],
        hair_color=hair,
        facial_hair_color=hair,
        hat_color=at.FABRIC_COLORS[avatar.hat_color or "gray"],
        skin_color=at.SKIN_COLORS[avatar.skin],
        accessory=pa.AccessoryType[at.ACCESSORIES[avatar.accessory][0]],
        facial_hair=pa.FacialHairType[at.FACIAL_HAIR[avatar.facial_hair][0]],
        clothing=pa.ClothingType[at.CLOTHES[avatar.clothes or "t_shirt"][0]],
        clothing_color=fabric,
        shirt_graphic=pa.ClothingGraphic[graphic],
        mouth=pa.MouthType[at.MOUTHS[avatar.mouth][0]],
        eyes=pa.EyeType[at.EYES[avatar.eyes][0]],
        eyebrows=pa.EyebrowType[at.EYEBROWS[avatar.eyebrows][0]],
        nose=pa.NoseType.DEFAULT,
    ).render()


def render(avatar: Avatar, size: int, background: str) -> Image.Image:
    """RGB image of `size` x `size` pixels, filled by head, shoulders and chest."""
    drawing = svg(avatar).replace(CANVAS, f'width="{size}" height="{size}" viewBox="{SQUARE}"', 1)
    png = resvg_py.svg_to_bytes(
        svg_string=drawing, background=background, width=size, height=size, skip_system_fonts=True
    )
    return Image.open(io.BytesIO(png)).convert("RGB")
