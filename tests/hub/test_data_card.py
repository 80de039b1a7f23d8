"""The card and the Croissant file of a published data set: true, valid, and inert whatever a source calls itself."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
import yaml
from datasets import load_dataset
from hub.conftest import Program, data
from hub.loopback_hub import LoopbackHub
from huggingface_hub import DatasetCard

READER = Path(__file__).with_name("croissant_rows.py")


@pytest.fixture
def dry(program: Program, closed_set: Path) -> Path:
    """The folder that would be published of a closed source."""
    return Path(program("pfcvr-data", "push", "-w", closed_set, "lab/closed", "--dry-run").result["folder"])


def test_the_yaml_says_licence_size_language_tasks_and_files(dry: Path) -> None:
    card = DatasetCard.load(dry / "README.md").data.to_dict()
    assert (card["license"], card["license_name"], card["license_link"]) == (
        "other", "terms-of-the-sources", "LICENSE.md",
    )  # fmt: skip
    assert (card["language"], card["size_categories"]) == ("en", "n<1K")
    assert card["task_categories"] == ["image-to-text", "image-segmentation"]
    (config,) = card["configs"]
    assert config["config_name"] == "default"
    named = {path for files in config["data_files"] for path in files["path"]}
    assert named == {path.relative_to(dry).as_posix() for path in dry.rglob("*.parquet")}
    assert [files["split"] for files in config["data_files"]] == ["train", "val", "test"]


def test_the_card_states_what_the_files_hold(dry: Path) -> None:
    text = (dry / "README.md").read_text()
    for path in sorted(dry.rglob("*.parquet")):
        rows = parquet.read_table(path).to_pylist()
        vehicles, captions = len({row["vehicle_id"] for row in rows}), sum(len(row["captions"]) for row in rows)
        assert f"| {path.name.split('-')[0]} | {len(rows)} | {vehicles} | {captions} |" in text
        assert all(f"- `{column}`: " in text for column in rows[0])
    assert "see the tool" not in text
    assert "18 images: captioner `import`" in text
    assert "18 images: detector `import`" in text
    assert "4 rows and 4 columns, rule `stretch-coverage`" in text
    assert "No review by people is recorded." in text
    assert "The images are not part of this data set" in text


def test_terms_are_quoted_and_inert(dry: Path) -> None:
    for name in ("README.md", "LICENSE.md"):
        text = (dry / name).read_text()
        assert "research only" in text
        assert "Not to be &lt;b&gt;handed on&lt;/b&gt;." in text
        assert "<b>" not in text


def test_an_open_licence_is_named_as_the_hub_names_it(program: Program, open_set: Path) -> None:
    folder = Path(program("pfcvr-data", "push", "-w", open_set, "lab/open", "--dry-run").result["folder"])
    text = (folder / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["license"] == "cc0-1.0"
    assert "license_link" not in front
    assert ". The source allows publishing its images." in text


def test_a_copy_of_a_corrected_publication_is_not_taken_for_the_one_before(
    program: Program, closed_set: Path, tmp_path: Path
) -> None:
    def published() -> set[str]:
        folder = program("pfcvr-data", "push", "-w", closed_set, "lab/closed", "--dry-run").result["folder"]
        loaded = load_dataset(folder, cache_dir=str(tmp_path / "cache"))
        return {text for rows in loaded.values() for texts in rows["captions"] for text in texts}

    before = published()
    image_id = json.loads(next(closed_set.glob("caption/part-*")).read_text().splitlines()[0])["image_id"]
    corrected = closed_set / "corrected.jsonl"
    corrected.write_text(json.dumps({"image_id": image_id, "caption": "A corrected car, as nobody else says."}) + "\n")
    data("merge", corrected, "-w", closed_set)
    data("split", "-w", closed_set, "--val", 0.2, "--overwrite")
    assert published() - before == {"A corrected car, as nobody else says."}


def test_people_who_corrected_captions_are_counted(program: Program, closed_set: Path) -> None:
    captions = [
        json.loads(line) for path in closed_set.glob("caption/part-*") for line in path.read_text().splitlines()
    ]
    image_ids = [caption["image_id"] for caption in captions[:9]]
    corrected = closed_set / "corrected.jsonl"
    corrected.write_text(
        "".join(json.dumps({"image_id": i, "caption": f"A corrected car, {i}."}) + "\n" for i in image_ids)
    )
    data("merge", corrected, "-w", closed_set)
    data("split", "-w", closed_set, "--val", 0.2, "--overwrite")
    folder = Path(program("pfcvr-data", "push", "-w", closed_set, "lab/people", "--dry-run").result["folder"])
    text = (folder / "README.md").read_text()
    assert "People set or corrected the annotation of 50.0 % of the images." in text
    assert "expert-generated" in text.split("---\n")[1]


def test_the_croissant_file_is_valid_and_reads_the_rows_offline(dry: Path) -> None:
    shards = {path.name.split("-")[0]: path for path in sorted(dry.rglob("*.parquet"))}
    program = [sys.executable, str(READER), str(dry / "croissant.json"), *shards]
    read = json.loads(subprocess.run(program, check=True, capture_output=True, timeout=100).stdout)
    assert read["errors"] == []
    for split, path in shards.items():
        columns = parquet.read_table(path, columns=["image_id", "captions", "width"]).to_pylist()
        assert read["rows"][split] == columns


def test_the_croissant_file_names_every_file_with_its_hash(dry: Path) -> None:
    described = json.loads((dry / "croissant.json").read_text())
    hashes = json.loads((dry / "pfcvr.json").read_text())["files"]
    objects = {entry["@id"]: entry["sha256"] for entry in described["distribution"] if "sha256" in entry}
    assert objects == {name: digest for name, digest in hashes.items() if name.endswith(".parquet")}
    assert described["license"].endswith("/datasets/lab/closed/blob/main/LICENSE.md")


def test_what_was_published_is_joined_with_the_readers_own_images(
    program: Program, hub: LoopbackHub, closed_set: Path, dry: Path, tmp_path: Path
) -> None:
    assert program("pfcvr-data", "push", "-w", closed_set, "lab/closed").code == 0
    copy = tmp_path / "downloaded"
    for name, file in hub.repository("lab/closed").files.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(file.content)
    manifest = json.loads((closed_set / "import" / "manifest.json").read_text())
    images = manifest["notes"]["sources"][0]["root"]
    data("rebuild", copy, "--images", images, "--out", tmp_path / "rebuilt")
    rebuilt = parquet.read_table(tmp_path / "rebuilt" / "data", columns=["image_id", "image"]).to_pylist()
    assert len(rebuilt) == 18
    assert all(row["image"]["bytes"] for row in rebuilt)
