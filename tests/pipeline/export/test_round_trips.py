"""Out, in and out again: nothing that a form can carry is lost on the way."""

import hashlib
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
from folders import files_of
from PIL import Image

from pfcvr import geometry
from pfcvr.config import CaptionConfig, ExportConfig, ImportConfig, PartsConfig, SplitConfig
from pfcvr.pipeline import caption, export, import_, parts, split
from pfcvr.records import (
    ATTRIBUTES,
    PARTS,
    Caption,
    CaptionOrigin,
    ImageParts,
    ImageRecord,
    PartInstance,
    PartsOrigin,
    PatchGrid,
    VehicleSplit,
)
from pfcvr.stage import RunOptions
from pfcvr.store import Workspace

QUIET = RunOptions(quiet=True)
WIDTH, HEIGHT = 32, 24
WORDS = ("abc", "XYZ", "äß", "车", "🚗", "<b>x</b>", "&amp;", "say", '"so"', "it's", "a\\b", "1,2;3")
SEEDS = pytest.mark.parametrize("seed", range(3))


def some_instance(rng: np.random.Generator) -> PartInstance:
    """A part with a mask of some rectangle, or with a box alone; never empty, inside the image."""
    x0, y0 = rng.integers(0, WIDTH - 2), rng.integers(0, HEIGHT - 2)
    x1, y1 = rng.integers(x0 + 1, WIDTH), rng.integers(y0 + 1, HEIGHT)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y0:y1, x0:x1] = True
    return PartInstance(
        part=rng.choice(PARTS),
        box_xyxy=(float(x0), float(y0), float(x1), float(y1)),
        score=float(np.float32(rng.random())),
        mask=geometry.encode_mask(mask) if rng.random() < 0.5 else None,
        flags=tuple(flag for flag in ("large", "low") if rng.random() < 0.3),
    )


def some_text(rng: np.random.Generator) -> str:
    return " ".join(rng.choice(WORDS, rng.integers(1, 6)))


def said_of_images(seed: int) -> list[dict[str, Any]]:
    """Random captions, phrases, attributes and parts of six images."""
    rng = np.random.default_rng(seed)
    return [
        {
            "texts": tuple(some_text(rng) for _ in range(rng.integers(1, 4))),
            "part_texts": {part: some_text(rng) for part in PARTS if rng.random() < 0.5},
            "attributes": {name: some_text(rng) for name in ATTRIBUTES if rng.random() < 0.5},
            "instances": tuple(some_instance(rng) for _ in range(rng.integers(1, 5))),
        }
        for _ in range(6)
    ]


def workspace_of(make: Callable[[Path], Any], folder: Path, seed: int) -> Workspace:
    """Three vehicles with two images each, one vehicle a split."""
    small = make(folder)
    small.images_known = {"color": "dark gray", "model": "Škoda", "timestamp": "2018-03-14 07:59:02"}
    small.add_images({"00007": 2, "00009": 2, "00012": 2}, size=(WIDTH, HEIGHT))
    captions, found = [], []
    for image, own in zip(small.images, said_of_images(seed), strict=True):
        grid = geometry.patch_grid(own["instances"], (HEIGHT, WIDTH), 24, 24, 0.5)
        said = {name: own[name] for name in ("texts", "part_texts", "attributes")}
        captions.append(Caption(image_id=image.image_id, **said, origin=CaptionOrigin(captioner="import")))
        origin = PartsOrigin(detector="import")
        found.append(ImageParts(image_id=image.image_id, instances=own["instances"], grid=grid, origin=origin))
    small.seal("caption", Caption, captions)
    small.seal("parts", ImageParts, found, settings={"grid": {"rows": 24, "cols": 24}})
    splits = zip(("00007", "00009", "00012"), ("train", "val", "test"), strict=True)
    small.seal("split", VehicleSplit, [VehicleSplit(vehicle_id=v, split=s, images=2) for v, s in splits])
    return small.workspace


def written(workspace: Workspace, out: Path, form: str) -> Path:
    summary = export.run(workspace, ExportConfig.model_validate({"out": out, "format": form}), QUIET)
    assert summary.kept == 6
    return out


def taken_back(source: Path, root: Path) -> Workspace:
    workspace = Workspace(root, create=True)
    import_.run(workspace, ImportConfig(source=source), QUIET)
    caption.run(workspace, CaptionConfig(captioner="import"), QUIET)
    parts.run(workspace, PartsConfig(), QUIET)
    split.run(workspace, SplitConfig(from_source=True), QUIET)
    return workspace


def rows(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {path.name: parquet.read_table(path).to_pylist() for path in sorted((folder / "data").glob("*.parquet"))}


@SEEDS
def test_hf_export_comes_back_with_every_column_of_every_row(build_empty, tmp_path, seed) -> None:
    first = written(workspace_of(build_empty, tmp_path / "small", seed), tmp_path / "first", "hf")
    second = written(taken_back(first, tmp_path / "again"), tmp_path / "second", "hf")
    flags_before, flags_after = flags_taken_out(before := rows(first)), flags_taken_out(after := rows(second))
    assert after == before
    assert json.loads((second / "pfcvr.json").read_text())["grid"]["rule"] == "given"
    # Import looks at every part again and may flag more of them.
    assert all(set(one) <= set(other) for one, other in zip(flags_before, flags_after, strict=True))


def flags_taken_out(tables: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    """The flags of every part, which are removed from ``tables``."""
    return [part.pop("flags") for table in tables.values() for row in table for part in row["parts"]]


@SEEDS
def test_webdataset_export_comes_back_with_every_file_of_every_tar(build_empty, tmp_path, seed) -> None:
    first = written(workspace_of(build_empty, tmp_path / "small", seed), tmp_path / "first", "webdataset")
    second = written(taken_back(first, tmp_path / "again"), tmp_path / "second", "webdataset")
    before, after = samples(first), samples(second)
    # Import looks at every part again and may flag more of them.
    flags_taken_out(before)
    flags_taken_out(after)
    assert [len(files) for files in before.values()] == [2, 2, 2]
    assert after == before
    assert pictures(second) == pictures(first)


def samples(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What the JSON files of every tar say, in order."""
    files = in_tars(folder)
    return {shard: [json.loads(own) for name, own in held if name.endswith(".json")] for shard, held in files.items()}


def pictures(folder: Path) -> list[tuple[str, bytes]]:
    return [file for held in in_tars(folder).values() for file in held if not file[0].endswith(".json")]


def in_tars(folder: Path) -> dict[str, list[tuple[str, bytes]]]:
    found: dict[str, list[tuple[str, bytes]]] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as shard:
            held = [(entry.name, shard.extractfile(entry)) for entry in shard]
            found[path.name] = [(name, file.read()) for name, file in held if file is not None]
    return found


def told(folder: Path) -> dict[str, bytes]:
    """Every file but the manifest, which tells what it was made from."""
    return files_of(folder, but=("pfcvr.json",))


@SEEDS
def test_official_export_comes_back_file_by_file(build_empty, tmp_path, seed) -> None:
    first = written(workspace_of(build_empty, tmp_path / "small", seed), tmp_path / "first", "official")
    second = written(taken_back(first, tmp_path / "again"), tmp_path / "second", "official")
    assert told(first) == told(second)
    (before,), (after,) = (json.loads((out / "pfcvr.json").read_text())["sources"] for out in (first, second))
    assert after == before | {"format": "t2i-verw"}


@pytest.mark.parametrize(
    ("image_ids", "numbers"),
    [
        (["0012/1", "0012/2", "7/1"], {"0012": 12, "7": 7}),
        (["007/1", "7/1"], {"007": 1, "7": 2}),
        (["-5/1", "3/1"], {"-5": 1, "3": 2}),
        ([f"{'9' * 40}/1", "1/1"], {"1": 1, "9" * 40: 2}),
        (["red van/nose on", "0012/000345", "車/é.1%2E"], {"0012": 1, "red van": 2, "車": 3}),
        (["0002/0002_c002_00030600_0", "0002/c002_00030600_0", "0003/0003"], {"0002": 2, "0003": 3}),
        (["a/b_d", "a_b/c", "a_b/a_b_c"], {"a": 1, "a_b": 2}),
    ],
    ids=["zero padding", "007 and 7", "negative", "huge", "text", "a stem that names its vehicle", "underscores"],
)
def test_ids_of_any_kind_go_through_the_official_form_and_come_back_as_they_were(
    build_empty, tmp_path, image_ids: list[str], numbers: dict[str, int]
) -> None:
    before = named_images(build_empty(tmp_path / "small"), sorted(image_ids))
    settings = {"format": "official", "copies": True}
    first, second = tmp_path / "first", tmp_path / "second"
    export.run(before, ExportConfig.model_validate({"out": first, **settings}), QUIET)
    after = taken_back(first, tmp_path / "again")
    assert [(image.image_id, image.vehicle_id) for image in after.images()] == [
        (image.image_id, image.vehicle_id) for image in before.images() if image.vehicle_id in numbers
    ]
    export.run(after, ExportConfig.model_validate({"out": second, **settings}), QUIET)
    assert json.loads((first / "vehicle_ids.json").read_text()) == numbers
    left_out = {"left_out.jsonl": b""}
    assert told(second) == told(first) | left_out


def named_images(small: Any, image_ids: list[str]) -> Workspace:
    """An image under each of ``image_ids``, and one of the vehicle ``000`` on which no part was found; all of train."""
    for number, image_id in enumerate(["000/bare", *image_ids]):
        file = small.source / f"{number}.png"
        Image.new("RGB", (WIDTH, HEIGHT), (40 * number, 90, 160)).save(file)
        known = {"source": "small", "path": file.name, "width": WIDTH, "height": HEIGHT}
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        vehicle_id = image_id.partition("/")[0]
        small.images.append(ImageRecord(image_id=image_id, vehicle_id=vehicle_id, sha256=sha256, **known))
    small.images.sort(key=lambda image: image.image_id)
    small.add_images({})
    small.add_captions()
    grid = PatchGrid(rows=24, cols=24, coverage=0.5, cells={"roof": "80" + "00" * 71})
    roof = PartInstance(part="roof", box_xyxy=(0, 0, 8, 8))
    found = [
        ImageParts(
            image_id=image.image_id,
            instances=(roof,) if image.vehicle_id != "000" else (),
            grid=grid if image.vehicle_id != "000" else grid.model_copy(update={"cells": {}}),
            origin=PartsOrigin(detector="import"),
        )
        for image in small.images
    ]
    small.seal("parts", ImageParts, found, settings={"grid": {"rows": 24, "cols": 24}})
    vehicles = sorted({image.vehicle_id for image in small.images})
    small.seal("split", VehicleSplit, [VehicleSplit(vehicle_id=v, split="train", images=1) for v in vehicles])
    return small.workspace


@SEEDS
def test_coco_export_gives_parts_and_captions_back_to_the_images_it_came_from(build_empty, tmp_path, seed) -> None:
    workspace = workspace_of(build_empty, tmp_path / "small", seed)
    first = written(workspace, tmp_path / "first", "coco")
    for name in ("train", "val", "test"):
        shutil.rmtree(workspace.folder("parts"))
        annotations = first / "annotations" / f"instances_{name}.json"
        parts.run(workspace, PartsConfig(annotations=annotations), QUIET)
        again = written(workspace, tmp_path / f"again-{name}", "coco") / "annotations" / f"instances_{name}.json"
        before, after = json.loads(annotations.read_text()), json.loads(again.read_text())
        assert after["images"] == before["images"]
        assert [without_number_and_flags(one) for one in after["annotations"]] == [
            without_number_and_flags(one) for one in before["annotations"]
        ]


def without_number_and_flags(annotation: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in annotation.items() if key not in ("id", "flags")}
