"""Sentences about a rendered vehicle: a grammar with synonyms that speaks only of what the picture shows.

The long caption names every visible part with its attributes, the short one a uniformly drawn subset. Both draw
their words independently and know nothing of families, so near-twins are told apart by what is seen or not at all.
Hyphens are avoided: CLIP's vocabulary spends three tokens on one hyphenated word, and it reads only 77.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pfcvr.pipeline.synth.attributes import PART_TYPES, VehicleAttributes
from pfcvr.pipeline.synth.render import Rendered, View
from pfcvr.pipeline.synth.scene import Station

PART_SHARE = 0.002  # share of the crop's pixels a part must cover to be spoken of
DETAIL_SHARE = 0.001  # the same for a detail of it (trim, handle, light bar)
LONG_WORDS = (46, 57)
SHORT_WORDS = (22, 29)

PAINT_WORDS: dict[str, tuple[str, ...]] = {
    "black": ("black", "jet black"),
    "blue": ("blue", "bright blue"),
    "brown": ("brown", "chocolate brown"),
    "cyan": ("cyan", "turquoise"),
    "dark gray": ("dark gray", "charcoal"),
    "golden": ("golden", "sandy gold"),
    "gray": ("gray", "light gray"),
    "green": ("green", "leaf green"),
    "purple": ("purple", "violet"),
    "red": ("red", "bright red"),
    "white": ("white", "plain white"),
    "yellow": ("yellow", "bright yellow"),
}
BODY_WORDS: dict[str, tuple[str, ...]] = {
    "hatchback": ("hatchback", "compact hatchback"),
    "sedan": ("sedan", "saloon car"),
    "estate": ("estate car", "station wagon"),
    "SUV": ("SUV", "sport utility vehicle"),
    "MPV": ("MPV", "people carrier"),
    "van": ("panel van", "delivery van"),
    "minibus": ("minibus", "shuttle minibus"),
    "bus": ("bus", "city bus"),
    "pickup": ("pickup", "pickup truck"),
    "truck": ("box truck", "lorry"),
}
WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "tint": {
        "clear": ("clear", "untinted"),
        "dark": ("dark tinted", "blackened"),
        "mirrored": ("blue mirrored", "reflective blue"),
    },
    "finish": {
        "silver": ("silver",),
        "black": ("black", "satin black"),
        "white": ("white",),
        "gold": ("gold",),
    },
    "design": {
        "five spoke": ("five spoke wheels", "wheels with five spokes"),
        "multi spoke": ("multi spoke wheels", "wheels with many thin spokes"),
        "steel": ("steel wheels with round holes", "perforated steel wheels"),
        "disc": ("flat disc wheels", "smooth closed wheels"),
    },
    "style": {
        "two": ("two side doors", "a two door layout"),
        "four": ("four side doors", "a four door layout"),
        "sliding": ("a sliding door", "a sliding side door"),
    },
    "trim": {
        "chrome": ("a chrome trim strip", "chrome side trim"),
        "black": ("a black trim strip", "black side trim"),
    },
    "handles": {
        "body": ("body coloured handles", "painted handles"),
        "chrome": ("chrome handles", "shiny handles"),
        "black": ("black handles", "dark handles"),
    },
    "sticker": {
        "emblem": ("a round emblem", "a circular badge"),
        "checker": ("a checkered band", "checkered stickers"),
    },
    "mirror shape": {"round": ("round", "oval"), "square": ("square", "boxy"), "tall": ("tall", "upright")},
    "mirror colour": {
        "body": ("body coloured", "paint matched"),
        "black": ("black", "dark"),
        "chrome": ("chrome", "chromed"),
    },
    "lamp shape": {"round": ("round", "circular"), "slim": ("slim", "narrow"), "tall": ("tall", "vertical")},
    "feature": {
        "sunroof": ("a sunroof", "a glass sunroof"),
        "rails": ("roof rails", "long roof rails"),
        "box": ("a roof box", "a luggage box on top"),
        "sign": ("a yellow roof sign", "a lit sign on top"),
    },
}
SECTORS = ("front", "front left", "left side", "rear left", "rear", "rear right", "right side", "front right")


@dataclass(frozen=True)
class Sight:
    """What a speaker can see: the vehicle, the shares of the crop its parts and regions cover, where it was taken."""

    vehicle: VehicleAttributes
    parts: dict[str, float]
    regions: dict[str, float]
    view: View
    station: Station

    @classmethod
    def of(cls, vehicle: VehicleAttributes, rendered: Rendered, view: View, station: Station) -> "Sight":
        pixels = float(rendered.image.shape[0] * rendered.image.shape[1])
        parts = {part: float(mask.sum()) / pixels for part, mask in rendered.masks.items()}
        regions = {name: area / pixels for name, area in rendered.regions.items()}
        return cls(vehicle, parts, regions, view, station)

    def sees(self, region: str, share: float = DETAIL_SHARE) -> bool:
        return self.regions.get(region, 0.0) >= share


def describe(sight: Sight, rng: np.random.Generator) -> dict[str, str]:
    """One phrase for each part that can be seen well enough to be described, in the order of PART_TYPES."""
    phrases = {}
    for part in PART_TYPES:
        if sight.parts[part] >= PART_SHARE:
            phrase = SPEAKERS[part](sight, rng)
            if phrase:
                phrases[part] = phrase
    return phrases


def long_caption(sight: Sight, rng: np.random.Generator) -> str:
    """About 50 words, never more than 57: every visible part, and the scene where there is room."""
    best = ""
    for _ in range(12):
        phrases = _shuffled(list(describe(sight, rng).values()), rng)
        sentences = [f"{_opening(sight, rng, with_view=True)}."]
        sentences += _enumerate(phrases, rng)
        text = _fill(" ".join(sentences), sight, rng, LONG_WORDS)
        if not best or len(text.split()) < len(best.split()):
            best = text
        if len(text.split()) <= LONG_WORDS[1]:
            return text
    return best


def short_caption(sight: Sight, rng: np.random.Generator) -> str:
    """About 25 words: a uniformly drawn subset of the visible parts."""
    opening = _opening(sight, rng, with_view=bool(rng.integers(2)))
    phrases = _shuffled(list(describe(sight, rng).values()), rng)
    chosen: list[str] = []
    for phrase in phrases:
        words = len(f"{opening} with {_joined([*chosen, phrase])}".split())
        if words <= SHORT_WORDS[1]:
            chosen.append(phrase)
        if words >= SHORT_WORDS[0]:
            break
    text = f"{opening} with {_joined(chosen)}." if chosen else f"{opening}."
    return _fill(text, sight, rng, SHORT_WORDS)


def _opening(sight: Sight, rng: np.random.Generator, with_view: bool) -> str:
    paint = _pick(PAINT_WORDS[sight.vehicle.paint], rng)
    body = _pick(BODY_WORDS[sight.vehicle.body], rng)
    article = _pick(("A", "One"), rng)
    if not with_view:
        return f"{article} {paint} {body}"
    sector = SECTORS[round((sight.view.yaw % 360) / 45) % 8]
    seen = _pick(("seen from", "viewed from", "photographed from"), rng)
    height = _pick(("high above the", "above the"), rng) if sight.view.elevation > 28 else "the"
    return f"{article} {paint} {body} {seen} {height} {sector}"


def _windows(sight: Sight, rng: np.random.Generator) -> str:
    tint = sight.vehicle.windows.tint
    noun = _pick(("windows", "window glass"), rng)
    front, rear = sight.sees("windows.front"), sight.sees("windows.rear")
    if tint != "privacy":
        return f"{_pick(WORDS['tint'][tint], rng)} {noun}"
    clear, dark = _pick(WORDS["tint"]["clear"], rng), _pick(WORDS["tint"]["dark"], rng)
    if front and rear:
        return f"{clear} front {noun} and {dark} rear {noun}"
    return f"{clear} front {noun}" if front else f"{dark} rear {noun}" if rear else ""


def _wheels(sight: Sight, rng: np.random.Generator) -> str:
    if not sight.sees("wheels.rim", PART_SHARE):
        return ""
    wheels = sight.vehicle.wheels
    return f"{_pick(WORDS['finish'][wheels.finish], rng)} {_pick(WORDS['design'][wheels.design], rng)}"


def _doors(sight: Sight, rng: np.random.Generator) -> str:
    doors = sight.vehicle.doors
    details = []
    for name in ("trim", "handles", "sticker"):
        value = getattr(doors, name)
        region = {"trim": "doors.trim", "handles": "doors.handle", "sticker": "doors.sticker"}[name]
        if value != "none" and sight.sees(region):
            details.append(_pick(WORDS[name][value], rng))
    style = _pick(WORDS["style"][doors.style], rng)
    if not details:
        return style
    return f"{style} with {_joined(_shuffled(details, rng))}"


def _mirrors(sight: Sight, rng: np.random.Generator) -> str:
    mirrors = sight.vehicle.mirrors
    words = [
        _pick(WORDS["mirror shape"][mirrors.shape], rng),
        _pick(WORDS["mirror colour"][mirrors.colour], rng),
    ]
    return f"{' '.join(_shuffled(words, rng))} {_pick(('mirrors', 'wing mirrors', 'side mirrors'), rng)}"


def _lights(sight: Sight, rng: np.random.Generator) -> str:
    lights = sight.vehicle.lights
    front = sight.sees("lights.front") or sight.sees("lights.front wrap")
    rear = sight.sees("lights.rear") or sight.sees("lights.rear wrap")
    nouns = ("headlights", "headlamps") if not rear else ("tail lights", "rear lamps") if not front else ("lamps",)
    lamps = f"{_pick(WORDS['lamp shape'][lights.shape], rng)} {_pick(nouns, rng)}"
    if lights.signature == "halo":
        return f"{lamps} {_pick(('with glowing halo rings', 'framed by bright outlines'), rng)}"
    if lights.signature == "bar" and (sight.sees("lights.front bar") or sight.sees("lights.rear bar")):
        return f"{lamps} {_pick(('joined by a light bar', 'with a connecting LED strip'), rng)}"
    faces_us = sight.sees("lights.front", PART_SHARE) or sight.sees("lights.rear", PART_SHARE)
    if lights.signature == "plain" and faces_us:
        return f"{_pick(('plain', 'simple'), rng)} {lamps}"
    return lamps


def _roof(sight: Sight, rng: np.random.Generator) -> str:
    roof = sight.vehicle.roof
    panel = sight.sees("roof.panel", PART_SHARE)
    feature = roof.feature != "plain" and sight.sees("roof.feature")
    colour = "a black" if roof.finish == "black" else _pick(("a body coloured", "a painted"), rng)
    if feature:
        thing = _pick(WORDS["feature"][roof.feature], rng)
        return f"{colour} roof with {thing}" if panel else thing
    if not panel:
        return ""
    return f"{colour} {_pick(('plain', 'bare'), rng)} roof" if roof.feature == "plain" else f"{colour} roof"


SPEAKERS: dict[str, Callable[[Sight, np.random.Generator], str]] = {
    "windows": _windows,
    "wheels": _wheels,
    "doors": _doors,
    "mirrors": _mirrors,
    "lights": _lights,
    "roof": _roof,
}


def _enumerate(phrases: list[str], rng: np.random.Generator) -> list[str]:
    """The phrases in two or three sentences."""
    starts = _shuffled(["It has", "It shows", "Visible are", "Note the", "There are"], rng)
    starts = [start if start != "There are" else "It carries" for start in starts]
    size = 2 if len(phrases) <= 4 else 3
    groups = [phrases[i : i + size] for i in range(0, len(phrases), size)]
    return [f"{start} {_joined(group)}." for start, group in zip(starts, groups, strict=False)]


def _fill(text: str, sight: Sight, rng: np.random.Generator, bounds: tuple[int, int]) -> str:
    """Add true remarks on place and light until the text has at least ``bounds[0]`` words, or none fits."""
    remarks = _shuffled([*sight.station.place, *sight.station.daylight], rng)
    for remark in sorted(remarks, key=lambda r: -len(r.split())) if bounds == LONG_WORDS else remarks:
        words = len(text.split())
        if words >= bounds[0]:
            break
        if words + len(remark.split()) <= bounds[1]:
            text = f"{text} {remark}"
    return text


def _joined(items: list[str]) -> str:
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _shuffled(items: list[str], rng: np.random.Generator) -> list[str]:
    return [items[int(i)] for i in rng.permutation(len(items))]
