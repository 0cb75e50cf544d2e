"""English captions of an avatar: varied in words, order and completeness, true in every word."""

from __future__ import annotations

import re

from gankit_avatars.attributes import HAIR_STYLES, Avatar, Draws

# Phrases of one attribute; {} is its colour, next to the noun that it belongs to.
TOPS = {
    "bald": ("a bald head",),
    "short": ("short {} hair", "{} hair cut short"),
    "quiff": ("a {} quiff", "{} hair in a quiff", "{} swept-up hair"),
    "mohawk": ("a {} mohawk", "{} hair in a mohawk"),
    "bun": ("a {} hair bun", "{} hair in a bun", "{} hair tied up in a bun"),
    "bob": ("a {} bob", "a {} bob cut", "{} hair in a bob", "chin-length {} hair"),
    "half_shaved": ("asymmetrical {} hair", "{} hair swept to one side", "half-shaved {} hair"),
    "messy": ("messy {} hair", "tousled {} hair", "{} hair that is messy"),
    "afro": ("a {} afro", "a big {} afro", "{} hair in an afro"),
    "long_straight": ("long straight {} hair", "straight long {} hair"),
    "long_wavy": ("long wavy {} hair", "long {} hair in waves"),
    "dreadlocks": ("{} dreadlocks", "long {} dreadlocks", "{} hair in dreadlocks"),
    "pigtails": ("braided {} pigtails", "{} pigtails", "{} hair in braided pigtails"),
    "hat": ("a {} hat", "a {} sun hat", "a wide-brimmed {} hat"),
    "hijab": ("a {} hijab", "a {} headscarf"),
    "turban": ("a {} turban",),
    "winter_hat": ("a {} winter hat", "a {} winter hat with ear flaps", "a {} hat with ear flaps"),
    "beanie": ("a {} beanie", "a {} knit cap", "a {} beanie with a white brim"),
}
ACCESSORIES = {
    "glasses": ("glasses", "black glasses", "eyeglasses", "spectacles"),
    "round_glasses": ("round glasses", "round eyeglasses", "round-framed glasses"),
    "sunglasses": ("sunglasses", "dark sunglasses", "black sunglasses", "shades"),
    "eyepatch": ("an eyepatch", "an eye patch", "a black eyepatch"),
}
CLOTHES = {
    "t_shirt": ("a {} t-shirt", "a {} tee", "a {} shirt", "a plain {} t-shirt"),
    "v_neck": ("a {} v-neck shirt", "a {} v-neck", "a {} shirt with a v-neck"),
    "hoodie": ("a {} hoodie", "a {} hooded sweatshirt"),
    "overalls": ("{} overalls", "{} dungarees"),
    "sweater": ("a {} sweater with a white collar", "a {} collared sweater", "a {} sweater"),
    "print_shirt": (
        "a {} shirt with a {graphic} print",
        "a {} t-shirt with a {graphic} on it",
        "a {} print shirt",
    ),
    "suit": ("a {} suit", "a {} tuxedo"),
}
FACIAL_HAIR = {
    "beard": ("a {} beard", "a full {} beard"),
    "long_beard": ("a long {} beard", "a big {} beard"),
    "mustache": ("a {} mustache", "a {} moustache"),
}
SKINS = {
    "pale": ("pale skin", "very light skin"),
    "light": ("light skin", "fair skin"),
    "tan": ("tan skin", "tanned skin"),
    "brown": ("brown skin",),
    "dark": ("dark skin",),
    "yellow": ("yellow skin", "bright yellow skin"),
}
HAIR_COLORS = {
    "blonde": ("blonde", "blond", "golden"),
    "red": ("red", "red", "ginger"),
    "gray": ("gray", "grey"),
}
FABRIC_COLORS = {"gray": ("gray", "grey")}
MOUTH_ADJECTIVES = {"smile": ("smiling", "happy"), "serious": ("serious",), "sad": ("sad", "frowning")}
MOUTH_CLAUSES = {
    "smile": ("smiling", "with a big smile"),
    "serious": ("with a serious face", "with a straight face"),
    "sad": ("frowning", "with a sad mouth"),
    "tongue": ("sticking out their tongue", "with their tongue out"),
    "grimace": ("clenching their teeth", "with clenched teeth"),
    "shouting": ("shouting", "screaming"),
}
EYES = {
    "closed": ("closed eyes", "eyes closed"),
    "wink": ("one eye closed", "a wink"),
    "heart": ("heart-shaped eyes", "heart eyes"),
    "wide": ("wide eyes", "wide open eyes"),
}
EYEBROWS = {"angry": ("angry eyebrows",), "worried": ("worried eyebrows", "sad eyebrows")}
NOUNS = ("person", "person", "character", "cartoon character", "cartoon person")
OPENERS = ("", "", "", "a portrait of ", "a picture of ", "a cartoon of ", "an avatar of ")


def phrases(avatar: Avatar, rng: Draws) -> dict[str, str]:
    """Attribute -> noun phrase, for each visible attribute but the mouth."""
    hair = avatar.hair_color and rng.pick(HAIR_COLORS.get(avatar.hair_color, (avatar.hair_color,)))
    said = {"skin": rng.pick(SKINS[avatar.skin])}
    top = rng.pick(TOPS[avatar.top])
    if avatar.top in HAIR_STYLES:
        said["hair"] = top.format(hair)
    else:
        said["hat"] = top.format(rng.pick(FABRIC_COLORS.get(avatar.hat_color or "", (avatar.hat_color,))))
    if avatar.clothes is not None:
        color = rng.pick(FABRIC_COLORS.get(avatar.clothes_color or "", (avatar.clothes_color,)))
        said["clothes"] = rng.pick(CLOTHES[avatar.clothes]).format(color, graphic=avatar.graphic)
    for name, table in (("accessory", ACCESSORIES), ("eyes", EYES), ("eyebrows", EYEBROWS)):
        value = getattr(avatar, name)
        if value in table:
            said[name] = rng.pick(table[value])
    if avatar.facial_hair != "none":
        said["facial_hair"] = rng.pick(FACIAL_HAIR[avatar.facial_hair]).format(hair)
    return said


def caption(avatar: Avatar, rng: Draws, full: bool = True) -> str:
    """One random caption.

    Args:
        avatar: attributes to describe.
        rng: stream of integers that chooses words and order.
        full: tell the hair or hat, skin, glasses and clothes in any case ("no glasses" only sometimes); else
            any few attributes.
    """
    said = phrases(avatar, rng)
    if avatar.accessory == "none" and rng.below(3) == 0:
        said["no_glasses"] = "no glasses"
    if full:
        optional = {"eyes", "eyebrows"}
        if avatar.top in HAIR_STYLES and avatar.top != "bald":  # else only the beard tells the hair's colour
            optional.add("facial_hair")
        kept = {name: said[name] for name in said if name not in optional or rng.below(4)}
        tell_mouth = rng.below(4) > 0
    else:
        if "hair" in said and avatar.top != "bald" and rng.below(4) == 0:
            said["hair"] = f"{avatar.hair_color} hair"
        names = rng.shuffled(list(said))[: 1 + rng.below(3)]
        kept = {name: said[name] for name in names}
        tell_mouth = rng.below(3) == 0
    write = _sentence if rng.below(6) else _listing
    return re.sub(r"\ba (?=[aeiou])", "an ", write(avatar, kept, tell_mouth, rng))


def _listing(avatar: Avatar, said: dict[str, str], tell_mouth: bool, rng: Draws) -> str:
    """Comma-separated phrases, as prompts are often typed."""
    items = list(said.values())
    if tell_mouth:
        items.append(rng.pick(MOUTH_CLAUSES[avatar.mouth]).removeprefix("with "))
    return ", ".join(rng.shuffled(items))


def _sentence(avatar: Avatar, said: dict[str, str], tell_mouth: bool, rng: Draws) -> str:
    adjectives, clauses = [], []
    if tell_mouth:
        if avatar.mouth in MOUTH_ADJECTIVES and rng.below(2):
            adjectives.append(rng.pick(MOUTH_ADJECTIVES[avatar.mouth]))
        else:
            clauses.append(rng.pick(MOUTH_CLAUSES[avatar.mouth]))
    if avatar.top == "bald" and "hair" in said and rng.below(2):
        del said["hair"]
        adjectives.append("bald")

    worn = [said.pop(name) for name in ("hat", "accessory", "clothes") if name in said]
    without = [said.pop("no_glasses")] if "no_glasses" in said else []
    had = list(said.values())
    if without and had and rng.below(2):
        had += without
    elif without:
        clauses.append("without glasses")
    if had:
        clauses.append("with " + _join(rng.shuffled(had)))
    if worn:
        clauses.append(rng.pick(("wearing ", "in ", "wearing ")) + _join(rng.shuffled(worn)))

    head = " ".join([*rng.shuffled(adjectives), rng.pick(NOUNS)])
    text = f"{rng.pick(OPENERS)}a {head}"
    for i, clause in enumerate(rng.shuffled(clauses)):
        text += (", " if i else " ") + clause
    return text


def _join(items: list[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else items[0]


def captions(avatar: Avatar, seed: int, index: int) -> tuple[str, ...]:
    """Three captions of avatar `index`: a full one, one that is full half of the time, a partial one."""
    rng = Draws("captions", seed, index)
    return (
        caption(avatar, rng, full=True),
        caption(avatar, rng, full=bool(rng.below(2))),
        caption(avatar, rng, full=False),
    )
