"""Captions tell the truth, the first of them nearly all of it."""

from __future__ import annotations

import re

from gankit_avatars.attributes import (
    ACCESSORIES,
    EYES,
    FABRIC_COLORS,
    HAIR_STYLES,
    SKIN_COLORS,
    TOPS,
    Avatar,
    Draws,
)
from gankit_avatars.captions import caption, captions

HAIR_WORDS = {"blond": "blonde", "golden": "blonde", "ginger": "red", "grey": "gray"}
NOUN = {  # noun of a phrase -> whose colour precedes it
    r"hair|quiff|mohawk|bun|bob|afro|dreadlocks|pigtails|beard|mustache|moustache": "hair_color",
    r"hat|hijab|headscarf|turban|beanie|cap": "hat_color",
    r"shirt|t-shirt|tee|v-neck|hoodie|sweatshirt|overalls|dungarees|sweater|suit|tuxedo": "clothes_color",
    r"skin": "skin",
}
FILLERS = r"(?:hair |sun |winter |knit |v-neck |hooded |collared |print |swept-up |bob )?"
COLORS = {*FABRIC_COLORS, *SKIN_COLORS, "blonde"} | set(HAIR_WORDS)


def test_every_color_word_is_true():
    said = dict.fromkeys(NOUN.values(), 0)
    for i in range(1500):
        avatar = Avatar.draw(5, i)
        for text in captions(avatar, 5, i):
            for nouns, field in NOUN.items():
                for word in re.findall(rf"\b([a-z]+) {FILLERS}(?:{nouns})\b", text):
                    if word in COLORS:
                        said[field] += 1
                        accepted = {getattr(avatar, field)}
                        if field == "skin" and avatar.skin == "pale":
                            accepted.add("light")  # "very light skin"
                        assert HAIR_WORDS.get(word, word) in accepted, (text, avatar)
    assert min(said.values()) > 500


def test_nothing_hidden_is_told():
    for i in range(1500):
        avatar = Avatar.draw(6, i)
        text = " | ".join(captions(avatar, 6, i))
        hair = r"\b(hair|quiff|mohawk|bun|bob|afro|dreadlocks|pigtails)\b"
        if avatar.top not in HAIR_STYLES or avatar.top == "bald":
            assert not re.search(hair, text)
        if avatar.hair_color is None:
            assert not re.search(r"blond|golden|ginger|beard|moustache|mustache", text)
        if avatar.clothes is None:
            assert not re.search(r"shirt|hoodie|overalls|sweater|suit|tee\b", text)
        if avatar.accessory == "sunglasses":
            assert not re.search(r"\beyes?\b|wink", text)
        if "glasses" not in avatar.accessory:
            assert not re.search(r"glasses|spectacles|shades", re.sub("(no|without) glasses", "", text))
        else:
            assert not re.search("(no|without) glasses", text)
        if avatar.mouth != "smile":
            assert not re.search("smil|happy", text)
        assert not re.search(r"None|[{}]|  |\ba [aeiou]", text)


def test_first_caption_is_full():
    without_glasses = 0
    for i in range(800):
        avatar = Avatar.draw(8, i)
        text = captions(avatar, 8, i)[0]
        assert "skin" in text
        for color in (avatar.hair_color, avatar.hat_color, avatar.clothes_color):
            spellings = {color, *(word for word, means in HAIR_WORDS.items() if means == color)} - {None}
            assert not spellings or any(word in text for word in spellings), (text, avatar)
        if avatar.accessory == "none":
            without_glasses += "no glasses" in text or "without glasses" in text
        else:
            assert re.search("glasses|spectacles|shades|eye ?patch", text)
    assert without_glasses > 20


def test_words_vary():
    avatar = Avatar.draw(1, 1)
    rng = Draws("words")
    assert len({caption(avatar, rng) for _ in range(100)}) > 90
    openings = {caption(avatar, rng, full=False).split()[0] for _ in range(100)}
    assert len(openings) > 3


def test_one_tag_an_attribute():
    every = set()
    for i in range(3000):
        avatar = Avatar.draw(2, i)
        tags = avatar.tags()
        assert len(tags) == len(set(tags))
        assert TOPS[avatar.top][1] in tags
        assert (ACCESSORIES[avatar.accessory][1] in tags) == (avatar.accessory != "none")
        assert (EYES[avatar.eyes][1] in tags) == (avatar.eyes != "open")
        every.update(tags)
    assert len(every) == 81
    assert all(re.fullmatch(r"[a-z_-]+", tag) for tag in every)
