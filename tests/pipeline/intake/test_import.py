"""VERI-Wild in every form people hold it: trees, both generations of lists, and text files with all their faults."""

import hashlib
import io
import json
import os
from pathlib import Path

import pytest

from pfcvr.config import ImportConfig
from pfcvr.errors import NothingKept, SealedError, SourceError
from pfcvr.pipeline import file_facts, import_
from pfcvr.stage import RunOptions
from pfcvr.store import Workspace

HEADER = "id/image;Camera ID;Time;Model;Type;Color"
FIRST = "00001/000001;23;2018-03-05 08:12:44;Volkswagen Passat;sedan;white"
SECOND = "00001/000002;061;2018-03-05 19:40:02;Volkswagen Passat;sedan;white"
THIRD = "00012/000011;7;2018-03-06 10:00:00;;SUV;dark gray"


@pytest.fixture
def three(intake):
    """Three pictures of two vehicles."""
    intake.pictures("00001/000001", "00001/000002", "00012/000011")
    return intake


def test_the_first_generation_arrives_with_all_that_is_known(three) -> None:
    three.info(HEADER, FIRST, SECOND, THIRD)
    three.write("train_test_split/train_list.txt", "00001/000001\n00001/000002\n")
    three.write("train_test_split/test_3000.txt", "00012/000011\n")
    three.write("train_test_split/test_3000_query.txt", "00012/000011\n")
    summary = three.run_import()
    assert (summary.rows_in, summary.kept, summary.rejected) == (3, 3, 0)
    image = three.images()["00001/000002"]
    assert (image.vehicle_id, image.camera_id, image.timestamp) == ("00001", "061", "2018-03-05 19:40:02")
    assert (image.model, image.type, image.color) == ("Volkswagen Passat", "sedan", "white")
    assert image.path == "images/00001/000002.jpg"
    assert (image.width, image.height) == (32, 24)
    assert three.images()["00012/000011"].model is None
    notes = summary.notes
    assert notes["recognised"] == "veri-wild: found train_test_split/vehicle_info.txt"
    assert notes["texts"]["vehicle_info.txt"]["header"] is True
    assert notes["texts"]["train_list.txt"]["columns"] == 1
    assert notes["lists"]["train_test_split/train_list.txt"] == {"images": 2, "vehicles": 1}
    assert notes["list_overlaps"]["test_3000.txt and test_3000_query.txt"] == 1
    assert notes["list_overlaps"]["train_list.txt and test_3000.txt"] == 0
    assert "split of this data set is drawn by pfcvr-data split" in notes["list_membership"]
    assert notes["cameras"] == {"distinct": 3, "examples": ["061", "23", "7"]}
    assert notes["time_patterns"] == {"9999-99-99 99:99:99": 3}


def test_the_medium_gallery_stands_beside_its_published_counts(three) -> None:
    three.write("train_test_split/test_5000.txt", "00001/000001\n00001/000002\n00012/000011\n")
    words = [line.split() for line in import_.report(three.run_import()).splitlines()]
    assert ["test_5000", "3", "64,389", "2", "5,000"] in words


def test_the_second_generation_takes_the_identity_from_the_path_and_the_camera_from_column_3(three) -> None:
    three.info(FIRST, THIRD)  # no header, and nothing about 00001/000002
    three.write("train_test_split/train_list_start0.txt", "00001/000001.jpg 0 23\n00001/000002.jpg 0 61\n")
    three.write("train_test_split/test_3000_id.txt", "00012/000011.jpg 12 7\n")
    three.write("train_test_split/test_3000_id_query.txt", "")
    summary = three.run_import()
    images = three.images()
    assert [image.vehicle_id for image in images.values()] == ["00001", "00001", "00012"]
    assert [image.camera_id for image in images.values()] == ["23", "61", "7"]
    assert images["00001/000002"].color is None
    assert summary.notes["texts"]["vehicle_info.txt"]["header"] is False
    assert summary.notes["texts"]["train_list_start0.txt"]["columns"] == 3
    assert summary.notes["camera_conflicts"] == 0


def test_lists_with_prefix_byte_order_mark_crlf_and_other_separators_are_read(three) -> None:
    three.write(
        "train_test_split/train_list.txt",
        b"\xef\xbb\xbfimages/00001/000001.jpg;0;23\r\n\r\n  00001/000002,0,61  \r\n",
    )
    three.write("train_test_split/test_3000.txt", "00012/000011\t12\t7")
    assert three.run_import().rejected == 0
    assert [image.camera_id for image in three.images().values()] == ["23", "61", "7"]


def test_images_are_found_in_unpacked_parts_and_flat_folders(intake) -> None:
    intake.picture("images_part01/00001/000001.jpg")
    intake.picture("images.part02/00001/000002.JPG")
    intake.picture("images/000011.jpg")
    intake.picture("images/000012.png")
    intake.info(FIRST, SECOND, THIRD)
    intake.write("train_test_split/test_3000.txt", "00012/000012\n")
    intake.run_import()
    assert {image_id: image.path for image_id, image in intake.images().items()} == {
        "00001/000001": "images_part01/00001/000001.jpg",
        "00001/000002": "images.part02/00001/000002.JPG",
        "00012/000011": "images/000011.jpg",
        "00012/000012": "images/000012.png",
    }
    assert intake.images()["00012/000011"].color == "dark gray"


def test_a_flat_file_without_one_clear_vehicle_is_refused(three) -> None:
    three.picture("images/000077.jpg")
    three.picture("images/000088.jpg")
    three.picture("overview.jpg")
    three.write("train_test_split/train_list.txt", "00001/000001\n00003/000088\n00004/000088\n")
    summary = three.run_import()
    assert summary.kept == 3
    assert three.rejected()["images/000077.jpg"] == (
        "unknown_vehicle",
        "neither the folder nor a list says which vehicle this is",
    )
    assert three.reasons()["images/000088.jpg"] == "ambiguous_vehicle"
    assert summary.notes["pictures_outside_image_folders"] == {"count": 1, "examples": ["overview.jpg"]}


def test_a_second_file_of_the_same_image_id_is_refused_by_its_path(three) -> None:
    three.picture("images_part01/00001/000001.jpg", color="red")
    three.picture("images/00001/000002.png")
    summary = three.run_import()
    assert summary.reasons == {"duplicate_image_id": 2}
    assert three.rejected()["images_part01/00001/000001.jpg"] == (
        "duplicate_image_id",
        "00001/000001 is already taken by images/00001/000001.jpg",
    )
    assert three.images()["00001/000002"].path == "images/00001/000002.jpg"


def test_listed_images_that_are_absent_are_named_once_with_every_list_that_wants_them(three) -> None:
    three.info(FIRST, "00001/000099;23;2018-03-05 08:12:44;;sedan;white")
    three.write("train_test_split/train_list.txt", "00001/000001\n00001/000099\n00005/000055\n")
    summary = three.run_import()
    assert (summary.kept, summary.reasons) == (3, {"missing_file": 2})
    assert three.rejected()["00001/000099"] == (
        "missing_file",
        "named in train_test_split/train_list.txt, train_test_split/vehicle_info.txt; "
        "there is no such file below the source",
    )
    assert three.reasons()["00005/000055"] == "missing_file"
    assert summary.notes["images_in_no_list"] == 2


def test_a_thousand_absent_images_do_not_stop_the_import(three) -> None:
    lines = [f"00700/{number:06d}" for number in range(1000)]
    three.write("train_test_split/train_list.txt", "\n".join(lines))
    summary = three.run_import()
    assert (summary.kept, summary.rejected) == (3, 1000)


def test_vehicle_info_with_byte_order_mark_crlf_blank_and_malformed_lines(three) -> None:
    lines = [HEADER, "", FIRST, "   ", "00001/000002;61;too few", "no slash;1;2;3;4;5", f" {THIRD} ", "a;b;c;d;e;f;g"]
    three.write("train_test_split/vehicle_info.txt", b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    summary = three.run_import()
    assert (summary.kept, summary.reasons) == (3, {"malformed_line": 3})
    assert three.rejected() == {
        "train_test_split/vehicle_info.txt:5": ("malformed_line", "3 fields instead of 6 separated by ';'"),
        "train_test_split/vehicle_info.txt:6": ("malformed_line", "the first field is not VEHICLE/IMAGE"),
        "train_test_split/vehicle_info.txt:8": ("malformed_line", "7 fields instead of 6 separated by ';'"),
    }
    assert three.images()["00001/000001"].camera_id == "23"
    assert three.images()["00001/000002"].camera_id is None
    assert three.images()["00012/000011"].type == "SUV"
    assert summary.notes["texts"]["vehicle_info.txt"] == {
        "encoding": "utf-8",
        "header": True,
        "lines": 6,
        "malformed_lines": 3,
    }


def test_malformed_list_lines_are_named_with_file_and_line(three) -> None:
    three.write("train_test_split/train_list.txt", "00001/000001\n../../etc/passwd\n00001/000002 0 1 9\n\n")
    three.run_import()
    assert len(three.images()) == 3
    assert three.rejected()["train_test_split/train_list.txt:2"] == (
        "malformed_line",
        "not VEHICLE/IMAGE, alone or followed by a label and a camera",
    )
    assert three.reasons()["train_test_split/train_list.txt:3"] == "malformed_line"


def test_unknown_colours_and_types_are_kept_as_written_and_counted(three) -> None:
    three.info(
        "00001/000001;23;t;;spaceship;Teal", "00001/000002;23;t;;spaceship;White", "00012/000011;7;t;; SUV ; dark gray"
    )
    summary = three.run_import()
    assert (three.images()["00001/000001"].type, three.images()["00001/000001"].color) == ("spaceship", "Teal")
    assert (three.images()["00012/000011"].type, three.images()["00012/000011"].color) == ("SUV", "dark gray")
    assert summary.notes["unknown_values"] == {"color": {"Teal": 1}, "type": {"spaceship": 2}}


def test_gb18030_text_is_recognised_and_read(three) -> None:
    three.write(
        "train_test_split/vehicle_info.txt",
        f"{HEADER}\n00001/000001;23;2018-03-05 08:12:44;大众帕萨特;sedan;white\n{THIRD}\n".encode("gb18030"),
    )
    summary = three.run_import()
    assert summary.notes["texts"]["vehicle_info.txt"]["encoding"] == "gb18030"
    assert three.images()["00001/000001"].model == "大众帕萨特"
    assert three.images()["00012/000011"].camera_id == "7"


def test_a_line_that_is_no_text_in_either_encoding_costs_only_itself(three) -> None:
    three.write(
        "train_test_split/vehicle_info.txt",
        FIRST.encode() + b"\n00001/000002;1;t;\xff\xff;sedan;white\n" + THIRD.encode(),
    )
    three.run_import()
    assert three.rejected() == {
        "train_test_split/vehicle_info.txt:2": ("malformed_line", "neither UTF-8 nor GB18030 text")
    }
    assert three.images()["00012/000011"].camera_id == "7"


def test_a_repeated_line_is_harmless_and_a_contradicting_one_is_refused(three) -> None:
    three.info(FIRST, FIRST, SECOND, SECOND.replace("white", "black"))
    three.run_import()
    assert three.images()["00001/000002"].color == "white"
    assert three.rejected() == {
        "train_test_split/vehicle_info.txt:4": (
            "conflicting_line",
            "another line already describes 00001/000002 differently; the first one counts",
        )
    }


def test_the_folder_decides_the_identity_where_the_lists_disagree(three) -> None:
    three.info("00009/000001;23;2018-03-05 08:12:44;Audi;sedan;black", SECOND, THIRD)
    summary = three.run_import()
    image = three.images()["00001/000001"]
    assert (image.vehicle_id, image.color) == ("00001", None)
    assert three.reasons() == {"00009/000001": "missing_file"}
    assert summary.notes["images_in_another_vehicles_folder"] == 1


def test_a_camera_that_differs_between_list_and_info_is_counted(three) -> None:
    three.info(FIRST, SECOND, THIRD)
    three.write("train_test_split/train_list.txt", "00001/000001 0 99\n")
    summary = three.run_import()
    assert summary.notes["camera_conflicts"] == 1
    assert three.images()["00001/000001"].camera_id == "23"


def test_strict_accepts_a_clean_copy(three) -> None:
    three.info(HEADER, FIRST, SECOND, THIRD)
    three.write("train_test_split/train_list.txt", "00001/000001\n00001/000002\n")
    three.write("train_test_split/test_3000.txt", "00012/000011\n")
    three.write("train_test_split/test_3000_query.txt", "")
    assert three.run_import(strict=True).kept == 3


def test_strict_accepts_a_copy_without_any_text_file(three) -> None:
    assert three.run_import(strict=True).kept == 3


def test_strict_refuses_whatever_the_lists_leave_out_or_say_oddly_and_lenient_counts_it(three) -> None:
    odd_time, odd_camera = SECOND.replace("2018-03-05 19:40:02", "yesterday"), THIRD.replace(";7;", ";abc;")
    three.info(HEADER, odd_time, odd_camera)
    three.write("train_test_split/test_3000.txt", "00012/000011\n00001/000002\n")
    three.write("train_test_split/test_3000_query.txt", "00012/000011\n")
    three.picture("stray.jpg", color="pink")
    with pytest.raises(SourceError, match="found 6 surprises"):
        three.run_import(strict=True)
    assert (three.workspace.folder("import") / "surprises.txt").read_text().splitlines() == [
        "camera 'abc' x 1",
        "time of the pattern 'yesterday' x 1",
        "test_3000.txt and test_3000_query.txt share 1 image",
        "images in no list x 1",
        "images without a line in vehicle info x 1",
        "pictures outside image folders x 1",
    ]
    notes = three.run_import().notes
    assert (notes["images_in_no_list"], notes["images_without_a_line_in_vehicle_info"]) == (1, 1)
    assert notes["odd_values"] == {"camera": {"abc": 1}, "time of the pattern": {"yesterday": 1}}


@pytest.mark.parametrize("time", ["2018/3/5 8:12", "20180305", "20180305081244", "05.03.2018", "2018-03-05T08:12:44Z"])
def test_strict_accepts_any_way_to_write_a_date(three, time: str) -> None:
    three.info(*(line.replace("2018-03-05 08:12:44", time) for line in (FIRST, SECOND, THIRD)))
    assert three.run_import(strict=True).kept == 3


def test_strict_lists_the_first_surprises_and_their_number_and_seals_nothing(three) -> None:
    three.info(HEADER, FIRST.replace("white", "teal"), SECOND, THIRD, "garbage")
    three.write("train_test_split/train_list.txt", "00001/000001\n00001/000002\n00012/000011\n00077/000770\n")
    three.write("train_test_split/test_3000.txt", "00012/000011\n")
    with pytest.raises(SourceError) as caught:
        three.run_import(strict=True)
    assert str(caught.value) == (
        f"{three.root}: a strict import found 4 surprises: color 'teal' x 1; "
        "train_list.txt and test_3000.txt share 1 image; 00077/000770 (missing_file); "
        "train_test_split/vehicle_info.txt:5 (malformed_line); "
        "mend the source, or leave out --strict"
    )
    assert three.workspace.manifest("import") is None


def test_strict_lists_surprises_of_lists_and_of_pictures_at_once(three) -> None:
    three.info(HEADER, FIRST, SECOND, THIRD)
    three.write("images/00012/000012.jpg", b"")
    (three.root / "images/00001/000003.jpg").symlink_to(three.picture("../outside.jpg"))
    for vehicle in range(20, 32):
        for other in (vehicle, vehicle + 20):
            three.picture(f"images/{other:05d}/{other:06d}.jpg", color=f"rgb({vehicle}, {vehicle * 7}, 0)")
    three.run_import(options=RunOptions(quiet=True))
    sealed = three.workspace.manifest("import")
    with pytest.raises(
        SourceError, match="found 15 surprises: images without a line in vehicle info x 26; 00001/000003"
    ):
        three.run_import(RunOptions(overwrite=True, quiet=True), strict=True)
    listed = (three.workspace.folder("import") / "surprises.txt").read_text().splitlines()
    twice = [f"same bytes: {v:05d}/{v:06d} and {v + 20:05d}/{v + 20:06d}" for v in range(20, 32)]
    assert listed[0] == "images without a line in vehicle info x 26"
    assert listed[1:] == ["00001/000003 (outside_root)", "00012/000012 (empty_file)", *twice]
    assert three.workspace.manifest("import") == sealed


def test_strict_refuses_a_damaged_picture_and_names_it(three) -> None:
    three.write("images/00012/000012.jpg", b"")
    for _ in range(2):  # the second run finds all rows done and must refuse as well
        with pytest.raises(SourceError, match=r"found 1 surprise: 00012/000012 \(empty_file\); mend the source"):
            three.run_import(strict=True)
        assert three.workspace.manifest("import") is None


def test_importing_again_reads_only_what_is_new(three, monkeypatch: pytest.MonkeyPatch) -> None:
    three.info(HEADER, FIRST)
    assert (three.run_import().already_done, three.run_import().already_done) == (False, True)
    opened: list[str] = []
    real = file_facts.inspect_image
    monkeypatch.setattr(file_facts, "inspect_image", lambda path: opened.append(path.name) or real(path))
    three.picture("images/00012/000012.jpg")
    three.info(HEADER, FIRST, THIRD)
    summary = three.run_import()
    assert opened == ["000012.jpg"]
    assert (summary.kept, three.images()["00012/000011"].type) == (4, "SUV")
    assert summary.notes["since_last_import"] == {"added": 1, "changed": 0, "vanished": 0, "examples": []}
    assert "since the last import: 1 image added, 0 changed, 0 gone" in import_.report(summary)


def test_importing_again_opens_no_image_whose_file_and_target_are_as_they_were(three, monkeypatch) -> None:
    place = three.root / "images/00012/000011.jpg"
    place.rename(three.root / "elsewhere.jpg")
    place.symlink_to(three.root / "elsewhere.jpg")
    three.run_import()
    opened: list[str] = []
    real = io.open
    monkeypatch.setattr(io, "open", lambda file, *rest, **named: opened.append(str(file)) or real(file, *rest, **named))
    assert three.run_import().already_done
    assert any(name.endswith("manifest.json") for name in opened)
    assert not [name for name in opened if name.endswith(".jpg")]


def test_importing_a_grown_source_again_seals_the_bytes_of_a_first_import(three, tmp_path: Path) -> None:
    three.run_import()
    three.picture("images/00012/000012.jpg", color="red")
    three.picture("images/00001/000001.jpg", color="lime", size=(64, 48))
    summary = three.run_import()
    assert summary.notes["since_last_import"]["changed"] == 1
    fresh = Workspace(tmp_path / "fresh", create=True)
    import_.run(fresh, ImportConfig(source=three.root), RunOptions(quiet=True))
    sealed = ("part-00000.jsonl", "rejected.jsonl", "manifest.json")
    for name in sealed:
        assert (three.workspace.folder("import") / name).read_bytes() == (fresh.folder("import") / name).read_bytes()


def test_other_bytes_of_the_same_size_are_noticed_and_a_mere_touch_changes_no_record(three) -> None:
    three.run_import()
    file = three.root / "images/00001/000001.jpg"
    before = file.read_bytes()
    os.utime(file, (1, 1))
    touched = three.run_import()
    assert touched.notes["since_last_import"]["changed"] == 0
    assert three.images()["00001/000001"].sha256 == hashlib.sha256(before).hexdigest()
    assert three.run_import().already_done
    density = before.index(b"JFIF") + 9
    after = before[:density] + b"\x07" + before[density + 1 :]
    file.write_bytes(after)
    changed = three.run_import()
    assert changed.notes["since_last_import"] == {"added": 0, "changed": 1, "vanished": 0, "examples": []}
    assert three.images()["00001/000001"].sha256 == hashlib.sha256(after).hexdigest()
    assert three.run_import().already_done


def test_images_that_are_gone_are_dropped_only_when_asked(three) -> None:
    three.run_import()
    (three.root / "images/00012/000011.jpg").unlink()
    with pytest.raises(
        SealedError, match=r"1 image of the last import can no longer be found, such as 00012/000011; .*--overwrite"
    ):
        three.run_import()
    assert len(three.images()) == 3
    summary = three.run_import(RunOptions(overwrite=True, quiet=True))
    assert list(three.images()) == ["00001/000001", "00001/000002"]
    assert summary.notes["since_last_import"]["examples"] == ["00012/000011"]


def test_a_damaged_list_of_read_files_only_costs_reading_again(three) -> None:
    three.run_import()
    (three.workspace.folder("import") / "files.sqlite").write_bytes(b"no database " * 400)
    three.picture("images/00012/000012.jpg", color="red")
    assert three.run_import().kept == 4


def test_terms_come_from_source_json_then_a_licence_file_then_the_layout(three, tmp_path: Path, new_intake) -> None:
    terms = three.run_import().notes["sources"]
    assert terms[0]["licence"] == "non-commercial research, no redistribution"
    assert terms[0]["redistribute_images"] is False

    licensed = new_intake(tmp_path / "licensed")
    licensed.pictures("00001/000001")
    licensed.write("LICENSE.txt", "\n  Creative Commons Attribution 4.0  \nmore\n")
    source = licensed.run_import().notes["sources"][0]
    assert (source["licence"], source["redistribute_images"]) == (
        "see LICENSE.txt: Creative Commons Attribution 4.0",
        False,
    )
    assert "may not hand the images on" in source["terms"]

    described = new_intake(tmp_path / "described")
    described.pictures("00001/000001")
    described.write("LICENSE.txt", "CC0")
    facts = {"name": "rendered", "licence": "CC0-1.0", "redistribute_images": True, "description": "drawn", "seed": 3}
    described.write("source.json", json.dumps(facts))
    source = described.run_import().notes["sources"][0]
    assert (source["name"], source["licence"], source["redistribute_images"]) == ("rendered", "CC0-1.0", True)
    assert described.images()["00001/000001"].source == "rendered"
    assert described.workspace.sources()["rendered"].root == str(described.root)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "not valid JSON"),
        ('{"name": "x"}', "name or licence is missing or not text"),
        ("[]", "name or licence is missing or not text"),
        ('{"name": "x", "licence": "y", "redistribute_images": "yes"}', "redistribute_images is 'yes'"),
    ],
)
def test_a_damaged_source_json_is_one_sentence(three, content: str, sentence: str) -> None:
    three.write("source.json", content)
    with pytest.raises(SourceError) as caught:
        three.run_import()
    assert sentence in str(caught.value)
    assert "expected an object with the texts name and licence" in str(caught.value)


def test_a_folder_of_nothing_known_is_refused_with_what_was_looked_for(intake) -> None:
    intake.write("notes.txt", "hello")
    with pytest.raises(SourceError, match=r"no known layout here \(looked for .*--format veri-wild\|veri-wild-2\|"):
        intake.run_import()


def test_an_absent_source_is_refused(tmp_path: Path, new_intake) -> None:
    intake = new_intake(tmp_path / "a")
    intake.root.rmdir()
    with pytest.raises(SourceError, match="no such file or folder; give the root of a vehicle image collection"):
        intake.run_import()


def test_a_copy_without_a_single_good_image_is_no_success(intake) -> None:
    intake.info(FIRST, SECOND)
    with pytest.raises(NothingKept, match="kept nothing .2 x missing_file."):
        intake.run_import()


def test_no_row_is_lost_whatever_the_source_holds(three) -> None:
    three.write("images/00001/000003.jpg", b"")
    three.picture("images/000004.jpg")
    three.info(HEADER, FIRST, "bad", "00044/000444;1;t;;sedan;white")
    summary = three.run_import()
    assert summary.rows_in == summary.kept + summary.rejected == 3 + 4
    assert set(three.reasons().values()) == {"empty_file", "unknown_vehicle", "malformed_line", "missing_file"}


def test_rows_rejected_for_a_reason_are_taken_up_again_once_mended(three) -> None:
    three.write("images/00012/000012.jpg", b"x" * 700)
    three.run_import()
    mended = three.picture("images/00012/000012.jpg")
    mended.write_bytes(mended.read_bytes().ljust(700, b"\0"))  # same size, so the listing is the same
    assert mended.stat().st_size == 700
    summary = three.run_import(RunOptions(retry="not_an_image", quiet=True))
    assert (summary.kept, summary.rejected) == (4, 0)
