"""Answers that describe nothing: refusals in many words, parts that are not seen, one phrase for all parts."""

import json

import pytest

from pfcvr.pipeline.captioners.judge import Answer, Judged, Refusal, judge
from pfcvr.pipeline.captioners.prompt import load_prompt
from pfcvr.records import PARTS

TEXT, JSON = load_prompt("vehicle-text"), load_prompt("vehicle-json")
GOOD = (
    "A white sedan seen from the front left, with a round red sticker on the rear door and a dent above the left front "
    "wheel. The wide chrome grille has four bars, the headlights are slim, and a black sunroof sits in the white roof."
)
FILLER = (
    "There are trees along both sides, a grey wall behind them, and a long shadow that lies across the lane markings."
)

DESCRIBES_NOTHING = (
    "There is no vehicle in this picture. The picture shows only an empty road with two white lines and a wet surface.",
    "There are no vehicles here. The frame holds a wide road with white lines and a wet surface in the evening light.",
    "No car is visible in the left or in the right lane of the road, which is wet and has white lines on it.",
    "The picture shows an empty road with two white lines, a wet surface and a low barrier along its far left side.",
    "The image does not contain any vehicle, it contains a wide road with white lines and a wet surface at night.",
    "The image is extremely dark and blurred, so it is not possible to make out the vehicle or any of its parts.",
    "The photo is completely black apart from two small points of light near the upper left corner and a thin line.",
    "It is impossible to identify the vehicle here, since nothing but a bright glare and a dark outline is left.",
    "The vehicle cannot be seen well, because a bright glare covers most of the front and all of the left side.",
    "Its color and type cannot be determined, because a bright glare covers most of the front and the left side.",
    "Sorry, this is a road with two white lines and a wet surface, and a low barrier along its left side at night.",
    "Unknown vehicle. Unknown color. The grille is not visible, the headlights are not visible, the wheels unseen.",
    "There isn't a vehicle on the two lanes, which are wet and have white lines, nor on the shoulder beside them.",
    "This image shows a road without any vehicles, two white lines, a wet surface and a low barrier on its left side.",
    "The vehicle in the image is not clearly visible, since a bright glare covers most of the front and the left side.",
    "It is difficult to make out the shape, because the bright glare of a lamp covers most of the front and the left.",
    "The image quality is too low for details, which leaves a gray field with a thin line and two points of light.",
    "Nothing can be seen apart from two small points of light near the upper left corner and a thin line under them.",
    "No details can be made out, since a bright glare covers most of the front, all of the left side and the roof.",
    "The road is empty, wet and marked by two white lines, and a low barrier runs along the far left side of its bend.",
)
GOOD_SENTENCES = (
    "A white van without any car badge; its door frame is completely black, and it does not show any truck lettering.",
    "A white sedan without roof rails. Dark windows hide the interior, and no visible damage marks doors or bumper.",
    "A plain white sedan on which no chrome details are left and no distinguishing features are visible but one dent.",
    "A red car carrier with no cars on the upper deck and no van, only a blue frame, amber lamps and a long ladder.",
    "A white van of unknown make. Its rear doors are not visible from here, the grille has four bars in plain silver.",
    "A gray pickup with an empty bed, no roof rails, no car seat behind the glass, and no truck cap over the rear.",
    "A black sedan with tinted glass: it is not possible to see the interior, only a white sticker on the windshield.",
    "The image shows an empty flatbed truck with a blue cab, two round lamps, a black bumper and a dented left door.",
    "A white sedan in front of no other vehicle, with the hood hidden by leaves, four doors and a wide chrome grille.",
    "A dark sedan whose lower door edge is too dark to tell from the sill, with bright rims and a silver window line.",
)
UNSEEN = (
    "", "-", "0", "...", "n/a", "N/A.", "none", "None visible", "none visible in this view", "empty", "(empty)",
    "nothing", "unknown", "Unseen.", "hidden", "hidden from view", "Wheels hidden", "Not visible",
    "not clearly visible", "The doors are not visible.", "The left mirror is not visible in this picture",
    "Rear windows not shown", "not visible (rear view)", "Windows: not visible", "hidden by shadow", "N / A",
    "can't see", "no information", "Taillights not visible from front", "door handles not visible",
    "side mirrors cannot be seen from this angle", "Cannot be seen", "not applicable", "The roof isn't visible",
    "No wheels visible", "no visible mirrors", "no side mirrors can be seen", "no clear view of the roof",
    "out of view", "The wheels are completely occluded",
)  # fmt: skip
DESCRIPTIONS = (
    "no roof rails", "no visible damage", "dark windows hide the interior", "plain roof without visible rails",
    "black mirrors, the right one not visible", "windows hidden behind red curtains", "wheels covered in mud",
    "no sunroof", "left mirror missing", "unknown logo on each wheel", "roof partly hidden by a blue tarpaulin",
    "white", "empty roof rack", "blank side panels", "two doors visible, both white",
)  # fmt: skip


def with_roof(phrase: str) -> Judged | Refusal:
    return structured({"windows": "dark glass", "roof": phrase})


def structured(phrases: dict[str, str]) -> Judged | Refusal:
    answer = {"color": "white", "type": "sedan", "viewpoint": "front left", "parts": dict.fromkeys(PARTS, "") | phrases}
    return judge(Answer(json.dumps(answer | {"caption": GOOD}), "stop"), JSON)


@pytest.mark.parametrize("start", DESCRIBES_NOTHING)
def test_a_long_answer_that_describes_no_vehicle_is_refused(start: str) -> None:
    verdict = judge(Answer(f"{start} {FILLER}", "stop"), TEXT)
    assert isinstance(verdict, Refusal), verdict
    assert verdict.reason == "declined"


@pytest.mark.parametrize("start", GOOD_SENTENCES)
def test_a_sentence_that_says_what_is_absent_or_hidden_passes(start: str) -> None:
    rest = "It stands on steel wheels with five spokes, has slim headlights and wears a red sticker on one door."
    assert isinstance(judge(Answer(f"{start} {rest}", "stop"), TEXT), Judged)


@pytest.mark.parametrize("phrase", UNSEEN)
def test_a_part_that_is_said_to_be_unseen_is_left_out_and_the_rest_is_kept(phrase: str) -> None:
    verdict = with_roof(phrase)
    assert isinstance(verdict, Judged), verdict
    assert verdict.part_texts == {"windows": "dark glass"}


@pytest.mark.parametrize("phrase", DESCRIPTIONS)
def test_a_phrase_that_describes_is_kept_whatever_it_says_is_absent_or_hidden(phrase: str) -> None:
    verdict = with_roof(phrase)
    assert isinstance(verdict, Judged), verdict
    assert verdict.part_texts == {"windows": "dark glass", "roof": phrase}


def test_one_phrase_for_several_parts_is_refused_unless_it_is_a_plain_one() -> None:
    plain = structured({"doors": "plain white", "roof": "Plain white.", "mirrors": "plain white"})
    assert isinstance(plain, Judged)
    assert plain.part_texts["mirrors"] == "plain white"
    assert isinstance(structured(dict.fromkeys(PARTS[:5], "white")), Refusal)
    long = "white with a red stripe"
    assert isinstance(structured({"doors": long, "roof": long}), Judged)
    thrice = structured({"doors": long, "roof": f"{long.capitalize()}.", "mirrors": long})
    assert thrice == Refusal("degenerate", f"one phrase for doors, mirrors, roof: '{long}'")
    everywhere = structured(dict.fromkeys(PARTS, "a white sedan with dark windows"))
    assert isinstance(everywhere, Refusal)
    assert everywhere.reason == "degenerate"
