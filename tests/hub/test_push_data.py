"""``pfcvr-data push`` against a Hub on this machine: what goes there, what never does, and who may see it."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest
from folders import files_of
from hub.conftest import Program, data
from hub.hub_repositories import LOOKER_TOKEN, OWNER_TOKEN, READER_TOKEN
from hub.loopback_hub import Fault, LoopbackHub

PICTURES = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"data:image")
UPLOAD = r"^(PUT /lfs/|POST /api/datasets/.*/commit/|POST .*preupload)"


def tables(hub: LoopbackHub, name: str) -> dict[str, Any]:
    """The Parquet files of a repository, by name."""
    files = hub.repository(name).files
    return {path: parquet.read_table(io.BytesIO(f.content)) for path, f in files.items() if path.endswith(".parquet")}


def test_a_closed_source_is_published_without_a_single_pixel(
    program: Program, hub: LoopbackHub, closed_set: Path
) -> None:
    data("show", "-w", closed_set, "--out", closed_set / "sheet.png")
    done = program("pfcvr-data", "push", "-w", closed_set, "lab/closed").result
    files = hub.repository("lab/closed").files
    published = tables(hub, "lab/closed")
    assert set(files) - set(published) == {
        ".gitattributes", "README.md", "LICENSE.md", "croissant.json", "pfcvr.json", "schema.json",
    }  # fmt: skip
    assert done["rows"] == done["images"] == sum(table.num_rows for table in published.values()) == 18
    assert not done["with_images"]
    assert all("image" not in table.column_names and "captions" in table.column_names for table in published.values())
    received = [*(file.content for file in files.values()), *hub.state.large.values()]
    assert not any(mark in content for mark in PICTURES for content in received)
    assert not any(str(closed_set).encode() in content for content in received)


def test_an_open_source_is_published_with_its_images_as_they_are(
    program: Program, hub: LoopbackHub, open_set: Path
) -> None:
    done = program("pfcvr-data", "push", "-w", open_set, "lab/open").result
    assert done["with_images"]
    assert not hub.repository("lab/open").private
    records = [json.loads(line) for path in open_set.glob("import/part-*") for line in path.read_text().splitlines()]
    root = Path(json.loads((open_set / "import" / "manifest.json").read_text())["notes"]["sources"][0]["root"])
    here = {record["image_id"]: (root / record["path"]).read_bytes() for record in records}
    there = {
        row["image_id"]: row["image"]["bytes"]
        for table in tables(hub, "lab/open").values()
        for row in table.select(["image_id", "image"]).to_pylist()
    }
    assert there == here


@pytest.mark.parametrize("existed", [False, True], ids=["a new repository", "one that was public"])
def test_images_of_a_closed_source_are_behind_two_doors_before_the_first_byte(
    program: Program, hub: LoopbackHub, closed_set: Path, existed: bool
) -> None:
    name = f"lab/doors-{existed}".lower()
    if existed:
        hub.state.create(f"Bearer {OWNER_TOKEN}", {"name": name[4:], "organization": "lab", "type": "dataset"})
    right = "Permission of the owners by letter of 2 May"
    done = program("pfcvr-data", "push", "-w", closed_set, name, "--with-images", "--right", right).result
    assert done["with_images"]
    uploads = hub.asked(UPLOAD)
    assert uploads
    assert all(request.private and request.gated == "manual" for request in uploads)
    assert any("image" in table.column_names for table in tables(hub, name).values())
    assert right in hub.repository(name).files["README.md"].content.decode()


def test_nothing_is_uploaded_where_the_doors_do_not_close(program: Program, hub: LoopbackHub, closed_set: Path) -> None:
    hub.faults = [Fault(r"PUT .*/settings", status=200, times=9)]
    command = ("pfcvr-data", "push", "-w", closed_set, "lab/ajar", "--with-images", "--right", "a letter")
    assert program(*command).sentence == (
        "lab/ajar: the Hub did not make the repository private and gated, so nothing was uploaded; do it on the "
        "repository's settings page, then run the same command again"
    )
    assert not hub.asked(UPLOAD)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--with-images"], "--with-images needs --right TEXT: who allowed you to publish these images, and how"),
        (["--with-images", "--right", " "], "--with-images needs --right TEXT"),
        (["--right", "a letter"], "--right is about publishing images; add --with-images or leave it out"),
    ],
)
def test_images_and_the_right_to_publish_them_come_together(
    program: Program, hub: LoopbackHub, closed_set: Path, options: list[str], sentence: str
) -> None:
    outcome = program("pfcvr-data", "push", "-w", closed_set, "lab/rights", *options)
    assert outcome.code == 2
    assert sentence in json.loads(outcome.out)["error"]["message"]
    assert not hub.state.journal


def test_pushing_again_sends_nothing(program: Program, hub: LoopbackHub, closed_set: Path) -> None:
    first = program("pfcvr-data", "push", "-w", closed_set, "lab/twice").result["published"]
    hub.state.journal.clear()
    again = program("pfcvr-data", "push", "-w", closed_set, "lab/twice").result["published"]
    assert (first["kept"], again["sent"]) == (0, 0)
    assert again["commit"] == first["commit"]
    assert not hub.asked(UPLOAD)


def test_a_dry_run_writes_what_is_pushed_later_and_asks_nothing(
    program: Program, hub: LoopbackHub, closed_set: Path
) -> None:
    dry = program("pfcvr-data", "push", "-w", closed_set, "lab/dry", "--dry-run").result
    assert not hub.state.journal
    assert dry["published"] is None
    written = files_of(Path(dry["folder"]))
    assert program("pfcvr-data", "push", "-w", closed_set, "lab/dry").code == 0
    files = hub.repository("lab/dry").files
    assert {name: file.content for name, file in files.items() if name != ".gitattributes"} == written
    assert set(dry["files"]) == set(written)


def test_a_data_set_that_fails_the_check_is_not_published(program: Program, hub: LoopbackHub, closed_set: Path) -> None:
    data("select", "-w", closed_set, "--identities", 8)
    sentence = program("pfcvr-data", "push", "-w", closed_set, "lab/leak").sentence
    assert "the check found failures" in sentence
    assert sentence.endswith(f"run: pfcvr-data check -w {closed_set}")
    assert not hub.state.journal


@pytest.mark.parametrize("name", ["export/data/train-00000-of-00001.parquet", "repository/README.md"])
def test_a_byte_that_was_changed_after_sealing_stops_the_push(
    program: Program, hub: LoopbackHub, closed_set: Path, name: str
) -> None:
    assert program("pfcvr-data", "push", "-w", closed_set, "lab/bytes", "--dry-run").code == 0
    path = closed_set / "push" / "annotations" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    sentence = program("pfcvr-data", "push", "-w", closed_set, "lab/bytes").sentence
    assert (
        f"{Path(*Path(name).parts[1:])} was removed or altered since it was sealed; rerun with --overwrite" in sentence
    )
    assert not hub.state.journal
    assert program("pfcvr-data", "push", "-w", closed_set, "lab/bytes", "--overwrite").result["rows"] == 18


def test_a_picture_that_was_put_into_the_folder_is_not_taken_along(
    program: Program, hub: LoopbackHub, closed_set: Path
) -> None:
    folder = Path(program("pfcvr-data", "push", "-w", closed_set, "lab/sheet", "--dry-run").result["folder"])
    data("show", "-w", closed_set, "--out", folder / "sheet.png")
    sentence = program("pfcvr-data", "push", "-w", closed_set, "lab/sheet").sentence
    assert "sheet.png does not belong to the publication, and nothing else is uploaded" in sentence
    assert not hub.state.journal


def test_a_repository_of_somebody_elses_content_is_refused_and_never_emptied(
    program: Program, hub: LoopbackHub, closed_set: Path
) -> None:
    assert program("pfcvr-data", "push", "-w", closed_set, "lab/taken").code == 0
    theirs = hub.repository("lab/taken")
    theirs.put("notes.txt", b"by hand")
    theirs.put("README.md", b"by hand")
    hub.state.journal.clear()
    assert program("pfcvr-data", "push", "-w", closed_set, "lab/taken").sentence == (
        "lab/taken: the repository exists with other content (README.md, notes.txt); give another name, or rerun with "
        "--overwrite to replace files of the same name and those of an earlier publication"
    )
    assert not hub.asked(UPLOAD)
    done = program("pfcvr-data", "push", "-w", closed_set, "lab/taken", "--overwrite").result
    assert done["published"]["removed"] == []
    assert theirs.files["notes.txt"].content == b"by hand"
    assert b"lab/taken" in theirs.files["README.md"].content


def test_another_repository_needs_no_overwrite_and_one_with_other_content_stays_protected(
    program: Program, hub: LoopbackHub, closed_set: Path
) -> None:
    push = ("pfcvr-data", "push", "-w", closed_set)
    assert program(*push, "lab/first").code == 0
    first = dict(hub.repository("lab/first").files)
    assert program(*push, "lab/second").result["published"]["removed"] == []
    assert b"lab/second" in hub.repository("lab/second").files["README.md"].content
    data("split", "-w", closed_set, "--val", 0, "--overwrite")
    assert program(*push, "lab/third").result["rows"] == 18
    assert {path.split("/")[1].split("-")[0] for path in tables(hub, "lab/third")} == {"train", "test"}
    assert program(*push, "lab/first").sentence.startswith("lab/first: the repository exists with other content (")
    assert hub.repository("lab/first").files == first


def test_a_file_put_into_the_folder_is_not_lost_when_another_repository_is_pushed_to(
    program: Program, hub: LoopbackHub, closed_set: Path
) -> None:
    folder = Path(program("pfcvr-data", "push", "-w", closed_set, "lab/first", "--dry-run").result["folder"])
    (folder / "notes.txt").write_text("by hand")
    assert "notes.txt does not belong" in program("pfcvr-data", "push", "-w", closed_set, "lab/second").sentence
    assert (folder / "notes.txt").read_text() == "by hand"
    assert not hub.state.journal


def test_files_of_an_earlier_publication_leave_with_overwrite_and_only_then(
    program: Program, hub: LoopbackHub, closed_set: Path
) -> None:
    assert program("pfcvr-data", "push", "-w", closed_set, "lab/anew").code == 0
    repository = hub.repository("lab/anew")
    assert "data/val-00000-of-00001.parquet" in repository.files
    data("split", "-w", closed_set, "--val", 0, "--overwrite")
    assert "--overwrite" in program("pfcvr-data", "push", "-w", closed_set, "lab/anew").sentence
    done = program("pfcvr-data", "push", "-w", closed_set, "lab/anew", "--overwrite").result
    assert done["published"]["removed"] == ["data/val-00000-of-00001.parquet"]
    assert "data/val-00000-of-00001.parquet" not in repository.files
    assert {path.split("/")[1].split("-")[0] for path in tables(hub, "lab/anew")} == {"train", "test"}


@pytest.mark.parametrize(
    ("token", "sentence"),
    [
        ("hf_wrongwrongwrong", "the Hub does not accept the access token of this machine (401); run hf auth login, or"),
        (None, "the Hub wants an access token; run hf auth login or set HF_TOKEN, then run the same command again"),
        (READER_TOKEN, "the access token may not do that (403); use one that may write to this owner's repositories"),
        (LOOKER_TOKEN, "the access token may not do that (403); use one that may write to this owner's repositories"),
    ],
    ids=["wrong", "none", "read alone", "of somebody else"],
)
def test_a_token_that_does_not_do_is_one_sentence(
    program: Program, hub: LoopbackHub, closed_set: Path, token: str | None, sentence: str
) -> None:
    outcome = program("pfcvr-data", "push", "-w", closed_set, "lab/doorkeeper", token=token)
    assert outcome.sentence.startswith(f"lab/doorkeeper: {sentence}")
    assert not hub.state.repositories


def test_people_read_what_was_published_and_where(program: Program, hub: LoopbackHub, closed_set: Path) -> None:
    out = program("pfcvr-data", "push", "-w", closed_set, "lab/told", as_json=False).out
    assert f"18 images, annotations without pixels: {hub.url}/datasets/lab/told\n" in out
    assert f"0 there before; commit {hub.repository('lab/told').head}; 18 rows read back and compared" in out
    dry = program("pfcvr-data", "push", "-w", closed_set, "lab/told", "--dry-run", as_json=False).out
    assert dry.startswith("push: nothing was sent; ")
