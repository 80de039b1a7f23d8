"""What a rendered vehicle can be: body, paint, and for each of the six parts attributes of its own.

Identities come in families of three. A family shares body, paint and proportions; its members differ in one or
two parts only, because near-twins are where coarse methods fail.
"""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args, get_type_hints

import numpy as np

Body = Literal["hatchback", "sedan", "estate", "SUV", "MPV", "van", "minibus", "bus", "pickup", "truck"]
Paint = Literal[
    "black",
    "blue",
    "brown",
    "cyan",
    "dark gray",
    "golden",
    "gray",
    "green",
    "purple",
    "red",
    "white",
    "yellow",
]
FAMILY_SIZE = 3

# Body word -> the Type column of vehicle_info.txt, in the vocabulary of VERI-Wild.
VERI_WILD_TYPE: dict[str, str] = {
    "hatchback": "sedan",
    "sedan": "sedan",
    "estate": "sedan",
    "SUV": "SUV",
    "MPV": "business purpose vehicle/MPV",
    "van": "minivan",
    "minibus": "minibus",
    "bus": "large-sized bus",
    "pickup": "pickup truck",
    "truck": "small-sized truck",
}


@dataclass(frozen=True)
class Windows:
    tint: Literal["clear", "dark", "privacy", "mirrored"] = "clear"


@dataclass(frozen=True)
class Wheels:
    design: Literal["five spoke", "multi spoke", "steel", "disc"] = "five spoke"
    finish: Literal["silver", "black", "white", "gold"] = "silver"


@dataclass(frozen=True)
class Doors:
    style: Literal["two", "four", "sliding"] = "four"
    trim: Literal["none", "chrome", "black"] = "none"
    handles: Literal["body", "chrome", "black"] = "body"
    sticker: Literal["none", "emblem", "checker"] = "none"


@dataclass(frozen=True)
class Mirrors:
    shape: Literal["round", "square", "tall"] = "square"
    colour: Literal["body", "black", "chrome"] = "body"


@dataclass(frozen=True)
class Lights:
    shape: Literal["round", "slim", "tall"] = "slim"
    signature: Literal["plain", "bar", "halo"] = "plain"


@dataclass(frozen=True)
class Roof:
    feature: Literal["plain", "sunroof", "rails", "box", "sign"] = "plain"
    finish: Literal["body", "black"] = "body"


@dataclass(frozen=True)
class VehicleAttributes:
    """One identity. ``stretch`` and ``height`` scale the body's length and height (about 1)."""

    body: Body = "sedan"
    paint: Paint = "red"
    stretch: float = 1.0
    height: float = 1.0
    windows: Windows = Windows()
    wheels: Wheels = Wheels()
    doors: Doors = Doors()
    mirrors: Mirrors = Mirrors()
    lights: Lights = Lights()
    roof: Roof = Roof()

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dict, as written to truth.jsonl."""
        return asdict(self)


PART_TYPES: dict[str, type] = {
    "windows": Windows,
    "wheels": Wheels,
    "doors": Doors,
    "mirrors": Mirrors,
    "lights": Lights,
    "roof": Roof,
}


def choices(part: str, attribute: str, body: str, paint: str) -> list[str]:
    """The values an attribute may take on such a body and paint.

    Left out are values that the eye could not tell from a neighbour there: black trim on black paint, chrome on
    white or gray paint, and sliding doors where no such body has them.
    """
    values = list(get_args(get_type_hints(PART_TYPES[part])[attribute]))
    dark, pale = paint in ("black", "dark gray"), paint in ("white", "gray")
    barred: set[str] = set()
    if attribute == "style" and body not in ("MPV", "van", "minibus", "bus"):
        barred = {"sliding"}
    elif (part, attribute) in (("doors", "trim"), ("doors", "handles")):
        barred = ({"black"} if dark else set()) | ({"chrome"} if pale else set())
    elif (part, attribute) == ("mirrors", "colour"):
        barred = ({"body"} if dark else set()) | ({"chrome"} if pale else set())
    elif (part, attribute) == ("roof", "finish") and dark:
        barred = {"black"}
    return [value for value in values if value not in barred]


def random_part(part: str, body: str, paint: str, rng: np.random.Generator) -> Any:
    """A uniformly drawn attribute record of ``part``."""
    kind = PART_TYPES[part]
    picks = {}
    for field in fields(kind):
        allowed = choices(part, field.name, body, paint)
        picks[field.name] = allowed[int(rng.integers(len(allowed)))]
    return kind(**picks)


def family(seed: int, index: int) -> tuple[VehicleAttributes, VehicleAttributes, VehicleAttributes]:
    """The three members of family ``index``: pairwise different in exactly one or two parts.

    Depends on ``(seed, index)`` alone, so a larger data set keeps the families of a smaller one.
    """
    rng = stream(seed, 1, index)
    body = get_args(Body)[int(rng.integers(len(get_args(Body))))]
    paint = get_args(Paint)[int(rng.integers(len(get_args(Paint))))]
    parts = {part: random_part(part, body, paint, rng) for part in PART_TYPES}
    founder = VehicleAttributes(
        body=body,
        paint=paint,
        stretch=round(float(rng.uniform(0.94, 1.06)), 3),
        height=round(float(rng.uniform(0.96, 1.04)), 3),
        **parts,
    )
    # Members are told apart by at most two parts in all, so any two of them differ in one or two parts.
    names = [str(name) for name in rng.permutation(list(PART_TYPES))[: 1 + int(rng.integers(2))]]
    members = [founder]
    while len(members) < FAMILY_SIZE:
        part = names[int(rng.integers(len(names)))]
        changed = random_part(part, body, paint, rng)
        candidate = replace(members[int(rng.integers(len(members)))], **{part: changed})
        if candidate not in members:
            members.append(candidate)
    return members[0], members[1], members[2]


def stream(seed: int, *key: int) -> np.random.Generator:
    """The random stream of one family or image: a function of the seed and its own indices only."""
    return np.random.default_rng(np.random.SeedSequence([seed & 0xFFFF_FFFF_FFFF_FFFF, *key]))
