"""Captions compared with each other: those of one vehicle have to agree, those of different ones have to differ."""

import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pfcvr.config import CaptionConfig, CheckConfig
from pfcvr.pipeline import caption, check
from pfcvr.pipeline.audit import Finding
from pfcvr.pipeline.audit.agreement import Agreement, Doubt
from pfcvr.pipeline.audit.near_captions import BANDS, ROWS, NearCaptions, band_keys, likeness, word_pairs
from pfcvr.records import Caption, CaptionOrigin, ImageRecord
from pfcvr.stage import RunOptions

QUIET = RunOptions(quiet=True)
ORIGIN = CaptionOrigin(captioner="openai", model="m", prompt="p", prompt_sha256="0" * 64)
GOOD = (
    "A white sedan seen from the front left, with a round red sticker on the rear door and a dent above the left front "
    "wheel. The wide chrome grille has four bars, the headlights are slim, the silver wheels have five spokes, and a "
    "black sunroof sits in the plain white roof above dark rear windows."
)


def image(image_id: str, **facts: Any) -> ImageRecord:
    vehicle_id = image_id.partition("/")[0]
    values = {"source": "s", "path": "p", "sha256": "0" * 64, "width": 9, "height": 9} | facts
    return ImageRecord(image_id=image_id, vehicle_id=vehicle_id, **values)


def said(image_id: str, *texts: str, **attributes: str) -> Caption:
    return Caption(image_id=image_id, texts=texts or (GOOD,), attributes=attributes, origin=ORIGIN)


def doubts(*pairs: tuple[ImageRecord, Caption]) -> list[Doubt]:
    agreement = Agreement()
    for one, its_caption in pairs:
        agreement.add(one, its_caption)
    found = list(agreement.doubts())
    agreement.close()
    return found


def colors(**said_by_image: str) -> list[Doubt]:
    return doubts(*((image(f"v/{name}"), said(f"v/{name}", color=color)) for name, color in said_by_image.items()))


def test_the_image_that_says_what_the_others_do_not_is_in_doubt() -> None:
    (doubt,) = colors(a="white", b="red", c="white")
    expected = {"image_id": "v/b", "vehicle_id": "v", "attribute": "color", "said": "red", "source": None}
    assert doubt.model_dump() == expected | {"others": {"white": 2}}
    assert doubt.text() == "v/b is red, other images white 2 x"
    assert colors(a="white", b="white") == []


def test_where_as_many_say_one_thing_as_the_other_all_are_in_doubt() -> None:
    assert [(doubt.image_id, doubt.others) for doubt in colors(a="white", b="red")] == [
        ("v/a", {"red": 1}),
        ("v/b", {"white": 1}),
    ]


def test_views_may_differ_and_vehicles_and_attributes_are_compared_on_their_own() -> None:
    found = doubts(
        (image("v/a"), said("v/a", color="white", type="sedan", viewpoint="front")),
        (image("v/b"), said("v/b", color="white", type="SUV", viewpoint="rear")),
        (image("v/c"), said("v/c", type="SUV")),
        (image("w/a"), said("w/a", color="red", type="sedan")),
    )
    assert [(doubt.image_id, doubt.attribute) for doubt in found] == [("v/a", "type")]


def test_the_source_is_heard_where_it_speaks_the_same_words() -> None:
    found = doubts(
        (image("v/a", color="Red", type="sedan"), said("v/a", color="white", type="sedan")),
        (image("w/a", color="RED"), said("w/a", color="red")),
        (image("x/a", color="rouge", type="van"), said("x/a", color="red", type="sedan")),
    )
    assert [(doubt.text(), doubt.source) for doubt in found] == [("v/a is white, source Red", "Red")]


VALUES = st.sampled_from(["white", "red", "gray"])


@settings(deadline=None)
@given(st.dictionaries(st.integers(0, 3), st.dictionaries(st.integers(0, 5), VALUES, min_size=1)))
def test_doubts_are_those_of_a_plain_count(said_by_vehicle: dict[int, dict[int, str]]) -> None:
    expected = []
    for vehicle, values in sorted(said_by_vehicle.items()):
        votes = Counter(values.values())
        best = [value for value, count in votes.items() if count == max(votes.values())]
        expected += [f"{vehicle}/{number}" for number in sorted(values) if best != [values[number]]]
    pairs = [
        (image(f"{vehicle}/{number}"), said(f"{vehicle}/{number}", color=value))
        for vehicle, values in said_by_vehicle.items()
        for number, value in values.items()
    ]
    random.Random(0).shuffle(pairs)
    assert [doubt.image_id for doubt in doubts(*pairs)] == expected


class Answers:
    """A captioner whose answers are given, by image_id."""

    def __init__(self, captions: dict[str, Caption]) -> None:
        self.captions = captions
        self.settings: dict[str, Any] = {}
        self.inputs: dict[str, str] = {}
        self.rejected_count, self.workers, self.normal_reasons = 0, 1, frozenset[str]()

    def caption(self, record: ImageRecord) -> Caption:
        return self.captions[record.image_id]

    def rejected(self) -> Any:
        return iter(())

    def live(self) -> str:
        return ""

    def give_up(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def captioned(small: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Captions the small workspace with given attributes through the real stage."""

    def run(attributes: dict[str, dict[str, str]]) -> Any:
        captions = {
            record.image_id: said(record.image_id, f"{record.image_id} {GOOD}", **attributes.get(record.image_id, {}))
            for record in small.images
        }
        monkeypatch.setattr(caption, "load_backend", lambda *_: lambda *_: Answers(captions))
        return caption.run(small.workspace, CaptionConfig(captioner="import"), QUIET)

    return run


def review_file(small: Any) -> Path:
    return Path(small.workspace.folder("caption") / "review.jsonl")


def test_the_stage_lists_the_images_to_look_at_and_says_how_many(small: Any, captioned: Any) -> None:
    small.add_images({"00001": 3, "00002": 2})
    white, red = {"color": "white", "type": "sedan"}, {"color": "red", "type": "SUV"}
    summary = captioned({"00001/000001": white, "00001/000002": red, "00001/000003": white, "00002/000004": red})
    assert summary.notes == {"to_review": 1, "doubts": {"color": 1, "type": 1}}
    lines = [json.loads(line) for line in review_file(small).read_text().splitlines()]
    assert [(line["image_id"], line["attribute"], line["said"], line["others"]) for line in lines] == [
        ("00001/000002", "color", "red", {"white": 2}),
        ("00001/000002", "type", "SUV", {"sedan": 2}),
    ]
    assert caption.review_line(summary) == ("1 image to look at: captions contradict others, see caption/review.jsonl")
    small.add_split(ratio=0.5, val=0, seed=1)
    findings = {finding.code: finding for finding in check.run(small.workspace, CheckConfig()).findings}
    assert findings["contradicting_captions"].count == 2
    assert findings["contradicting_captions"].examples[0] == "00001/000002 is red, other images white 2 x"


def test_captions_without_attributes_leave_no_list(small: Any, captioned: Any) -> None:
    small.add_images({"00001": 2})
    summary = captioned({})
    assert summary.notes == {}
    assert caption.review_line(summary) == ""
    assert not review_file(small).exists()


def near(*texts_by_vehicle: tuple[str, str]) -> list[Finding]:
    collected = NearCaptions()
    for number, (vehicle, text) in enumerate(texts_by_vehicle):
        image_id = f"{vehicle}/{number}"
        collected.add(image(image_id), said(image_id, text))
    found = list(collected.finding())
    collected.close()
    return found


def test_captions_of_two_vehicles_that_differ_in_a_word_are_found() -> None:
    other = GOOD.replace("round red", "square red")
    (finding,) = near(("v", GOOD), ("w", other), ("x", "A wholly different blue truck with a yellow crane on its bed."))
    assert (finding.code, finding.severity, finding.count) == ("near_identical_captions", "warning", 2)
    assert finding.examples == ("v/0 = w/1",)


def test_equal_texts_one_vehicle_and_short_texts_are_not_near_identical() -> None:
    other = GOOD.replace("round red", "square red")
    assert near(("v", GOOD), ("w", GOOD)) == []
    assert near(("v", GOOD), ("v", other)) == []
    assert near(("v", "A plain white car at night"), ("w", "A plain white car at noon")) == []
    assert near(("v", GOOD), ("w", " ".join(reversed(GOOD.split())))) == []


def test_thousands_of_captions_from_one_template_are_compared_in_bounded_time() -> None:
    filler = " ".join(f"word{number}" for number in range(45))
    (finding,) = near(*((f"v{number}", f"{filler} number {number}") for number in range(1500)))
    assert finding.count == 1500


WORDS = st.lists(st.sampled_from([f"w{number}" for number in range(40)]), min_size=8, max_size=30)


@given(WORDS, WORDS)
def test_likeness_is_the_share_of_common_word_pairs(one: list[str], other: list[str]) -> None:
    def pairs(words: list[str]) -> set[tuple[str, str]]:
        return {(words[place], words[place + 1]) for place in range(len(words) - 1)}

    expected = len(pairs(one) & pairs(other)) / len(pairs(one) | pairs(other))
    assert likeness(word_pairs(one), word_pairs(other)) == pytest.approx(expected)


def test_bands_find_what_is_alike_and_seldom_compare_what_is_not() -> None:
    rng = np.random.default_rng(0)
    met = {0.9: 0, 0.5: 0}
    for share in met:
        common = round(60 * share)
        for _ in range(200):
            pairs = rng.choice(2**31, 120 - common, replace=False).astype(np.uint32)
            one, other = np.sort(pairs[:60]), np.sort(pairs[60 - common :])
            assert likeness(one, other) == pytest.approx(common / (120 - common))
            met[share] += bool(set(band_keys(one)) & set(band_keys(other)))
    wanted = {share: 1 - (1 - (share / (2 - share)) ** ROWS) ** BANDS for share in met}
    for share, count in met.items():
        assert count / 200 == pytest.approx(wanted[share], abs=0.12)


def test_every_example_names_two_images_of_different_vehicles() -> None:
    texts = [(f"v{number % 7}", re.sub("sedan", f"sedan{number}", GOOD)) for number in range(30)]
    (finding,) = near(*texts)
    for example in finding.examples:
        one, other = example.split(" = ")
        assert one.partition("/")[0] != other.partition("/")[0]
