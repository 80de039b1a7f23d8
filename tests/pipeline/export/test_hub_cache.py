"""Data sets of one folder name, read one after the other through one cache of the Hugging Face libraries."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from rebuilding import join

from pfcvr.config import ExportConfig
from pfcvr.pipeline import export
from pfcvr.stage import RunOptions


def captions_of(loaded: Any, column: str = "captions") -> set[str]:
    return {text for rows in loaded.values() for texts in rows[column] for text in texts}


def say(whole, sentence: str) -> set[str]:
    """Caption every image anew; the captions."""
    texts = {image.image_id: [f"{sentence} {image.image_id}."] for image in whole.images}
    shutil.rmtree(whole.workspace.folder("caption"))
    whole.add_captions(texts)
    return {text for own in texts.values() for text in own}


def write(whole, out: Path, form: str, overwrite: bool = False) -> None:
    export.run(whole.workspace, ExportConfig(out=out, format=form), RunOptions(overwrite=overwrite, quiet=True))


@pytest.mark.parametrize("form", ["hf", "annotations"])
def test_two_exports_of_one_folder_name_do_not_share_what_is_cached(whole, tmp_path, load, form) -> None:
    first = say(whole, "A white van of")
    write(whole, tmp_path / "one" / "dataset", form)
    second = say(whole, "A black bus of")
    write(whole, tmp_path / "two" / "dataset", form)
    assert captions_of(load(tmp_path / "one" / "dataset")) == first
    assert captions_of(load(tmp_path / "two" / "dataset")) == second
    assert captions_of(load(tmp_path / "one" / "dataset")) == first


@pytest.mark.parametrize("form", ["hf", "annotations"])
def test_export_that_was_replaced_in_its_place_is_read_anew(whole, tmp_path, load, form) -> None:
    first = say(whole, "A white van of")
    write(whole, tmp_path / "dataset", form)
    assert captions_of(load(tmp_path / "dataset")) == first
    second = say(whole, "A black bus of")
    write(whole, tmp_path / "dataset", form, overwrite=True)
    assert captions_of(load(tmp_path / "dataset")) == second


def test_webdataset_that_was_replaced_in_its_place_is_read_anew(whole, tmp_path, load) -> None:
    for sentence in ("A white van of", "A black bus of"):
        expected = say(whole, sentence)
        write(whole, tmp_path / "dataset", "webdataset", overwrite=True)
        rows = [row["json"] for split in load(tmp_path / "dataset").values() for row in split]
        assert {text for row in rows for text in row["captions"]} == expected


def test_rebuilt_data_set_is_not_taken_for_the_export_of_the_same_folder_name(whole, tmp_path, load) -> None:
    first = say(whole, "A white van of")
    write(whole, tmp_path / "one" / "dataset", "hf")
    second = say(whole, "A black bus of")
    write(whole, tmp_path / "published", "annotations")
    join(tmp_path / "published", whole.source, tmp_path / "two" / "dataset")
    assert captions_of(load(tmp_path / "one" / "dataset")) == first
    assert captions_of(load(tmp_path / "two" / "dataset")) == second


def test_card_names_the_same_content_for_the_same_rows(whole, tmp_path) -> None:
    write(whole, tmp_path / "one", "hf")
    write(whole, tmp_path / "two", "hf")
    assert (tmp_path / "one" / "README.md").read_bytes() == (tmp_path / "two" / "README.md").read_bytes()
