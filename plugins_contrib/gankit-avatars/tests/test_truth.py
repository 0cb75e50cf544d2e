"""What labels say can be seen in the pictures: rendered and counted."""

from __future__ import annotations

import functools
from dataclasses import fields, replace

import numpy as np
import pytest

from gankit_avatars import attributes as at
from gankit_avatars.attributes import Avatar
from gankit_avatars.drawing import render

BACKGROUND = "#ccd6e0"
PLAIN = Avatar(
    top="short",
    hair_color="red",
    hat_color=None,
    skin="light",
    accessory="none",
    facial_hair="none",
    clothes="t_shirt",
    clothes_color="blue",
    graphic=None,
    mouth="smile",
    eyes="open",
    eyebrows="neutral",
)


@functools.cache
def drawn(avatar: Avatar) -> np.ndarray:
    return np.asarray(render(avatar, 64, BACKGROUND)).astype(int)


def changed(a: Avatar, b: Avatar, levels: int = 40) -> int:
    """Pixels of the 64 x 64 drawings that differ by more than `levels`."""
    x, y = drawn(a), drawn(b)
    return int((abs(x - y).max(-1) > levels).sum())


def with_top(top: str, **kwargs) -> Avatar:
    return replace(PLAIN, **{"top": top, "hat_color": "red" if top in at.HATS else None, **kwargs})


@pytest.mark.parametrize("top", at.TOPS)
def test_hair_and_hat_color(top):
    hair = changed(with_top(top, hair_color="red"), with_top(top, hair_color="blue"))
    hat = changed(with_top(top, hat_color="red"), with_top(top, hat_color="blue"))
    assert (hair >= 60) == (top in at.HAIR_STYLES and top != "bald")
    assert (hat >= 150) == (top in at.HATS)
    assert hair == 0 or top in at.HAIR_STYLES
    assert hat == 0 or top in at.HATS


@pytest.mark.parametrize("top", at.TOPS)
def test_facial_hair_shows_its_color(top):
    bare = with_top(top, hair_color="blue")
    for kind in set(at.FACIAL_HAIR) - {"none"}:
        seen = changed(bare, replace(bare, facial_hair=kind))
        assert seen == 0 if top in at.HIDES_FACIAL_HAIR else seen >= 40


@pytest.mark.parametrize("top", at.TOPS)
def test_clothes(top):
    if top in at.HIDES_CLOTHES:  # whatever kind it is, it is drawn in the colour of the hat
        assert changed(with_top(top, clothes=None), with_top(top, clothes="v_neck")) == 0
        return
    for kind in at.CLOTHES:
        suit = kind == "suit"
        graphic = "skull" if kind == "print_shirt" else None
        dressed = with_top(top, clothes=kind, graphic=graphic, facial_hair="long_beard")
        recoloured = changed(dressed, replace(dressed, clothes_color="red"))
        assert recoloured == 0 if suit else recoloured >= 100
        if kind != "t_shirt":
            assert changed(dressed, replace(dressed, clothes="t_shirt", graphic=None)) >= 30


def test_suit_is_black():
    dressed = replace(PLAIN, clothes="suit", clothes_color="black")
    chest = np.asarray(render(dressed, 64, BACKGROUND)).reshape(-1, 3)
    assert (chest.max(-1) < 60).sum() > 250


@pytest.mark.parametrize("color", at.FABRIC_COLORS)
def test_white_details(color):
    shirt = replace(PLAIN, clothes_color=color)
    for kind in at.WHITE_DETAILS:
        for graphic in at.GRAPHICS if kind == "print_shirt" else (None,):
            seen = changed(shirt, replace(shirt, clothes=kind, graphic=graphic))
            assert (seen >= 40) == (color != "white")


@pytest.mark.parametrize("top", at.TOPS)
def test_eyes_and_accessories(top):
    face = with_top(top)
    for accessory in set(at.ACCESSORIES) - {"none"}:
        assert changed(face, replace(face, accessory=accessory)) >= 60
    for accessory in ("none", "glasses", "round_glasses"):
        worn = replace(face, accessory=accessory)
        for eyes in set(at.EYES) - {"open"}:
            assert changed(worn, replace(worn, eyes=eyes)) >= 20
    dark = replace(face, accessory="sunglasses")
    assert all(changed(dark, replace(dark, eyes=eyes)) <= 6 for eyes in at.EYES)


@pytest.mark.parametrize("skin", sorted(set(at.SKIN_COLORS) - at.HIDES_EYEBROWS))
def test_eyebrows(skin):
    for top in set(at.TOPS if skin == "brown" else ("pigtails", "hat")) - at.HIDES_EYEBROWS:
        for accessory in set(at.ACCESSORIES) - at.HIDES_EYEBROWS:
            face = with_top(top, skin=skin, accessory=accessory)
            for eyebrows in ("angry", "worried"):
                assert changed(face, replace(face, eyebrows=eyebrows), levels=30) >= 8, face


@pytest.mark.parametrize("facial_hair", at.FACIAL_HAIR)
def test_mouths_differ(facial_hair):
    faces = [replace(PLAIN, facial_hair=facial_hair, mouth=mouth) for mouth in at.MOUTHS]
    for i, a in enumerate(faces):
        assert all(changed(a, b) >= 10 for b in faces[:i])


@pytest.mark.parametrize("table", ["HAIR_COLORS", "SKIN_COLORS", "FABRIC_COLORS"])
def test_colors_are_distinct(table):
    rgb = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in getattr(at, table).values()])
    distance = abs(rgb[:, None] - rgb[None]).max(-1) + 255 * np.eye(len(rgb), dtype=int)
    assert distance.min() >= 30


def test_facial_hair_against_skin():
    for skin in at.SKIN_COLORS:
        for color in at.HAIR_COLORS:
            face = replace(PLAIN, skin=skin, hair_color=color)
            assert changed(face, replace(face, facial_hair="mustache"), levels=25) >= 20, (skin, color)


def test_draws_keep_the_rules():
    tables = {
        "top": at.TOPS,
        "hair_color": at.HAIR_COLORS,
        "hat_color": at.FABRIC_COLORS,
        "skin": at.SKIN_COLORS,
        "accessory": at.ACCESSORIES,
        "facial_hair": at.FACIAL_HAIR,
        "clothes": at.CLOTHES,
        "clothes_color": at.FABRIC_COLORS,
        "graphic": at.GRAPHICS,
        "mouth": at.MOUTHS,
        "eyes": at.EYES,
        "eyebrows": at.EYEBROWS,
    }
    avatars = [Avatar.draw(3, i) for i in range(4000)]
    for field in fields(Avatar):
        values = {getattr(avatar, field.name) for avatar in avatars} - {None}
        assert values == set(tables[field.name])
    for a in avatars:
        haired = a.top in at.HAIR_STYLES and a.top != "bald"
        assert (a.hair_color is not None) == (haired or a.facial_hair != "none")
        assert (a.hat_color is not None) == (a.top in at.HATS)
        assert (a.clothes is None) == (a.clothes_color is None) == (a.top in at.HIDES_CLOTHES)
        assert (a.graphic is not None) == (a.clothes == "print_shirt")
        assert a.clothes != "suit" or a.clothes_color == "black"
        assert a.clothes_color != "white" or a.clothes not in at.WHITE_DETAILS
        assert a.accessory not in at.HIDES_EYES or a.eyes == "open"
        assert a.facial_hair == "none" or a.top not in at.HIDES_FACIAL_HAIR
        assert a.eyebrows == "neutral" or not at.HIDES_EYEBROWS & {a.top, a.skin, a.accessory}
