"""The folder of rendered vehicles: layout, truth, determinism, and what happens when it is interrupted."""

import hashlib
import json
import re
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from pfcvr.config import SynthConfig
from pfcvr.errors import SourceError
from pfcvr.pipeline.synth import generate
from pfcvr.pipeline.synth.attributes import PART_TYPES, family
from pfcvr.records import PARTS

CONFIG = SynthConfig(identities=7, images_per_identity=3, size=64, seed=4)
NUMPY_2 = "ignore:__array__ implementation:DeprecationWarning"  # raised inside pycocotools
COLOURS = {"black", "blue", "brown", "cyan", "dark gray", "golden", "gray", "green", "purple", "red", "white", "yellow"}
TYPES = {
    "sedan", "SUV", "business purpose vehicle/MPV", "minivan", "minibus", "light passenger vehicle", "large-sized bus",
    "pickup truck", "small-sized truck", "HGV/large truck", "bulk lorry/fence truck", "tank car/tanker", "others",
}  # fmt: skip


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("synth") / "vehicles"
    generate(out, CONFIG)
    return out


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_tree_is_that_of_veri_wild(tree):
    images = sorted(str(path.relative_to(tree)) for path in (tree / "images").rglob("*.jpg"))
    assert images == [f"images/{v:05d}/{(v - 1) * 3 + k:06d}.jpg" for v in range(1, 8) for k in (1, 2, 3)]
    lines = (tree / "train_test_split" / "vehicle_info.txt").read_text().splitlines()
    assert lines[0] == "id/image;Camera ID;Time;Model;Type;Color"
    fields = [line.split(";") for line in lines[1:]]
    assert [f"images/{row[0]}.jpg" for row in fields] == images
    for key, camera, time, model, kind, colour in fields:
        assert re.fullmatch(r"\d{5}/\d{6}", key)
        assert re.fullmatch(r"\d+", camera)
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", time)
        assert model.startswith("Rendered ")
        assert kind in TYPES
        assert colour in COLOURS


def test_the_lists_cover_every_image_once_with_one_query_for_each_test_vehicle(tree):
    folder = tree / "train_test_split"
    train, gallery, query = (
        (folder / f"{name}.txt").read_text().split() for name in ("train_list", "test_3000", "test_3000_query")
    )
    every = [str(path.relative_to(tree / "images").with_suffix("")) for path in (tree / "images").rglob("*.jpg")]
    assert Counter(train + gallery + query) == Counter(every)
    tested = {name.split("/")[0] for name in gallery}
    assert tested
    assert sorted(tested) == [name.split("/")[0] for name in query]
    assert not tested & {name.split("/")[0] for name in train}


def test_images_decode_at_the_size_asked_for(tree):
    for path in (tree / "images").rglob("*.jpg"):
        assert max(cv2.imread(str(path)).shape[:2]) == 64


def test_an_identity_is_seen_by_several_cameras_and_at_least_six_are_used(tmp_path):
    summary = generate(tmp_path / "out", SynthConfig(identities=3, images_per_identity=8, size=32, seed=0))
    cameras: dict[str, set[str]] = {}
    for line in (tmp_path / "out/train_test_split/vehicle_info.txt").read_text().splitlines()[1:]:
        key, camera, *_ = line.split(";")
        cameras.setdefault(key.split("/")[0], set()).add(camera)
    assert all(len(seen) == 8 for seen in cameras.values())
    assert len(set.union(*cameras.values())) == summary.cameras >= 6


@pytest.mark.filterwarnings(NUMPY_2)
def test_the_coco_file_is_read_by_pycocotools_and_its_masks_lie_on_the_vehicle(tree):
    coco = COCO(str(tree / "parts.coco.json"))
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(PARTS)
    assert len(coco.imgs) == 21
    for number, image in coco.imgs.items():
        pixels = cv2.imread(str(tree / "images" / image["file_name"]))
        assert pixels.shape[:2] == (image["height"], image["width"])
        found = coco.loadAnns(coco.getAnnIds(imgIds=number))
        assert len(found) >= 4
        for annotation in found:
            mask = coco.annToMask(annotation)
            assert mask.shape == pixels.shape[:2]
            assert mask.sum() == annotation["area"] > 0
            x, y, width, height = (int(value) for value in annotation["bbox"])
            assert mask[y : y + height, x : x + width].sum() == mask.sum()
            assert mask[y : y + height, x].any()
            assert mask[y, x : x + width].any()


def test_captions_and_phrases_name_images_of_the_tree_and_parts_with_masks(tree):
    coco = COCO(str(tree / "parts.coco.json"))
    masked: dict[str, set[str]] = {}
    for annotation in coco.anns.values():
        image = coco.imgs[annotation["image_id"]]["image_id"]
        masked.setdefault(image, set()).add(PARTS[annotation["category_id"] - 1])
    captions = rows(tree / "captions.jsonl")
    assert len(captions) == 21
    for row in captions:
        assert (tree / "images" / row["vehicle_id"] / f"{row['image_id']}.jpg").is_file()
        assert len(row["captions"]) == 2
        assert set(row["part_texts"]) <= masked[row["image_id"]]
        assert row["part_texts"]


def test_truth_holds_the_attributes_and_family_of_every_vehicle(tree):
    truth = rows(tree / "truth.jsonl")
    assert [row["vehicle_id"] for row in truth] == [f"{v:05d}" for v in range(1, 8)]
    assert [row["family_id"] for row in truth] == ["00001"] * 3 + ["00002"] * 3 + ["00003"]
    assert truth[4]["attributes"] == json.loads(json.dumps(asdict(family(4, 1)[1])))
    source = json.loads((tree / "source.json").read_text())
    assert source["licence"] == "CC0-1.0"
    assert source["redistribute_images"] is True
    assert source["generator"] == CONFIG.model_dump()
    assert "CC0 1.0" in (tree / "LICENSE.txt").read_text()


def test_members_of_a_family_differ_in_one_or_two_parts_and_in_nothing_else():
    for index in range(200):
        members = family(7, index)
        for a, b in ((0, 1), (0, 2), (1, 2)):
            differing = {name for name, value in asdict(members[a]).items() if value != asdict(members[b])[name]}
            assert 1 <= len(differing) <= 2
            assert differing <= set(PART_TYPES)


def test_every_body_paint_and_part_value_is_drawn():
    drawn = Counter()
    for index in range(400):
        attributes = asdict(family(1, index)[0])
        drawn.update([attributes["body"], attributes["paint"]])
        drawn.update(f"{part}.{k}.{v}" for part in PART_TYPES for k, v in attributes[part].items())
    assert len(drawn) == 10 + 12 + sum((4, 8, 12, 6, 6, 7))
    assert min(drawn.values()) >= 8


def test_the_same_settings_give_the_same_bytes(tree, tmp_path):
    generate(tmp_path / "again", CONFIG)
    assert digests(tmp_path / "again") == digests(tree)


def test_another_seed_gives_other_vehicles(tree, tmp_path):
    generate(tmp_path / "other", SynthConfig(identities=7, images_per_identity=3, size=64, seed=5))
    assert rows(tmp_path / "other/truth.jsonl")[0]["attributes"] != rows(tree / "truth.jsonl")[0]["attributes"]


def test_more_identities_leave_the_earlier_ones_as_they_are(tree, tmp_path):
    larger = tmp_path / "larger"
    generate(larger, SynthConfig(identities=10, images_per_identity=3, size=64, seed=4))
    small, large = digests(tree / "images"), digests(larger / "images")
    assert len(large) == 30
    assert {name: large[name] for name in small} == small
    assert rows(larger / "captions.jsonl")[:21] == rows(tree / "captions.jsonl")
    assert rows(larger / "truth.jsonl")[:7] == rows(tree / "truth.jsonl")


def test_a_finished_folder_is_left_alone(tree):
    before = {path: path.stat().st_mtime_ns for path in tree.rglob("*")}
    counted = []
    summary = generate(tree, CONFIG, progress=counted.append)
    assert sum(counted) == summary.images == 21
    assert summary.vehicles == 7
    assert {path: path.stat().st_mtime_ns for path in tree.rglob("*")} == before


def test_a_folder_of_other_settings_is_refused(tree):
    with pytest.raises(SourceError) as caught:
        generate(tree, SynthConfig(identities=9, images_per_identity=3, size=64, seed=4))
    assert str(caught.value) == (
        f"{tree}: holds a data set made with other settings (source.json tells which), and it is not replaced; "
        "name another folder or delete this one"
    )


def test_a_folder_that_is_not_ours_is_refused_and_kept(tmp_path):
    (tmp_path / "holiday.txt").write_text("photos")
    with pytest.raises(SourceError) as caught:
        generate(tmp_path, CONFIG)
    assert str(caught.value) == (
        f"{tmp_path}: the folder is not empty and was not made by pfcvr-data synth; name a new or empty folder"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.txt"]
    with pytest.raises(SourceError, match="a file is in the way"):
        generate(tmp_path / "holiday.txt", CONFIG)


class _Pulled(Exception):
    """The plug."""


@pytest.mark.parametrize("after", [1, 8, 21])
def test_an_interrupted_folder_is_completed_by_the_same_command(tree, tmp_path, after):
    out = tmp_path / "out"
    done = []

    def pull_the_plug(count: int) -> None:
        done.append(count)
        if len(done) == after:
            raise _Pulled

    with pytest.raises(_Pulled):
        generate(out, CONFIG, progress=pull_the_plug)
    assert not (out / "source.json").exists()
    (out / "images" / "99999").mkdir()
    generate(out, CONFIG)
    assert digests(out) == digests(tree)
    assert not (out / "images" / "99999").exists()


@pytest.mark.filterwarnings(NUMPY_2)
def test_masks_in_the_file_lie_on_the_lamps_in_the_pictures(tree):
    """Lamps are the brightest thing on most vehicles: under their masks, but not under mirrored masks."""
    coco = COCO(str(tree / "parts.coco.json"))
    lights = PARTS.index("lights") + 1
    straight, mirrored = [], []
    for number, image in coco.imgs.items():
        pixels = cv2.imread(str(tree / "images" / image["file_name"])).max(axis=2).astype(float)
        found = coco.loadAnns(coco.getAnnIds(imgIds=number, catIds=[lights]))
        lamps = np.logical_or.reduce([coco.annToMask(annotation).astype(bool) for annotation in found])
        straight.append(pixels[lamps].mean())
        mirrored.append(pixels[lamps[:, ::-1]].mean())
    assert np.mean(straight) > np.mean(mirrored) + 25
    assert np.mean(np.array(straight) > np.array(mirrored)) > 0.75
