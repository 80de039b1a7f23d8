"""Captions from a file and from templates: which image a row means, what is refused, where each text came from."""

import hashlib
import json

import pytest

from pfcvr.errors import NothingKept, SealedError, SourceError, UsageError, WorkspaceError
from pfcvr.pipeline.captioners.template import day_part
from pfcvr.records import Caption
from pfcvr.stage import RunOptions


@pytest.fixture
def four(intake):
    """Four imported pictures; ``000001`` is a stem that two vehicles share."""
    intake.pictures("00001/000001", "00001/000002", "00002/000001", "00002/000004")
    intake.info(
        "00001/000001;23;2018-03-05 08:12:44;Volkswagen Passat;sedan;white",
        "00001/000002;61;2018-03-05 19:40:02;;HGV/large truck;dark gray",
        "00002/000004;;;;;",
    )
    intake.run_import()
    return intake


@pytest.mark.parametrize(
    "name",
    [
        "00002/000004",
        "00002/000004.jpg",
        "images/00002/000004.jpg",
        "000004",
        "000004.jpg",
        "00002_000004",
        "00002_000004.jpg",
        "./images/00002/000004.jpg",
        "images\\00002\\000004.jpg",
        "D:\\copies\\VERI-Wild\\images\\00002\\000004.jpg",
        "/data/veri/pictures/00002/000004.jpg",
    ],
)
def test_a_row_may_name_its_image_by_id_stem_or_path(four, json_lines, name: str) -> None:
    summary = four.import_captions("c.jsonl", json_lines({"file_path": name, "captions": ["A white van."]}))
    assert four.captions() == {"00002/000004": ("A white van.",)}
    assert summary.reasons == {"no_caption": 3}


def test_a_stem_becomes_clear_with_the_vehicle_beside_it(four, json_lines) -> None:
    rows = [{"image_id": "000001", "vehicle_id": v, "captions": [f"Vehicle {v}."]} for v in ("00001", "00002")]
    four.import_captions("c.jsonl", json_lines(*rows))
    assert four.captions() == {"00001/000001": ("Vehicle 00001.",), "00002/000001": ("Vehicle 00002.",)}


def test_several_captions_an_image_and_several_rows_keep_their_order(four, json_lines) -> None:
    rows = json_lines(
        {"image_id": "00001/000001", "captions": ["One.", "Two."], "part_texts": {"roof": "plain roof", "doors": None}},
        {"image_id": "00001/000002", "caption": "Other."},
        {"image_id": "00001/000001", "caption": "Three.", "part_texts": {"roof": "later", "wheels": "steel  wheels"}},
    )
    file = four.write("c.jsonl", rows)
    four.run_caption(captioner="import", captions=file)
    assert four.captions() == {"00001/000001": ("One.", "Two.", "Three."), "00001/000002": ("Other.",)}
    first = next(four.workspace.records("caption", Caption))
    assert first.part_texts == {"roof": "plain roof", "wheels": "steel wheels"}
    assert first.origin.captioner == "import"
    assert first.origin.file == "c.jsonl"
    assert first.origin.file_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_every_bad_caption_is_named_and_the_good_ones_of_its_image_stay(four, json_lines) -> None:
    rows = json_lines(
        {"image_id": "00001/000001", "captions": ["Good.", "", "   ", 7, None, "Also good."]},
        {"image_id": "00001/000002", "captions": []},
        {"image_id": "00002/000001", "captions": {"text": "x"}},
        {"image_id": "00002/000004", "captions": ["\u0000\u0007 "]},
        {"image_id": "00002/000004", "caption": "Fine.", "part_texts": {"hood": "x", "roof": "", "doors": ["d"]}},
        {"image_id": "00002/000004", "caption": "Fine too.", "part_texts": "roof"},
    )
    summary = four.import_captions("captions.jsonl", rows)
    assert four.captions() == {
        "00001/000001": ("Good.", "Also good."),
        "00002/000004": ("Fine.", "Fine too."),
    }
    assert four.rejected("caption") == {
        "captions.jsonl:1": (
            "empty_caption",
            "00001/000001: caption 2 is empty; caption 3 is empty; caption 4 is not text but int; "
            "caption 5 is not text but NoneType",
        ),
        "captions.jsonl:2": ("empty_caption", "00001/000002: the row has no caption"),
        "captions.jsonl:3": ("not_text", "00002/000001: caption 1 is not text but dict"),
        "captions.jsonl:4": ("empty_caption", "00002/000004: caption 1 is empty"),
        "captions.jsonl:5": (
            "unknown_part",
            "00002/000004: 'hood' is none of windows, wheels, doors, mirrors, lights, roof; "
            "the phrase for roof is empty; the phrase for doors is not text but list",
        ),
        "captions.jsonl:6": ("not_text", "00002/000004: part_texts is not an object of part and phrase"),
        "00001/000002": ("no_caption", "captions.jsonl holds no usable caption for this image"),
        "00002/000001": ("no_caption", "captions.jsonl holds no usable caption for this image"),
    }
    assert summary.rows_in == summary.kept + summary.rejected == 4 + 6


def test_rows_for_unknown_ids_are_named_by_line(four, json_lines) -> None:
    rows = json_lines(
        {"image_id": "00009/000099", "caption": "x"},
        {"image_id": "000001", "caption": "which one?"},
        {"image_id": "000004", "vehicle_id": "00001", "caption": "wrong vehicle"},
        {"caption": "no image"},
        {"file_path": "images/00009/000004.jpg", "caption": "another path"},
        {"image_id": "00002/000004", "caption": "Known."},
    )
    four.import_captions("captions.jsonl", rows)
    assert four.captions() == {"00002/000004": ("Known.",)}
    refused = four.rejected("caption")
    assert refused["captions.jsonl:1"] == ("unknown_image", "the workspace has no image '00009/000099'")
    assert refused["captions.jsonl:2"] == (
        "ambiguous_name",
        "several images are called '000001'; name it VEHICLE/IMAGE",
    )
    assert refused["captions.jsonl:3"] == (
        "unknown_image",
        "'000004' is 00002/000004 here, not an image of vehicle '00001'",
    )
    assert refused["captions.jsonl:4"] == ("unknown_image", "the row does not say which image it describes")
    assert refused["captions.jsonl:5"][0] == "unknown_image"


def test_lines_that_are_no_json_cost_only_themselves(four) -> None:
    deep = "[" * 100_000
    content = (
        b'\xef\xbb\xbf{"image_id": "00001/000001", "caption": "First."}\r\n\r\n'
        b'{"image_id": "00001/000002", "caption": \n'
        b'{"image_id": "00001/000002", "caption": "\xff\xfe"}\n'
        b'"just text"\n' + deep.encode() + b"\n"
        b'{"image_id": "00002/000004", "caption": "Last."}'
    )
    four.import_captions("c.jsonl", content)
    assert four.captions() == {"00001/000001": ("First.",), "00002/000004": ("Last.",)}
    reasons = {subject: reason for subject, reason in four.reasons("caption").items() if ":" in subject}
    assert reasons == dict.fromkeys(["c.jsonl:3", "c.jsonl:4", "c.jsonl:5", "c.jsonl:6"], "malformed_line")
    assert "not a line of JSON in UTF-8" in four.rejected("caption")["c.jsonl:3"][1]


def test_control_characters_and_white_space_become_single_spaces(four, json_lines) -> None:
    text = "  A\u0000white\tvan,\r\n\u0085red \ud800 lights\u200b!  "
    four.import_captions("c.jsonl", json_lines({"image_id": "00001/000001", "caption": text}))
    assert four.captions()["00001/000001"] == ("A white van, red lights\u200b!",)


def test_markup_and_other_scripts_stay_as_they_are(four, json_lines) -> None:
    texts = ("<script>alert(1)</script>", "白色轿车 🚗", 'O\'Brien said "hello"')
    four.import_captions("c.jsonl", json_lines({"image_id": "00001/000001", "captions": texts}))
    assert four.captions()["00001/000001"] == texts


def test_csv_captions_with_and_without_header_quotes_and_commas(four) -> None:
    four.import_captions(
        "c.csv",
        "image_id,caption\n"
        '00001/000001,"A sedan, white, with ""chrome"" trim."\n'
        "00001/000002,A truck, dark gray, seen from behind.\n"
        "00002/000004\n",
    )
    assert four.captions() == {
        "00001/000001": ('A sedan, white, with "chrome" trim.',),
        "00001/000002": ("A truck, dark gray, seen from behind.",),
    }
    assert four.rejected("caption")["c.csv:4"] == ("malformed_line", "1 fields instead of 2")


def test_path_and_caption_lines_are_split_at_the_first_comma(four) -> None:
    four.import_captions("pairs.csv", "images/00001/000001.jpg,A sedan, white.\n00002_000004.jpg,A van.\n")
    assert four.captions() == {"00001/000001": ("A sedan, white.",), "00002/000004": ("A van.",)}


def test_a_json_list_names_its_items(four) -> None:
    rows = [{"image_id": "00001/000001", "captions": ["A."]}, 5, {"image_id": "none", "captions": ["B."]}]
    four.import_captions("c.json", json.dumps(rows))
    reasons = {subject: reason for subject, reason in four.reasons("caption").items() if "json" in subject}
    assert reasons == {"c.json:item 2": "malformed_line", "c.json:item 3": "unknown_image"}


def test_captions_for_images_that_were_not_selected_are_set_apart(four, json_lines) -> None:
    four.run_select(list=four.write("wanted.txt", "00001\n"))
    rows = [{"image_id": i, "caption": f"Picture {i}."} for i in ("00001/000001", "00002/000004", "00009/9")]
    summary = four.import_captions("c.jsonl", json_lines(*rows))
    assert four.captions() == {"00001/000001": ("Picture 00001/000001.",)}
    assert summary.reasons == {"no_caption": 1, "not_selected": 1, "unknown_image": 1}
    assert four.rejected("caption")["c.jsonl:2"][1] == "00002/000004 was left out by pfcvr-data select"


def test_a_file_for_many_other_images_does_not_stop_the_run(four, json_lines) -> None:
    rows = [{"image_id": f"77777/{number:06d}", "caption": "Elsewhere."} for number in range(1500)]
    summary = four.import_captions("c.jsonl", json_lines(*rows, {"image_id": "00002/000004", "caption": "Here."}))
    assert (summary.kept, summary.reasons) == (1, {"no_caption": 3, "unknown_image": 1500})


def test_mistakes_are_one_sentence(four, intake, tmp_path, new_intake) -> None:
    with pytest.raises(UsageError, match="captioner 'import' needs the captions file, since .* with --captions FILE"):
        four.run_caption(captioner="import")
    with pytest.raises(UsageError, match="captioner 'template' reads no captions file; .* add --captioner import"):
        four.run_caption(captioner="template", captions=tmp_path / "captions.jsonl")
    with pytest.raises(SourceError, match="no such captions file; expected a JSON list, JSON Lines, CSV or TSV file"):
        four.run_caption(captioner="import", captions=tmp_path / "none.jsonl")
    with pytest.raises(NothingKept, match=r"4 x no_caption"):
        four.import_captions("empty.jsonl", "")
    with pytest.raises(WorkspaceError, match="stage 'import' is missing"):
        new_intake(tmp_path / "fresh").run_caption(captioner="template")


def test_other_captions_for_a_sealed_stage_need_overwrite(four, json_lines) -> None:
    four.import_captions("c.jsonl", json_lines({"image_id": "00001/000001", "caption": "One."}))
    assert four.run_caption(captioner="import", captions=four.root / "c.jsonl").already_done
    other = four.write("c.jsonl", json_lines({"image_id": "00001/000001", "caption": "Two."}))
    with pytest.raises(SealedError, match=r"captions \(.* before, .* now\); rerun with --overwrite"):
        four.run_caption(captioner="import", captions=other)
    four.run_caption(RunOptions(overwrite=True, quiet=True), captioner="import", captions=other)
    assert four.captions() == {"00001/000001": ("Two.",)}


def test_the_template_says_that_its_captions_are_not_to_train_on(four, capsys) -> None:
    four.run_caption(RunOptions(), captioner="template")
    told = "caption: template captions do not tell vehicles apart; they are not to train on\n"
    assert told in capsys.readouterr().err
    four.run_caption(captioner="template")
    assert capsys.readouterr().err == ""


def test_the_template_says_what_is_known_and_nothing_else(four) -> None:
    summary = four.run_caption(captioner="template", seed=3)
    assert (summary.kept, summary.rejected) == (4, 0)
    texts = {image_id: text for image_id, (text,) in four.captions().items()}
    for words in ("white Volkswagen Passat sedan", "camera 23", "in the morning"):
        assert words in texts["00001/000001"]
    for words in ("dark gray large truck", "camera 61", "in the evening"):
        assert words in texts["00001/000002"]
    for image_id in ("00002/000001", "00002/000004"):  # nothing is known of these
        assert texts[image_id] in ("A vehicle.", "This is a vehicle.", "The picture shows a vehicle.")
    assert "camera 23" not in texts["00001/000002"]


def test_templates_vary_between_images_and_repeat_with_the_seed(intake) -> None:
    ids = [f"00001/{number:06d}" for number in range(60)]
    intake.pictures(*ids)
    intake.info(*(f"{image_id};5;2018-03-05 08:12:44;;SUV;white" for image_id in ids))
    intake.run_import()
    again = RunOptions(overwrite=True, quiet=True)

    def texts(seed: int) -> list[str]:
        intake.run_caption(again, captioner="template", seed=seed)
        return [text for (text,) in intake.captions().values()]

    first = texts(1)
    assert len(set(first)) > 3 * 3  # sentence, camera words, and which detail comes first all vary
    assert first == texts(1)
    assert first != texts(2)
    assert all("a white SUV" in text or "A white SUV" in text for text in first)
    origin = next(intake.workspace.records("caption", Caption)).origin
    assert (origin.captioner, origin.prompt, origin.seed) == ("template", "template-1", 2)
    assert origin.prompt_sha256 is not None


@pytest.mark.parametrize(
    ("timestamp", "words"),
    [
        ("2018-03-05 08:12:44", "in the morning"),
        ("2018/3/5 0:05", "at night"),
        ("20180305 12:00", "in the afternoon"),
        ("18:00:00", "in the evening"),
        ("23:59:59", "at night"),
        ("2018-03-05", None),
        ("123456789", None),
        ("25:00:00", None),
        ("", None),
        (None, None),
    ],
)
def test_the_time_of_day_is_read_only_from_a_clock_time(timestamp: str | None, words: str | None) -> None:
    assert day_part(timestamp) == words
