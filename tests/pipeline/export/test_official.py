"""The form of the released code, judged by a reader that does what that code does."""

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from pfcvr import geometry
from pfcvr.config import ExportConfig
from pfcvr.errors import WorkspaceError
from pfcvr.pipeline import export
from pfcvr.records import (
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

FILE = "reid_with_mask_prompt_and_boxes_filepath_prefixid_idsplit_70_30.json"


@pytest.fixture(scope="module")
def released() -> ModuleType:
    path = Path(__file__).with_name("released_reader.py")
    spec = importlib.util.spec_from_file_location("released_reader", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def export_to(small, out: Path, **settings) -> export.ExportSummary:
    return export.run(small.workspace, ExportConfig(out=out, format="official", **settings), RunOptions(quiet=True))


def entries_of(out: Path) -> list[dict]:
    return json.loads((out / FILE).read_text())


def left_out(out: Path) -> dict[str, str]:
    rows = map(json.loads, (out / "left_out.jsonl").read_text().splitlines())
    return {row["subject"]: row["reason"] for row in rows}


def seal_all(small, splits: dict[str, str], cells: dict[str, str] | None = None) -> None:
    """Captions, one split for each vehicle as told, and a roof on every image."""
    small.add_captions()
    counts = {vehicle: sum(image.vehicle_id == vehicle for image in small.images) for vehicle in splits}
    rows = [VehicleSplit(vehicle_id=v, split=s, images=counts[v]) for v, s in sorted(splits.items())]
    small.seal("split", VehicleSplit, rows)
    grid = PatchGrid(rows=24, cols=24, coverage=0.5, cells=cells or {"roof": "80" + "00" * 71})
    roof = PartInstance(part="roof", box_xyxy=(0, 0, 8, 8))
    origin = PartsOrigin(detector="import")
    records = [ImageParts(image_id=i.image_id, instances=(roof,), grid=grid, origin=origin) for i in small.images]
    small.seal("parts", ImageParts, records, settings={"grid": {"rows": 24, "cols": 24}})


def test_released_code_reads_every_row_with_its_parts_and_its_split(build_small, tmp_path, released) -> None:
    small = build_small(tmp_path / "small")
    shutil.rmtree(small.workspace.folder("parts"))
    small.add_parts(rows=24, cols=24)
    out = tmp_path / "out"
    summary = export_to(small, out)
    splits = {row.vehicle_id: row.split for row in small.workspace.records("split", VehicleSplit)}
    parts = {row.image_id: row for row in small.workspace.records("parts", ImageParts)}
    of_train = [i for i in small.images if splits[i.vehicle_id] != "test" and parts[i.image_id].instances]
    of_test = [i for i in small.images if splits[i.vehicle_id] == "test"]
    read = released.read(out)
    assert len(read.train) == len(of_train) == summary.splits["train"]["images"]
    assert [caption for _, caption in read.queries] == [f"A vehicle that looks like {i.image_id}." for i in of_test]
    assert [number for number, _ in read.gallery] == [int(i.vehicle_id) for i in of_test]
    for row, image in zip(read.train, of_train, strict=True):
        grid = geometry.grid_array(parts[image.image_id].grid)
        assert row.caption == f"A vehicle that looks like {image.image_id}."
        assert np.array_equal(np.asarray(row.picture), np.asarray(Image.open(small.source / image.path)))
        assert row.part_masks.keys() == {part for part, own in zip(PARTS, grid, strict=True) if own.any()}
        for part, mask in row.part_masks.items():
            assert np.array_equal(mask, grid[PARTS.index(part)])
        assert np.array_equal(row.removed, grid.any(axis=0))
        assert row.prompt == "car windows, car wheels"
    names = [f"image/{image.image_id.replace('/', '_')}.png" for image in small.images if image not in of_train]
    assert {entry["file_path"] for entry in entries_of(out) if entry["split"] == "val"} <= set(names)


def test_entry_and_part_file_have_the_keys_and_forms_of_the_release(small, tmp_path) -> None:
    small.add_images({"00012": 1, "00345": 1})
    seal_all(small, {"00012": "train", "00345": "test"})
    export_to(small, tmp_path / "out")
    train, val = entries_of(tmp_path / "out")
    grid = [[1] + [0] * 23] + [[0] * 24] * 23
    assert train == {
        "id": 12,
        "file_path": "image/00012_000001.png",
        "captions": ["A vehicle that looks like 00012/000001."],
        "split": "train",
        "boxes": "boxes/00012_000001.json",
        "mask": grid,
        "prompt": "car roof",
    }
    assert (val["id"], val["split"]) == (345, "val")
    boxes = json.loads((tmp_path / "out" / "boxes" / "00012_000001.json").read_text())
    assert boxes == [{"category": "roof", "score": 1.0, "mask": grid}]


def test_our_val_is_trained_on_unless_it_is_kept(whole, tmp_path, released) -> None:
    splits = {row.vehicle_id: row.split for row in whole.workspace.records("split", VehicleSplit)}
    export_to(whole, tmp_path / "merged")
    export_to(whole, tmp_path / "kept", keep_val=True)
    merged = {f"{entry['id']:05d}": entry["split"] for entry in entries_of(tmp_path / "merged")}
    kept = {f"{entry['id']:05d}": entry["split"] for entry in entries_of(tmp_path / "kept")}
    assert set(splits.values()) == {"train", "val", "test"}
    assert merged == {vehicle: "val" if split == "test" else "train" for vehicle, split in splits.items()}
    assert kept == splits
    assert {number for number, _ in released.read(tmp_path / "kept").gallery} == {
        int(vehicle) for vehicle, split in splits.items() if split == "test"
    }


def test_train_image_without_parts_is_left_out_and_counted_and_a_test_image_stays(small, tmp_path, released) -> None:
    small.add_images({"1": 2, "2": 2})
    seal_all(small, {"1": "train", "2": "test"})
    records = list(small.workspace.records("parts", ImageParts))
    bare = [
        row
        if number % 2
        else row.model_copy(update={"instances": (), "grid": row.grid.model_copy(update={"cells": {}})})
        for number, row in enumerate(records)
    ]
    shutil.rmtree(small.workspace.folder("parts"))
    small.seal("parts", ImageParts, bare, settings={"grid": {"rows": 24, "cols": 24}})
    summary = export_to(small, tmp_path / "out")
    assert summary.reasons == {"no_parts": 1}
    assert left_out(tmp_path / "out") == {"1/000001": "no_parts"}
    assert len(released.read(tmp_path / "out").gallery) == 2
    assert json.loads((tmp_path / "out" / "boxes" / "2_000003.json").read_text()) == []


def test_grid_of_other_cells_is_drawn_anew_from_masks_and_boxes(whole, tmp_path, released) -> None:
    export_to(whole, tmp_path / "out")
    parts = {row.image_id: row for row in whole.workspace.records("parts", ImageParts)}
    masks = {row.caption: row.part_masks for row in released.read(tmp_path / "out").train}
    assert len(masks) > 4
    for image in whole.images:
        found = masks.get(f"A vehicle that looks like {image.image_id}.")
        if found is None:
            continue
        # A column of the 40 x 24 picture is 0.6 of a cell wide, a row is a cell.
        mask = geometry.decode_mask(next(i.mask for i in parts[image.image_id].instances if i.mask is not None))
        fine = np.repeat(mask, 3, axis=1).reshape(24, 24, 5).mean(axis=2)
        assert np.array_equal(found["windows"], fine >= 0.5)


@pytest.mark.parametrize(
    ("vehicles", "numbers"),
    [
        (["00012", "00345"], [12, 345]),
        (["7", "007"], [2, 1]),
        (["red van", "0012"], [2, 1]),
        (["9" * 40, "1"], [2, 1]),
    ],
)
def test_identities_are_numbers_and_the_map_back_is_stored(small, tmp_path, vehicles, numbers) -> None:
    small.add_images(dict.fromkeys(sorted(vehicles), 1))
    seal_all(small, dict.fromkeys(vehicles, "train"))
    export_to(small, tmp_path / "out")
    stored = json.loads((tmp_path / "out" / "vehicle_ids.json").read_text())
    assert [stored[vehicle] for vehicle in vehicles] == numbers
    captions = {
        entry["captions"][0].partition("like ")[2].partition("/")[0]: entry for entry in entries_of(tmp_path / "out")
    }
    assert {vehicle: entry["id"] for vehicle, entry in captions.items()} == stored


def add_file(small, name: str, picture: Image.Image, size: tuple[int, int], **saving) -> None:
    """One more image from a file of any kind, not yet imported."""
    file = small.source / name
    picture.save(file, **saving)
    small.images.append(
        ImageRecord(
            image_id=f"{len(small.images) + 1}/{file.stem}",
            vehicle_id=str(len(small.images) + 1),
            source="small",
            path=name,
            sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
            width=size[0],
            height=size[1],
        )
    )


def test_pictures_look_upright_and_plain_to_a_loader_that_knows_no_exif(small, tmp_path, released) -> None:
    ramp = Image.fromarray(np.tile(np.arange(0, 240, 6, dtype=np.uint8), (24, 1)))
    turned = Image.Exif()
    turned[0x0112] = 6
    add_file(small, "turned.jpg", ramp.convert("RGB"), (24, 40), exif=turned, quality=95)
    add_file(small, "deep.png", Image.fromarray(np.asarray(ramp).astype(np.uint16) * 257), (40, 24))
    add_file(small, "plain.jpg", ramp.convert("RGB"), (40, 24), quality=95)
    small.add_images({})
    seal_all(small, {image.vehicle_id: "train" for image in small.images})
    export_to(small, tmp_path / "out")
    upright, deep, plain = (
        np.asarray(row.picture).astype(int)[..., 0] for row in released.read(tmp_path / "out").train
    )
    assert upright.shape == (40, 24)
    assert (np.diff(upright[:, 12]) >= 0).all()
    assert np.array_equal(deep, np.asarray(ramp))
    assert (tmp_path / "out" / "image" / "3_plain.jpg").read_bytes() == (small.source / "plain.jpg").read_bytes()
    assert json.loads((tmp_path / "out" / "pfcvr.json").read_text())["official"]["rewritten_images"] == 2


def test_copies_of_train_images_are_darker_lighter_and_noisy_and_are_drawn_from_the_seed(
    small, tmp_path, released
) -> None:
    small.add_images({"1": 1, "2": 1})
    seal_all(small, {"1": "train", "2": "test"})
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        export_to(small, tmp_path / name, copies=True, copies_seed=seed)
    plain, dark, light, noisy = (row.picture for row in released.read(tmp_path / "a", with_copies=True).train)
    values = np.asarray(plain) / 255
    assert np.abs(np.asarray(dark) - 255 * values**2).max() <= 0.5
    assert np.abs(np.asarray(light) - 255 * values**0.5).max() <= 0.5
    noise = (np.asarray(noisy).astype(float) - np.asarray(plain))[(values > 0.2) & (values < 0.8)]
    assert noise.std() == pytest.approx(0.05 * 255, rel=0.15)
    files = {name: {p.name: p.read_bytes() for p in (tmp_path / name).rglob("*_1_*")} for name in "abc"}
    assert sorted(files["a"]) == ["dark_1_000001.png", "light_1_000001.png", "noisy_1_000001.png"]
    assert files["a"] == files["b"]
    assert {name for name in files["a"] if files["a"][name] != files["c"][name]} == {"noisy_1_000001.png"}
    assert not list((tmp_path / "a").rglob("*_2_*"))
    copies = json.loads((tmp_path / "a" / "pfcvr.json").read_text())["official"]["copies"]
    assert copies == {
        "seed": 3,
        "Darkimage": {"gamma": 2.0},
        "Lightimage": {"gamma": 0.5},
        "Noisyimage": {"sigma": 0.05},
    }


def test_captions_that_the_text_tower_cuts_are_counted(small, tmp_path) -> None:
    small.add_images({"1": 1, "2": 1})
    seal_all(small, {"1": "train", "2": "test"})
    shutil.rmtree(small.workspace.folder("caption"))
    texts = {small.images[0].image_id: ["car " * 75, "car " * 76], small.images[1].image_id: ["car " * 200]}
    origin = CaptionOrigin(captioner="import")
    records = [Caption(image_id=i, texts=tuple(own), origin=origin) for i, own in texts.items()]
    small.seal("caption", Caption, records)
    export_to(small, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "pfcvr.json").read_text())["official"]["captions_over_77_tokens"] == 2
    assert [len(entry["captions"]) for entry in entries_of(tmp_path / "out")] == [2, 1]


def test_parts_are_needed(small, tmp_path) -> None:
    small.add_images({"1": 1, "2": 1})
    small.add_captions()
    small.add_split(val=0)
    with pytest.raises(WorkspaceError, match="stage 'parts' is missing; run: pfcvr-data parts"):
        export_to(small, tmp_path / "out")


STAND_IN = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("released_reader", {reader!r})
reader = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = reader
spec.loader.exec_module(reader)


class Loader(list):
    @property
    def dataset(self):
        return self


def build_dataloader(args):
    found = reader.read(reader.Path(args.root_dir) / args.dataset_name, args.augmentation)
    assert (args.training, args.MLM, args.val_dataset, tuple(args.img_size)) == (True, True, "test", (384, 384))
    train = Loader({{"pids": [row.label], "mask": row.removed}} for row in found.train)
    return train, Loader(found.gallery), Loader(found.queries), len({{row.label for row in found.train}})
"""


def test_script_that_runs_the_released_loader_draws_from_it_and_compares_the_counts(small, tmp_path) -> None:
    """A stand-in takes the place of the released code."""
    small.add_images({"1": 2, "2": 2, "3": 1})
    seal_all(small, {"1": "train", "2": "test", "3": "val"})
    out = tmp_path / "out"
    export_to(small, out)
    build = tmp_path / "checkout" / "datasets" / "build.py"
    build.parent.mkdir(parents=True)
    (build.parent / "__init__.py").touch()
    build.write_text(STAND_IN.format(reader=str(Path(__file__).with_name("released_reader.py"))))
    script = Path(__file__).parents[2] / "official_loader_check.py"
    command = [sys.executable, str(script), str(build.parent.parent), str(out), "--batches", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["counts"] == {"train_rows": 3, "identities": 2, "gallery": 2, "queries": 2}
    assert found["train"] == [{"pids": ["list", 1], "mask": ["int64", [24, 24]]}] * 2
    assert [len(found[name]) for name in ("gallery", "queries")] == [2, 2]
    manifest = json.loads((out / "pfcvr.json").read_text())
    manifest["splits"]["val"]["captions"] = 3
    (out / "pfcvr.json").write_text(json.dumps(manifest))
    failed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "its manifest says {'train_rows': 3, 'identities': 2, 'gallery': 2, 'queries': 3}" in failed.stderr
