"""Captions files as text Re-ID sets ship them, as a source of images."""

import csv
import io
import json
import tracemalloc

import pytest

from pfcvr.errors import SourceError

CUHK = [
    {"split": "train", "captions": ["a red car", "red"], "file_path": "CUHK01/0363004.png", "id": 1},
    {"split": "Train ", "captions": ["a blue car"], "file_path": "CUHK01/0363008.png", "id": 1},
    {"split": "test", "captions": ["a van"], "file_path": "Market/b 2.jpg", "processed_tokens": [["a"]], "id": "0042"},
]
CAPTIONS = {
    "1/0363004": ("a red car", "red"),
    "1/0363008": ("a blue car",),
    "0042/b 2": ("a van",),
}


@pytest.fixture
def pictures(intake):
    for number, row in enumerate(CUHK):
        intake.picture(f"imgs/{row['file_path']}", color=f"rgb({number}, 0, 0)")
    return intake


def as_csv(*rows: list[object]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


FORMS = {
    "reid_raw.json": lambda rows: json.dumps(rows, indent=1),
    "one_line.json": lambda rows: json.dumps(rows),
    "rows.jsonl": lambda rows: "\n".join(json.dumps(row) for row in rows),
    "lines.json": lambda rows: "\n".join(json.dumps(row) for row in rows),
    "rows.csv": lambda rows: as_csv(
        ["id", "img_path", "split", "captions"],
        *([row["id"], row["file_path"], row["split"], json.dumps(row["captions"])] for row in rows),
    ),
    "rows.tsv": lambda rows: (
        "filename\tid\tsplit\tcaption\r\n"
        + "".join(
            f"{row['file_path']}\t{row['id']}\t{row['split']}\t{text}\r\n" for row in rows for text in row["captions"]
        )
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_images_and_its_captions_can_be_imported(pictures, name: str) -> None:
    file = pictures.write(name, FORMS[name](CUHK))
    summary = pictures.run_import()
    assert (summary.kept, summary.rejected) == (3, 0)
    images = pictures.images()
    assert {image_id: (image.vehicle_id, image.path) for image_id, image in images.items()} == {
        "1/0363004": ("1", "imgs/CUHK01/0363004.png"),
        "1/0363008": ("1", "imgs/CUHK01/0363008.png"),
        "0042/b 2": ("0042", "imgs/Market/b 2.jpg"),
    }
    assert summary.notes["recognised"] == f"reid-json: {name} names images, identities and captions"
    assert summary.notes["splits"] == {"test": 1, "train": 2}
    assert summary.notes["sources"][0]["licence"] is None
    captioned = pictures.run_caption(captioner="import", captions=file)
    assert (captioned.kept, captioned.rejected) == (3, 0)
    assert pictures.captions() == CAPTIONS


def test_the_file_itself_can_be_the_source(pictures) -> None:
    pictures.write("one.json", json.dumps(CUHK[:2]))
    file = pictures.write("two.json", json.dumps(CUHK[2:]))
    with pytest.raises(SourceError, match=r"found 2 such files \(one.json, two.json\); give the file itself"):
        pictures.run_import(format="reid-json")
    assert pictures.run_import(source=file).kept == 1
    assert list(pictures.images()) == ["0042/b 2"]


def test_bad_rows_are_named_and_the_good_ones_arrive(pictures, json_lines) -> None:
    lines = json_lines(
        *CUHK,
        {"file_path": 7, "id": 1, "captions": ["x"]},
        {"file_path": "CUHK01/0363004.png", "captions": ["no identity"]},
        {"file_path": "CUHK01/0363004.png", "id": 2, "captions": ["another identity"]},
        {"file_path": "other/0363004.png", "id": 1, "captions": ["same id"]},
        {"file_path": "absent.jpg", "id": 3, "captions": ["gone"]},
        {"file_path": "../beside/secret.jpg", "id": 4, "captions": ["outside"]},
        {"file_path": "/etc/passwd", "id": 5, "captions": ["outside"]},
        {"file_path": "CUHK01/0363004.png", "id": True, "captions": ["not an id"]},
    )
    pictures.write("rows.jsonl", lines + "[1, 2]\nnot json\n")
    pictures.picture("../beside/secret.jpg")
    summary = pictures.run_import()
    assert summary.kept == 3
    assert pictures.reasons() == {
        "rows.jsonl:4": "malformed_line",
        "rows.jsonl:5": "no_identity",
        "rows.jsonl:6": "conflicting_line",
        "rows.jsonl:7": "duplicate_image_id",
        "3/absent": "missing_file",
        "4/secret": "outside_root",
        "5/passwd": "outside_root",
        "rows.jsonl:11": "no_identity",
        "rows.jsonl:12": "malformed_line",
        "rows.jsonl:13": "malformed_line",
    }
    assert "expected an object with an image and its captions, found list" in pictures.rejected()["rows.jsonl:12"][1]


@pytest.mark.parametrize("place", ["Market", ', {"split": "test"'])
def test_a_json_list_that_is_cut_off_costs_only_what_is_missing(pictures, place: str) -> None:
    whole = json.dumps(CUHK)
    pictures.write("cut.json", whole[: whole.rindex(place)])
    summary = pictures.run_import()
    assert summary.kept == 2
    assert pictures.rejected() == {
        "cut.json:item 3": (
            "malformed_line",
            "the JSON is cut off, malformed or one row of more than 4,194,304 characters here; nothing after this "
            "place can be read",
        )
    }


def test_a_json_list_longer_than_a_block_is_read_to_its_end(intake) -> None:
    intake.picture("a.jpg")
    filler = [{"file_path": "a.jpg", "id": "é", "captions": ["ä" * 997]} for _ in range(3000)]
    rows = [*filler, {"file_path": "b.jpg", "id": 2, "captions": ["x" * 3_000_000]}]
    intake.picture("b.jpg")
    intake.write("long.json", json.dumps(rows, ensure_ascii=False))
    assert intake.run_import().kept == 2
    summary = intake.run_caption(captioner="import", captions=intake.root / "long.json")
    assert (summary.kept, summary.rejected) == (2, 0)
    assert len(intake.captions()["é/a"]) == 3000
    assert len(intake.captions()["2/b"][0]) == 3_000_000


def test_a_gigantic_json_on_one_line_beside_the_images_takes_no_memory_of_its_size(intake) -> None:
    intake.picture("00001/a.jpg")
    shape = '{"id": 1, "image_id": 7, "bbox": [0, 1, 2, 3]}'
    intake.write("parts.coco.json", f'{{"images": [{", ".join([shape] * 400_000)}]}}')
    tracemalloc.start()
    try:
        assert intake.run_import().notes["recognised"].startswith("folder: ")
        assert tracemalloc.get_traced_memory()[1] < 60_000_000
    finally:
        tracemalloc.stop()


def test_a_line_too_long_for_a_row_costs_only_itself(pictures) -> None:
    rows = [*CUHK[:2], {**CUHK[2], "captions": ["a van " * 1_000_000]}, CUHK[2]]
    pictures.write("rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert pictures.run_import().kept == 3
    assert pictures.rejected() == {"rows.jsonl:3": ("malformed_line", "the line is longer than 4,194,304 bytes")}


def test_a_line_too_long_for_a_row_of_a_table_costs_only_itself_and_no_memory_of_its_size(pictures) -> None:
    head, *rows = FORMS["rows.tsv"](CUHK).splitlines(keepends=True)
    pictures.write("rows.tsv", "".join([head, *rows[:2], "a\t" * 3_000_000 + "\r\n", *rows[2:], "short\r\n"]))
    tracemalloc.start()
    try:
        assert pictures.run_import().kept == 3
        assert tracemalloc.get_traced_memory()[1] < 60_000_000
    finally:
        tracemalloc.stop()
    assert pictures.rejected() == {
        "rows.tsv:4": ("malformed_line", "not a row of fields: the line is longer than 4,194,304 characters"),
        "rows.tsv:7": ("malformed_line", "1 fields instead of 4"),
    }


def test_an_item_too_long_for_a_row_ends_its_list_with_a_reason(pictures) -> None:
    rows = [*CUHK[:2], {**CUHK[2], "captions": ["a van " * 1_000_000]}]
    pictures.write("rows.json", json.dumps(rows))
    assert pictures.run_import().kept == 2
    reason, detail = pictures.rejected()["rows.json:item 3"]
    assert reason == "malformed_line"
    assert "one row of more than 4,194,304 characters here; nothing after this place can be read" in detail


def test_a_folder_without_a_captions_file_says_what_was_expected(intake) -> None:
    intake.write("other.json", '{"a": 1}')
    with pytest.raises(
        SourceError, match=r"with file_path \(img_path, filename\), id and captions .*found no such file"
    ):
        intake.run_import(format="reid-json")


def test_veri_wild_lists_win_over_a_captions_file_beside_them(intake, json_lines) -> None:
    intake.pictures("00001/000001")
    intake.info("00001/000001;1;t;;sedan;white")
    intake.write("captions.jsonl", json_lines({"file_path": "images/00001/000001.jpg", "id": 1, "captions": ["x"]}))
    assert intake.run_import().notes["recognised"].startswith("veri-wild: ")


def test_a_second_file_of_an_image_id_is_refused_even_if_its_path_reads_like_that_id(intake, json_lines) -> None:
    for path in ("x/y.png", "x/other.png"):
        intake.picture(path)
    (intake.root / "x/other.png").rename(intake.root / "x/y")
    intake.write("rows.jsonl", json_lines(*({"file_path": p, "id": "x", "caption": "car"} for p in ("x/y.png", "x/y"))))
    assert intake.run_import().kept == 1
    assert list(intake.images()) == ["x/y"]
    assert intake.rejected() == {"rows.jsonl:2": ("duplicate_image_id", "x/y: x/y is already taken by x/y.png")}


def test_an_identity_with_a_slash_is_refused_since_image_ids_are_divided_there(pictures, json_lines) -> None:
    name = "CUHK01/0363004.png"
    good = {"file_path": "CUHK03/1_045_1_01.png", "id": 1, "caption": "car"}
    pictures.picture(good["file_path"])
    pictures.write("rows.jsonl", json_lines(good, {"file_path": name, "id": "a/b", "caption": "car"}))
    assert pictures.run_import().kept == 1
    detail = f"{name} has no id that is text without '/' or a whole number"
    assert pictures.rejected() == {"rows.jsonl:2": ("no_identity", detail)}


def test_half_a_character_in_a_row_does_not_stop_the_others(intake, json_lines) -> None:
    intake.picture("a.png")
    intake.picture("b.png")
    row = {"file_path": "a.png", "id": 1, "caption": "car", "color": "red \ud800", "type": "\ud800"}
    intake.write("rows.jsonl", json_lines(row, {"file_path": "b.png", "id": "\ud800", "caption": "car"}))
    assert intake.run_import().kept == 1
    (image,) = intake.images().values()
    assert (image.color, image.type) == ("red", None)
    assert intake.reasons() == {"rows.jsonl:2": "no_identity"}


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.csv"])
def test_bytes_that_are_no_utf_8_cost_only_their_row(intake, name: str) -> None:
    intake.picture("a.png")
    intake.picture("b.png", color="red")
    good, bad = (
        b'{"file_path": "%s.png", "id": 1, "caption": "%s"}' % pair for pair in ((b"a", b"car"), (b"b", b"\xe9"))
    )
    forms = {
        "rows.json": b"[" + good + b"," + bad + b"]",
        "rows.jsonl": good + b"\n" + bad + b"\n",
        "rows.csv": b"file_path,id,caption\na.png,1,car\nb.png,1,\xe9\n",
    }
    intake.write(name, forms[name])
    summary = intake.run_import()
    assert (summary.kept, summary.reasons) == (1, {"malformed_line": 1})
