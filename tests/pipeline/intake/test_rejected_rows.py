"""What an import rejected comes back in no later stage."""

import json

from pfcvr.stage import RunOptions

RED = {"file_path": "imgs/a.png", "id": 1, "captions": ["a red car"]}
BLUE = {"file_path": "imgs/b.png", "id": 2, "captions": ["a blue car"]}
OTHER = RED | {"captions": ["other words"]}


def test_rows_that_the_import_rejected_give_no_captions(intake, json_lines) -> None:
    intake.picture("imgs/a.png", color="red")
    intake.picture("imgs/b.png", color="blue")
    file = intake.write("rows.jsonl", json_lines(RED, BLUE, OTHER | {"id": 6}, OTHER | {"id": True}, OTHER))
    intake.run_import()
    for captions in (None, file):
        intake.run_caption(RunOptions(overwrite=True, quiet=True), captioner="import", captions=captions)
        assert intake.captions() == {"1/a": ("a red car", "other words"), "2/b": ("a blue car",)}
        assert intake.rejected("caption") == {
            "rows.jsonl:3": ("rejected_by_import", "import took no image from this row (conflicting_line)"),
            "rows.jsonl:4": ("rejected_by_import", "import took no image from this row (no_identity)"),
        }


def test_a_captions_file_that_was_changed_since_the_import_is_read_as_it_is(intake, json_lines) -> None:
    intake.picture("imgs/a.png", color="red")
    intake.write("rows.jsonl", json_lines(RED, OTHER | {"id": 6}))
    intake.run_import()
    intake.write("rows.jsonl", json.dumps({"image_id": "1/a", "captions": ["refined"]}) + "\n" + json.dumps(OTHER))
    intake.run_caption(captioner="import")
    assert intake.captions() == {"1/a": ("refined", "other words")}
