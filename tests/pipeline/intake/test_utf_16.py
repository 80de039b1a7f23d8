"""Text as Windows tools save it, in UTF-16, is told as such wherever people hand a file over."""

import json
import re

import pytest

from pfcvr.config import MergeConfig, PartsConfig
from pfcvr.errors import SourceError
from pfcvr.pipeline import merge, parts
from pfcvr.stage import RunOptions

ROW = {"file_path": "one/a.jpg", "id": 1, "captions": ["a white van"]}
LISTS = {
    "captions.json": json.dumps([ROW]),
    "captions.jsonl": json.dumps(ROW),
    "captions.csv": "file_path,id,caption\none/a.jpg,1,a white van\n",
}
SENTENCE = "is text in UTF-16; save it as UTF-8, then run the same command again"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", LISTS)
def test_a_captions_file_that_should_name_the_images_is_told_to_be_in_utf_16(intake, name: str, encoding: str) -> None:
    intake.picture("imgs/one/a.jpg")
    file = intake.write(name, f"\ufeff{LISTS[name]}".encode(encoding))
    for source in (intake.root, file):
        with pytest.raises(SourceError, match=re.escape(f"{name} is text in UTF-16, and it may be what names the")):
            intake.run_import(source=source)
        with pytest.raises(SourceError, match=re.escape(f"{name}: {SENTENCE}")):
            intake.run_import(source=source, format="reid-json")


def test_a_list_of_a_known_data_set_is_told_to_be_in_utf_16(intake) -> None:
    intake.pictures("00001/000001")
    info = intake.info()
    info.write_bytes("00001/000001;1;2018-03-12;make;SUV;white\n".encode("utf-16"))
    with pytest.raises(SourceError, match=f"vehicle_info.txt: {SENTENCE}"):
        intake.run_import()


def test_a_file_in_utf_16_beside_a_known_data_set_does_no_harm(intake) -> None:
    intake.pictures("00001/000001")
    intake.info("00001/000001;1;2018-03-12 08:00:00;make;SUV;white")
    intake.write("notes.csv", "file_path,id,caption\n".encode("utf-16"))
    assert intake.run_import().kept == 1


def test_captions_lists_parts_and_edits_in_utf_16_are_told_so(intake) -> None:
    intake.pictures("00001/000001")
    intake.info("00001/000001;1;2018-03-12 08:00:00;make;SUV;white")
    intake.run_import()
    wide = intake.write("wide.json", json.dumps([{"image_id": "00001/000001", "captions": ["a"]}]).encode("utf-16"))
    listed = intake.write("wide.txt", "00001/000001\n".encode("utf-16"))
    workspace, quiet = intake.workspace, RunOptions(quiet=True)
    for use in (
        lambda: intake.run_caption(captioner="import", captions=wide),
        lambda: intake.run_select(list=listed),
        lambda: parts.run(workspace, PartsConfig(annotations=wide), quiet),
        lambda: merge.run(workspace, MergeConfig(file=wide), quiet),
    ):
        with pytest.raises(SourceError, match=f"wide.(json|txt): {SENTENCE}"):
            use()
