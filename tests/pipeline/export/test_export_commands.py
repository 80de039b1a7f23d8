"""The commands export and rebuild, as a user types them."""

import json
from pathlib import Path

import pytest

from pfcvr.cli import run
from pfcvr.cli_data import app


def data(*arguments: str | Path) -> int:
    return run(app, "pfcvr-data", [str(argument) for argument in arguments])


def test_annotations_go_out_and_are_joined_with_the_images_again(whole, tmp_path, capsys) -> None:
    root, out = whole.workspace.root, tmp_path / "annotations"
    assert data("export", "-w", root, out, "--format", "annotations", "--json") == 0
    assert json.loads(capsys.readouterr().out)["kept"] == 14
    arguments = ["rebuild", out, "--images", whole.source, "--out", tmp_path / "data"]
    assert data(*arguments) == 0
    assert "rebuild: 14 of 14 images in" in capsys.readouterr().out
    assert data(*arguments, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["already_done"], result["statuses"]["ok"]) == (True, 14)
    assert Path(result["report"]).is_file()


def test_official_export_says_what_it_left_out(whole, tmp_path, capsys) -> None:
    assert data("export", "-w", whole.workspace.root, tmp_path / "out", "--format", "official", "--copies") == 0
    line = capsys.readouterr().out
    assert "of 14 images in" in line
    left_out = (tmp_path / "out" / "left_out.jsonl").read_text().count("\n")
    assert (f"{left_out} left out (no_parts: {left_out})" in line) == bool(left_out)
    assert list((tmp_path / "out" / "Darkimage").iterdir())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--format", "tiff"], "'format': input should be 'hf', 'annotations', 'official', 'coco' or 'webdataset'"),
        (["--copies"], "'copies': this is for format 'official' alone; leave it out"),
        (["--format", "coco", "--images", "move"], "'images': input should be 'copy', 'link' or 'reference'"),
    ],
)
def test_wrong_options_are_one_sentence(whole, tmp_path, capsys, arguments, sentence) -> None:
    assert data("export", "-w", whole.workspace.root, tmp_path / "out", *arguments) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_rebuilding_from_something_else_is_one_sentence(whole, tmp_path, capsys) -> None:
    assert data("rebuild", whole.source, "--images", whole.source, "--out", tmp_path / "out") == 1
    assert "not annotations to rebuild from; expected a folder written by" in capsys.readouterr().err
