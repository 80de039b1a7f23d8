"""The paper's tables for a workspace, counted by hand in the fixtures."""

import json

import pytest

from pfcvr.errors import WorkspaceError
from pfcvr.pipeline import stats


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
