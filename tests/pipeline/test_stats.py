"""The paper's tables for a workspace, counted by hand in the fixtures."""

import json
import math
import random
from collections import Counter
from html.parser import HTMLParser

import pytest

from pfcvr.cli import data_app, run
from pfcvr.config import MergeConfig
from pfcvr.errors import WorkspaceError
from pfcvr.pipeline import caption_twins, merge, stats
from pfcvr.pipeline.stats_page import statistics_page, write_page
from pfcvr.records import Caption
from pfcvr.stage import RunOptions


@pytest.fixture
def counted(small):
    """Three vehicles with 1, 2 and 2 images; six captions of 12, 12, 12, 2, 31 and 3 words."""
    small.add_images({"a": 1, "b": 2, "c": 2})
    ids = [image.image_id for image in small.images]
    texts = {ids[0]: ["w " * 12] * 3, ids[1]: ["one two"], ids[3]: ["w " * 31, "a b c"]}
    small.add_captions({image_id: [text.strip() for text in own] for image_id, own in texts.items()})
    small.add_parts()
    small.add_split(ratio=0.5, val=0)
    return small


def test_table_ii_counts_images_identities_parts_and_words(counted) -> None:
    table = stats.run(counted.workspace).as_dict()["table_ii"]
    split_images, split_ids = table["Training Images"], table["Training IDs"]
    assert table == {
        "Total Images": 5,
        "Total IDs": 3,
        "Training Images": split_images,
        "Training IDs": split_ids,
        "Test Images": 5 - split_images,
        "Test IDs": 3 - split_ids,
        "Part Categories": 2,
        "Avg. Words per Caption": 12.0,
    }
    assert split_images == counted.workspace.sealed("split").notes["images"]["train"]


def test_table_i_counts_identities_by_number_of_pairs(counted) -> None:
    # a: one image with three captions; b: one caption on two images; c: two captions on two images.
    assert stats.run(counted.workspace).as_dict()["table_i"] == {"1": 1, "2": 1, "3": 1}


def test_histogram_has_every_bin_between_the_shortest_and_the_longest_caption(counted) -> None:
    histogram = stats.run(counted.workspace).as_dict()["words_histogram"]
    assert histogram == {"0-9": 2, "10-19": 3, "20-29": 0, "30-39": 1}


def test_coverage_is_the_share_of_images_with_the_part(counted) -> None:
    coverage = stats.run(counted.workspace).as_dict()["coverage"]
    assert coverage == {"windows": 0.8, "wheels": 0.8, "doors": 0, "mirrors": 0, "lights": 0, "roof": 0}


def test_text_shows_both_tables_and_json_survives_a_round_trip(counted) -> None:
    statistics = stats.run(counted.workspace)
    text = statistics.text()
    assert "Total Images" in text
    assert "Table I: identities by number of image-caption pairs" in text
    assert json.loads(json.dumps(statistics.as_dict())) == statistics.as_dict()


def test_import_alone_is_enough_and_what_is_unknown_is_none(small) -> None:
    small.add_images({"a": 2})
    statistics = stats.run(small.workspace).as_dict()
    assert (statistics["captions"], statistics["words_per_caption"], statistics["coverage"]) == (None, None, None)
    assert statistics["images"] == {"all": 2}


def test_workspace_without_images_names_the_command_to_run(small) -> None:
    with pytest.raises(WorkspaceError, match="stage 'import' is missing; run: pfcvr-data import"):
        stats.run(small.workspace)


def test_published_rows_stand_beside_ours_and_what_was_not_run_says_so(small) -> None:
    small.add_images({"a": 2})
    text = stats.run(small.workspace).text()
    (images,) = [line for line in text.splitlines() if line.startswith("Total Images")]
    (training,) = [line for line in text.splitlines() if line.startswith("Training IDs")]
    assert images.split() == ["Total", "Images", "2", "2,463", "14,668"]
    assert training.split("  ")[-1].strip() == "1,251"
    assert "not run" in training
    assert "Captions\nnot run" in text
    assert "Parts\nnot run" in text
    assert "no edit by people was merged" in text


def test_published_tables_add_up() -> None:
    published = stats.published_sets()
    for rows in published["table_ii"].values():
        assert rows["Training Images"] + rows["Test Images"] == rows["Total Images"]
        assert rows["Training IDs"] + rows["Test IDs"] == rows["Total IDs"]
    partitions = published["table_i"]["T2I-VeRI"]
    sizes = {title: sum(counts.values()) for title, counts in partitions.items()}
    assert sizes == {"All": 776, "Training": 546, "Test": 230}
    pairs = {title: sum(int(n) * count for n, count in counts.items()) for title, counts in partitions.items()}
    assert pairs["All"] == pairs["Training"] + pairs["Test"]


def test_table_i_is_told_for_each_split(counted) -> None:
    by_split = stats.run(counted.workspace).as_dict()["table_i_by_split"]
    assert by_split["all"] == {"1": 1, "2": 1, "3": 1}
    added = Counter(by_split["train"]) + Counter(by_split["test"])
    assert added == Counter(by_split["all"])


def test_images_are_counted_by_identity_camera_color_and_type(small) -> None:
    small.add_images({"a": 1, "b": 2, "c": 2})
    images = [image.model_copy(update={"color": "red", "type": "van"}) for image in small.images[:2]] + small.images[2:]
    other = small.workspace.folder("import")
    lines = "".join(image.model_dump_json() + "\n" for image in images)
    (other / "part-00000.jsonl").write_text(lines)
    origin = {"captioner": "import"}
    captions = [
        Caption.model_validate(
            {"image_id": image.image_id, "texts": ["a van"], "attributes": {"color": "white"}, "origin": origin}
        )
        for image in images
    ]
    small.seal("caption", Caption, captions)
    counted = stats.run(small.workspace).as_dict()
    assert counted["images_per_vehicle"] == {"1": 1, "2": 2}
    assert counted["images_per_camera"] == {"1": 2, "2": 2, "0": 1}
    assert counted["attributes"]["source"] == {"color": {"red": 2}, "type": {"van": 2}}
    assert counted["attributes"]["captions"]["color"] == {"white": 5}


def test_cameras_stand_in_the_order_of_their_numbers(small) -> None:
    small.add_images({"a": 7})
    names = ["10", "2", "2", "c10", "c9", "1", "c9"]
    lines = (image.model_copy(update={"camera_id": name}) for image, name in zip(small.images, names, strict=True))
    text = "".join(image.model_dump_json() + "\n" for image in lines)
    (small.workspace.folder("import") / "part-00000.jsonl").write_text(text)
    counted = stats.run(small.workspace).as_dict()["images_per_camera"]
    assert list(counted.items()) == [("1", 1), ("2", 2), ("10", 1), ("c9", 2), ("c10", 1)]


def test_truncation_and_vocabulary_are_those_of_the_captions(small) -> None:
    small.add_images({"a": 1, "b": 1})
    long = " ".join(["car"] * 76)
    small.add_captions({small.images[0].image_id: [long], small.images[1].image_id: ["A car, a VAN"]})
    counted = stats.run(small.workspace).as_dict()
    # One token for each of 76 words, with start and end; five for "A car, a VAN", with the comma.
    assert (counted["tokens"]["truncated"], counted["tokens"]["most"], counted["tokens"]["mean"]) == (1, 78, 42.5)
    assert counted["vocabulary"] == {"words": 3, "used_once": 1, "commonest": {"car": 77, "a": 2, "van": 1}}


def test_share_edited_by_people_is_told(counted) -> None:
    path = counted.source / "fixed.jsonl"
    path.write_text(json.dumps({"image_id": counted.images[0].image_id, "caption": "New words."}) + "\n")
    merge.run(counted.workspace, MergeConfig(file=path), RunOptions(quiet=True))
    statistics = stats.run(counted.workspace)
    assert statistics.people == {"images": 1, "captions": 1, "parts": 0}
    assert "1 of 5 images (20.0%): captions of 1, parts of 0" in statistics.text()


def plain_tf_idf_cosines(texts: list[list[str]]) -> list[list[float]]:
    """Cosines of all pairs by the textbook."""
    uses = Counter(word for text in texts for word in set(text))
    rows = []
    for text in texts:
        row = {
            w: (1 + math.log(n)) * (1 + math.log((1 + len(texts)) / (1 + uses[w]))) for w, n in Counter(text).items()
        }
        rows.append((row, math.sqrt(sum(value**2 for value in row.values()))))
    return [[sum(v * b.get(w, 0) for w, v in a.items()) / (na * nb) for b, nb in rows] for a, na in rows]


@pytest.mark.parametrize("dimensions", [1024, 64])
def test_nearest_caption_of_another_vehicle_is_that_of_a_comparison_of_all_pairs(dimensions, monkeypatch) -> None:
    monkeypatch.setattr(caption_twins, "DIMENSIONS", dimensions)
    monkeypatch.setattr(caption_twins, "ROWS_AT_ONCE", 7)
    rng = random.Random(4)
    words = [f"word{number}" for number in range(90)]
    bases = [rng.sample(words, 12) for _ in range(12)]
    texts = [[rng.choice(words) if rng.random() < 0.15 else word for word in base] for base in bases for _ in range(3)]
    vehicles = [str(number % 5) for number in range(len(texts))]
    cosines = plain_tf_idf_cosines(texts)
    found = caption_twins.nearest_others(texts, vehicles)
    for row, (place, similarity) in enumerate(found):
        others = [cosines[row][other] for other in range(len(texts)) if vehicles[other] != vehicles[row]]
        assert vehicles[place] != vehicles[row]
        assert similarity == pytest.approx(max(others))
        assert similarity == pytest.approx(cosines[row][place])


def test_identical_and_very_close_captions_of_other_vehicles_are_counted(small) -> None:
    small.add_images({"a": 2, "b": 1, "c": 1})
    ids = [image.image_id for image in small.images]
    texts = [
        "A red van with two roof rails and dark windows.",
        "A red van with two roof rails and dark windows.",
        "a RED van with two roof rails, and dark windows",
        "Blue bus seen from behind on some bridge.",
    ]
    small.add_captions({image_id: [text] for image_id, text in zip(ids, texts, strict=True)})
    twins = stats.run(small.workspace).as_dict()["distinctiveness"]
    assert (twins["captions"], twins["identical"], twins["very_close"], twins["compared"]) == (4, 3, 3, 4)
    assert twins["closest"][0] == {"image_id": ids[0], "other_image_id": ids[2], "similarity": 1.0}
    assert sum(twins["histogram"]) == 4


def test_only_a_drawn_part_of_many_captions_is_compared(small, monkeypatch) -> None:
    monkeypatch.setattr(caption_twins, "MOST_COMPARED", 6)
    small.add_images({str(number): 1 for number in range(15)})
    small.add_captions()
    twins = stats.run(small.workspace).as_dict()["distinctiveness"]
    assert (twins["captions"], twins["compared"]) == (15, 6)


class Page(HTMLParser):
    """Elements and attributes of a page, and its visible text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: Counter[str] = Counter()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


HOSTILE = '<script>alert(1)</script> "onload=x <img src=http://x.example/a> </svg> &lt;b&gt;'


def test_page_is_inert_whatever_names_and_captions_hold(small) -> None:
    small.add_images({"<b>1": 1, "<b>2": 1})
    images = [image.model_copy(update={"camera_id": HOSTILE, "color": HOSTILE}) for image in small.images]
    (small.workspace.folder("import") / "part-00000.jsonl").write_text(
        "".join(image.model_dump_json() + "\n" for image in images)
    )
    small.add_captions({image.image_id: [HOSTILE] for image in images})
    text = statistics_page(stats.run(small.workspace))
    page = Page(text)
    assert not page.elements.keys() & {"script", "img", "link", "iframe", "b", "a", "object"}
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "href")]
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes
    assert "<script>alert(1)</scr" in page.text
    assert "<b>1/000001" in page.text
    assert text.count("<svg") == text.count("</svg>") == page.elements["svg"]


def test_page_shows_tables_and_plots_whose_longest_bar_is_full(counted) -> None:
    page = Page(statistics_page(stats.run(counted.workspace)))
    for expected in ("14,668", "T2I-VeRI: Training", "Words per caption", "Commonest words", "Part instances"):
        assert expected in page.text
    assert page.elements["svg"] >= 7
    bars = [value for name, value in page.attributes if name == "width" and value == "430.0"]
    assert len(bars) >= page.elements["svg"]


def test_page_is_written_by_the_command_and_a_bad_place_is_named(counted, tmp_path, capsys) -> None:
    page = tmp_path / "out" / "page.html"
    assert run(data_app, "pfcvr-data", ["stats", "-w", str(counted.workspace.root), "--html", str(page)]) == 0
    assert page.read_text().startswith("<!doctype html>")
    assert "Table II" in capsys.readouterr().out
    with pytest.raises(WorkspaceError, match="cannot be written .*; give another --html FILE"):
        write_page(stats.run(counted.workspace), tmp_path)
