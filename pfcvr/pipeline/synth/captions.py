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


class Draw:
    """Choices among synonyms. ``terse`` always takes the one with the fewest words."""

    def __init__(self, rng: np.random.Generator, terse: bool = False) -> None:
        self._rng, self._terse = rng, terse

    def pick(self, options: tuple[str, ...]) -> str:
        if self._terse:
            return min(options, key=lambda option: len(option.split()))
        return options[int(self._rng.integers(len(options)))]

    def shuffled(self, items: list[str]) -> list[str]:
        return [items[int(i)] for i in self._rng.permutation(len(items))]

    def coin(self) -> bool:
        return bool(self._rng.integers(2))


def part_phrases(sight: Sight, rng: np.random.Generator) -> dict[str, str]:
    """One phrase for each part that can be seen well enough to be described, in the order of PART_TYPES."""
    return _describe(sight, Draw(rng))


def long_caption(sight: Sight, rng: np.random.Generator) -> str:
    """About 50 words, at most 57: every visible part, and the scene where there is room."""
    for terse in (False, False, False, True):
        draw = Draw(rng, terse)
        phrases = draw.shuffled(list(_describe(sight, draw).values()))
        sentences = [f"{_opening(sight, draw, with_view=not terse)}.", *_enumerate(phrases, draw)]
        text = _fill(" ".join(sentences), sight, draw, LONG_WORDS)
        if len(text.split()) <= LONG_WORDS[1]:
            break
    return text


def short_caption(sight: Sight, rng: np.random.Generator) -> str:
    """About 25 words: a uniformly drawn subset of the visible parts."""
    draw = Draw(rng)
    opening = _opening(sight, draw, with_view=draw.coin())
    chosen: list[str] = []
    for phrase in draw.shuffled(list(_describe(sight, draw).values())):
        words = len(f"{opening} with {_joined([*chosen, phrase])}".split())
        if words <= SHORT_WORDS[1]:
            chosen.append(phrase)
        if words >= SHORT_WORDS[0]:
            break
    text = f"{opening} with {_joined(chosen)}." if chosen else f"{opening}."
    return _fill(text, sight, draw, SHORT_WORDS)


def _describe(sight: Sight, draw: Draw) -> dict[str, str]:
    seen = [part for part in PART_TYPES if sight.parts[part] >= PART_SHARE]
    phrases = {part: SPEAKERS[part](sight, draw) for part in seen}
    return {part: phrase for part, phrase in phrases.items() if phrase}


def _opening(sight: Sight, draw: Draw, with_view: bool) -> str:
    paint = draw.pick(PAINT_WORDS[sight.vehicle.paint])
    body = draw.pick(BODY_WORDS[sight.vehicle.body])
    article = draw.pick(("A", "One"))
    if not with_view:
        return f"{article} {paint} {body}"
    sector = SECTORS[round((sight.view.yaw % 360) / 45) % 8]
    seen = draw.pick(("seen from", "viewed from", "photographed from"))
    height = draw.pick(("high above the", "above the")) if sight.view.elevation > 28 else "the"
    return f"{article} {paint} {body} {seen} {height} {sector}"


def _windows(sight: Sight, draw: Draw) -> str:
    tint = sight.vehicle.windows.tint
    noun = draw.pick(("windows", "window glass"))
    front, rear = sight.sees("windows.front"), sight.sees("windows.rear")
    if tint != "privacy":
        return f"{draw.pick(WORDS['tint'][tint])} {noun}"
    clear, dark = draw.pick(WORDS["tint"]["clear"]), draw.pick(WORDS["tint"]["dark"])
    if front and rear:
        return f"{clear} front {noun} and {dark} rear {noun}"
    return f"{clear} front {noun}" if front else f"{dark} rear {noun}" if rear else ""


def _wheels(sight: Sight, draw: Draw) -> str:
    if not sight.sees("wheels.rim", PART_SHARE):
        return ""
    wheels = sight.vehicle.wheels
    return f"{draw.pick(WORDS['finish'][wheels.finish])} {draw.pick(WORDS['design'][wheels.design])}"


def _doors(sight: Sight, draw: Draw) -> str:
    doors = sight.vehicle.doors
    details = ["no trim"] if doors.trim == "none" and sight.sees("doors.skin", 5 * PART_SHARE) else []
    for name in ("trim", "handles", "sticker"):
        value = getattr(doors, name)
        region = {"trim": "doors.trim", "handles": "doors.handle", "sticker": "doors.sticker"}[name]
        if value != "none" and sight.sees(region):
            details.append(draw.pick(WORDS[name][value]))
    style = draw.pick(WORDS["style"][doors.style])
    if not details:
        return style
    return f"{style} with {_joined(draw.shuffled(details))}"


def _mirrors(sight: Sight, draw: Draw) -> str:
    mirrors = sight.vehicle.mirrors
    words = [
        draw.pick(WORDS["mirror shape"][mirrors.shape]),
        draw.pick(WORDS["mirror colour"][mirrors.colour]),
    ]
    return f"{' '.join(draw.shuffled(words))} {draw.pick(('mirrors', 'wing mirrors', 'side mirrors'))}"


def _lights(sight: Sight, draw: Draw) -> str:
    lights = sight.vehicle.lights
    front = sight.sees("lights.front") or sight.sees("lights.front wrap")
    rear = sight.sees("lights.rear") or sight.sees("lights.rear wrap")
    nouns = ("headlights", "headlamps") if not rear else ("tail lights", "rear lamps") if not front else ("lamps",)
    lamps = f"{draw.pick(WORDS['lamp shape'][lights.shape])} {draw.pick(nouns)}"
    if lights.signature == "halo":
        return f"{lamps} {draw.pick(('with glowing halo rings', 'framed by bright outlines'))}"
    if lights.signature == "bar" and (sight.sees("lights.front bar") or sight.sees("lights.rear bar")):
        return f"{lamps} {draw.pick(('joined by a light bar', 'with a connecting LED strip'))}"
    faces_us = sight.sees("lights.front", PART_SHARE) or sight.sees("lights.rear", PART_SHARE)
    if lights.signature == "plain" and faces_us:
        return f"{draw.pick(('plain', 'simple'))} {lamps}"
    return lamps


def _roof(sight: Sight, draw: Draw) -> str:
    roof = sight.vehicle.roof
    panel = sight.sees("roof.panel", PART_SHARE)
    feature = roof.feature != "plain" and sight.sees("roof.feature")
    colour = "a black" if roof.finish == "black" else draw.pick(("a body coloured", "a painted"))
    if feature:
        thing = draw.pick(WORDS["feature"][roof.feature])
        return f"{colour} roof with {thing}" if panel else thing
    if not panel:
        return ""
    return f"{colour} {draw.pick(('plain', 'bare'))} roof" if roof.feature == "plain" else f"{colour} roof"


SPEAKERS: dict[str, Callable[[Sight, Draw], str]] = {
    "windows": _windows,
    "wheels": _wheels,
    "doors": _doors,
    "mirrors": _mirrors,
    "lights": _lights,
    "roof": _roof,
}


def _enumerate(phrases: list[str], draw: Draw) -> list[str]:
    """The phrases in two or three sentences."""
    starts = draw.shuffled(["It has", "It shows", "It carries", "Visible are", "One can see"])
    size = 2 if len(phrases) <= 4 else 3
    groups = [phrases[i : i + size] for i in range(0, len(phrases), size)]
    return [f"{start} {_joined(group)}." for start, group in zip(starts, groups, strict=False)]


def _fill(text: str, sight: Sight, draw: Draw, bounds: tuple[int, int]) -> str:
    """Add true remarks on place and light until the text has at least ``bounds[0]`` words, or none fits."""
    for remark in draw.shuffled([*sight.station.place, *sight.station.daylight]):
        words = len(text.split())
        if words >= bounds[0]:
            break
        if words + len(remark.split()) <= bounds[1]:
            text = f"{text} {remark}"
    return text


def _joined(items: list[str]) -> str:
    if len(items) < 2:
        return "".join(items)
    nested = any(" and " in item for item in items)
    return f"{', '.join(items[:-1])}{',' if nested else ''} and {items[-1]}"
