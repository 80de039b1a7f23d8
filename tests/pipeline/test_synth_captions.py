"""Captions of rendered vehicles say what is seen and nothing else, judged by a vocabulary of the tests' own."""

import re
from dataclasses import replace

import numpy as np
import pytest

from pfcvr.pipeline.synth import render
from pfcvr.pipeline.synth.attributes import PART_TYPES, family, random_part
from pfcvr.pipeline.synth.captions import Sight, long_caption, part_phrases, short_caption
from pfcvr.pipeline.synth.stations import STATIONS, draw_view

# Words by which a reader knows that a part is spoken of.
CUES = {
    "windows": r"\bwindows?\b|\bwindscreen\b|\bglazing\b",
    "wheels": r"\bwheels?\b|\brims?\b|\bspokes?\b",
    "doors": r"\bdoors?\b|\bhandles?\b|\btrim\b|\bemblem\b|\bbadge\b|\bcheckered\b",
    "mirrors": r"\b(?:wing |side )?mirrors?\b",
    "lights": r"\bheadlights?\b|\bheadlamps?\b|\btail lights?\b|\blamps?\b|\blight bar\b|\bLED\b|\bhalo\b",
    "roof": r"\broof\b|\bsunroof\b|\bon top\b",
}
# Words that give away a value; (part, attribute) -> value -> pattern.
VALUES = {
    ("wheels", "design"): {
        "five spoke": r"\bfive spoke",
        "multi spoke": r"\bmulti spoke|many thin spokes",
        "steel": r"\bsteel wheels",
        "disc": r"\bflat disc|\bsmooth closed",
    },
    ("wheels", "finish"): {value: rf"\b{value} (?:\w+ ){{0,4}}wheels" for value in ("silver", "white", "gold")},
    ("mirrors", "shape"): {
        "round": r"\b(?:round|oval) (?:\w+ ){0,4}mirrors",
        "square": r"\b(?:square|boxy) (?:\w+ ){0,4}mirrors",
        "tall": r"\b(?:tall|upright) (?:\w+ ){0,4}mirrors",
    },
    ("roof", "feature"): {
        "sunroof": r"\bsunroof\b",
        "rails": r"\broof rails\b",
        "box": r"\broof box\b|\bluggage box\b",
        "sign": r"\broof sign\b|\bsign on top\b",
    },
    ("doors", "trim"): {
        "none": r"\bno trim\b",
        "chrome": r"\bchrome (?:side )?trim",
        "black": r"\bblack (?:side )?trim",
    },
    ("doors", "sticker"): {"emblem": r"\bemblem\b|\bbadge\b", "checker": r"\bcheckered\b"},
    ("doors", "style"): {
        "two": r"\btwo (?:side )?doors?\b",
        "four": r"\bfour (?:side )?doors?\b",
        "sliding": r"\bsliding\b",
    },
    ("lights", "signature"): {"bar": r"\blight bar\b|\bLED strip\b", "halo": r"\bhalo rings\b|\bbright outlines\b"},
    ("windows", "tint"): {"mirrored": r"\bblue mirrored win|\breflective blue win"},
}


@pytest.fixture(scope="module")
def sights():
    """150 pictures of 50 families, each seen by some station, and their captions."""
    result = []
    for index in range(150):
        rng = np.random.default_rng(index)
        vehicle = family(11, index // 3)[index % 3]
        station = STATIONS[index % len(STATIONS)]
        view = draw_view(station, rng)
        rendered = render(vehicle, view, 96)
        sight = Sight.of(vehicle, rendered, view, station)
        result.append((vehicle, rendered, sight, [long_caption(sight, rng), short_caption(sight, rng)]))
    return result


def test_captions_name_only_parts_whose_mask_is_in_the_picture(sights):
    spoken = 0
    for _, rendered, _, captions in sights:
        for part, pattern in CUES.items():
            for caption in captions:
                if re.search(pattern, caption):
                    spoken += 1
                    assert rendered.masks[part].sum() >= 8, caption
    assert spoken > 1000


def test_a_part_that_is_hidden_is_in_neither_caption_nor_phrases():
    vehicle = replace(family(0, 0)[0], body="truck")
    station = STATIONS[1]
    view = replace(draw_view(station, np.random.default_rng(0)), yaw=180.0, elevation=8.0)
    rendered = render(vehicle, view, 128)
    sight = Sight.of(vehicle, rendered, view, station)
    assert rendered.masks["doors"].sum() == rendered.masks["windows"].sum() == 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        text = f"{long_caption(sight, rng)} {short_caption(sight, rng)} {part_phrases(sight, rng)}"
        assert not re.search(CUES["doors"], text)
        assert not re.search(CUES["windows"], text)


def test_the_long_caption_names_every_part_that_is_well_visible(sights):
    for _, rendered, _, (long, _) in sights:
        for part, mask in rendered.masks.items():
            if part != "wheels" and part != "roof" and mask.mean() > 0.01:
                assert re.search(CUES[part], long), (part, long)
        if rendered.regions.get("wheels.rim", 0) > 0.01 * rendered.image[..., 0].size:
            assert re.search(CUES["wheels"], long)


@pytest.mark.parametrize(("part", "attribute"), list(VALUES))
def test_words_for_a_value_appear_only_on_vehicles_that_have_it(sights, part, attribute):
    true_mentions = 0
    for vehicle, _, _, captions in sights:
        own = getattr(getattr(vehicle, part), attribute)
        for value, pattern in VALUES[part, attribute].items():
            for caption in captions:
                if re.search(pattern, caption):
                    assert value == own, caption
                    true_mentions += 1
    assert true_mentions >= 20


def test_near_twins_seen_alike_are_told_apart_by_the_long_captions_wherever_their_phrases_differ():
    told = 0
    for index in range(40):
        first, second, _ = family(23, index)
        station = STATIONS[0]
        view = draw_view(station, np.random.default_rng(index))
        words = []
        for vehicle in (first, second):
            sight = Sight.of(vehicle, render(vehicle, view, 96), view, station)
            captions = {long_caption(sight, np.random.default_rng(seed)) for seed in range(3)}
            phrases = part_phrases(sight, np.random.default_rng(1))
            words.append((captions, phrases))
        told += words[0][1] != words[1][1]
        assert (words[0][1] == words[1][1]) == (words[0][0] == words[1][0])
    assert told >= 25


def test_captions_keep_their_lengths(sights):
    counts = np.array([[len(caption.split()) for caption in captions] for *_, captions in sights])
    assert counts[:, 0].max() <= 58
    assert counts[:, 0].min() >= 40
    assert 45 <= counts[:, 0].mean() <= 55
    assert counts[:, 1].max() <= 30
    assert 20 <= counts[:, 1].mean() <= 28


def test_captions_fit_clips_77_tokens(sights):
    from open_clip import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    longest = sorted((captions[0] for *_, captions in sights), key=len)[-40:]
    assert max(len(tokenizer.encode(caption)) + 2 for caption in longest) <= 77


def test_the_two_captions_and_the_phrases_draw_their_words_independently(sights):
    _, _, sight, _ = sights[0]
    longs = {long_caption(sight, np.random.default_rng(seed)) for seed in range(10)}
    shorts = {short_caption(sight, np.random.default_rng(seed)) for seed in range(10)}
    assert len(longs) == len(shorts) == 10


def test_the_short_caption_favours_no_part():
    """Whether twins differ in a part must not change how often it is spoken of: every visible part gets its turn."""
    vehicle = family(2, 1)[0]
    vehicle = replace(
        vehicle, **{part: random_part(part, "estate", "blue", np.random.default_rng(3)) for part in PART_TYPES}
    )
    vehicle = replace(vehicle, body="estate", paint="blue")
    station = STATIONS[0]
    view = replace(draw_view(station, np.random.default_rng(4)), yaw=30.0)
    sight = Sight.of(vehicle, render(vehicle, view, 96), view, station)
    texts = [short_caption(sight, np.random.default_rng(seed)) for seed in range(120)]
    for pattern in CUES.values():
        assert 15 <= sum(bool(re.search(pattern, text)) for text in texts) <= 110
