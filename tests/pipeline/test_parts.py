"""Parts from COCO files: every form is taken, every bad annotation is rejected alone, with its place and reason."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pfcvr import geometry
from pfcvr.config import PartsConfig
from pfcvr.errors import SourceError, UsageError, WorkspaceError
from pfcvr.pipeline import parts
from pfcvr.records import ImageParts, ImageRecord, Selected
from pfcvr.stage import RunOptions

QUIET = RunOptions(quiet=True)
WIDTH, HEIGHT = 40, 24
CATEGORIES = [
    {"id": 1, "name": "windows"},
    {"id": 2, "name": "Wheel"},
    {"id": 3, "name": " ROOF "},
    {"id": 9, "name": "hood"},
]
GOOD = {"image_id": 1, "category_id": 1, "bbox": [2, 3, 10, 6]}


@pytest.fixture
def cars(small):
    """Three images of two vehicles."""
    small.add_images({"00001": 2, "00002": 1}, size=(WIDTH, HEIGHT))
    return small


def coco_file(folder: Path, annotations: list[Any], **replaced: Any) -> Path:
    path = folder / "parts.coco.json"
    numbered = [{"id": 10 + n, **one} if isinstance(one, dict) else one for n, one in enumerate(annotations)]
    images = [{"id": 1, "file_name": "00001/000001.png", "width": WIDTH, "height": HEIGHT}]
    path.write_text(json.dumps({"images": images, "annotations": numbered, "categories": CATEGORIES} | replaced))
    return path


def run_parts(small, path: Path, **settings: Any):
    return parts.run(small.workspace, PartsConfig.model_validate({"annotations": path, **settings}), QUIET)


def instances(small, image_id: str = "00001/000001"):
    return {row.image_id: row for row in small.workspace.records("parts", ImageParts)}[image_id].instances


def rejected(small) -> list[tuple[str, str]]:
    return [(row.subject, row.reason) for row in small.workspace.rejected("parts")]


def test_polygon_compressed_and_plain_run_lengths_give_the_same_mask(cars, tmp_path) -> None:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[4:10, 5:20] = True
    compressed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    plain = geometry.rle_runs(compressed).tolist()
    forms = [[[5, 4, 20, 4, 20, 10, 5, 10]], {"size": [HEIGHT, WIDTH], "counts": compressed}]
    forms.append({"size": [HEIGHT, WIDTH], "counts": plain})
    run_parts(cars, coco_file(tmp_path, [{"image_id": 1, "category_id": 1, "segmentation": form} for form in forms]))
    for instance in instances(cars):
        assert np.array_equal(geometry.decode_mask(instance.mask), mask)
        assert (instance.part, instance.score, instance.box_xyxy) == ("windows", 1.0, (5, 4, 20, 10))
    assert len(instances(cars)) == 3
    assert rejected(cars) == []


def test_box_alone_is_kept_without_a_mask_and_fills_its_cells(cars, tmp_path) -> None:
    run_parts(
        cars,
        coco_file(tmp_path, [{"image_id": 1, "category_id": 2, "bbox": [10, 6, 20, 12], "score": 0.25}]),
        grid="4x4",
    )
    (wheel,) = instances(cars)
    assert (wheel.part, wheel.box_xyxy, wheel.score, wheel.mask) == ("wheels", (10, 6, 30, 18), 0.25, None)
    (row,) = [row for row in cars.workspace.records("parts", ImageParts) if row.instances]
    grid = geometry.grid_array(row.grid)
    assert grid[1].tolist() == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert grid.sum() == 4


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("window", "windows"),
        ("Windows", "windows"),
        (" ROOFS ", "roof"),
        ("roof", "roof"),
        ("Mirror", "mirrors"),
        ("LIGHT", "lights"),
    ],
)
def test_category_names_are_taken_in_either_number_and_case(cars, tmp_path, name, part) -> None:
    run_parts(cars, coco_file(tmp_path, [GOOD], categories=[{"id": 1, "name": name}]))
    assert [instance.part for instance in instances(cars)] == [part]


@pytest.mark.parametrize(
    ("bad", "reason", "detail"),
    [
        ({"category_id": 9}, "unknown_category", "category 'hood' is none of: windows, wheels, doors"),
        ({"category_id": 77}, "unknown_category", "category number 77, which has no name, is none of"),
        ({"bbox": [50, 5, 10, 10]}, "out_of_frame", "lies outside the 40 x 24 image"),
        ({"segmentation": [[50, 5, 60, 5, 55, 20]]}, "out_of_frame", "polygon lies outside the 40 x 24 image"),
        ({"bbox": [5, 5, 0, 10]}, "malformed_box", "is not [x, y, width, height] with a positive size"),
        ({"bbox": [5, 5, 10]}, "malformed_box", "is not [x, y, width, height]"),
        ({"bbox": [5, "a", 10, 10]}, "malformed_box", "is not [x, y, width, height]"),
        ({"bbox": None}, "malformed_box", "bbox None is not"),
        ({"bbox": [5, 10**400, 10, 10]}, "malformed_box", "is not [x, y, width, height]"),
        ({"score": 1.5}, "malformed_score", "score 1.5 is not a number from 0 to 1"),
        ({"score": "high"}, "malformed_score", "score 'high' is not a number"),
        ({"segmentation": [[1, 1, 5, 5]]}, "malformed_mask", "at least three points"),
        ({"segmentation": [1, 1, 5, 5, 3, 9]}, "malformed_mask", "a polygon is not a list of coordinates"),
        ({"segmentation": [[1, 1, 5, None, 3, 9]]}, "malformed_mask", "not a finite number"),
        ({"segmentation": "text"}, "malformed_mask", "neither polygons nor run lengths"),
        ({"segmentation": {"size": [24, 40], "counts": "zzz"}}, "malformed_mask", "cannot occur in run-length counts"),
        (
            {"segmentation": {"size": [24, 40], "counts": "5"}},
            "malformed_mask",
            "the runs do not fill the 960 pixels of 24 x 40",
        ),
        ({"segmentation": {"size": [24, 40], "counts": [-1, 961]}}, "malformed_mask", "plain runs do not add up"),
        ({"segmentation": {"size": [24, 40], "counts": None}}, "malformed_mask", "neither text nor a list"),
        (
            {"segmentation": {"size": [40, 24], "counts": "hm0"}},
            "size_mismatch",
            "mask of size [40, 24], the image has [24, 40]",
        ),
        ({"segmentation": {"size": [24, 40], "counts": [960]}}, "empty_mask", "covers no pixel"),
        ({"image_id": 5}, "unknown_image", "image 5 is not in the list of images"),
        ({"image_id": [1]}, "malformed_annotation", "needs image_id and category_id"),
    ],
)
def test_bad_annotation_is_rejected_alone_with_its_reason(cars, tmp_path, bad, reason, detail) -> None:
    summary = run_parts(cars, coco_file(tmp_path, [GOOD, GOOD | bad, {**GOOD, "category_id": 2}]))
    assert rejected(cars) == [("parts.coco.json:annotation 11", reason)]
    assert detail in next(cars.workspace.rejected("parts")).detail
    assert [instance.part for instance in instances(cars)] == ["windows", "wheels"]
    assert (summary.rows_in, summary.kept, summary.reasons) == (4, 3, {reason: 1})


@pytest.mark.parametrize("broken", ["text", 7, None, [], {"id": 3}])
def test_annotation_that_is_no_object_with_keys_is_rejected_alone(cars, tmp_path, broken) -> None:
    run_parts(cars, coco_file(tmp_path, [GOOD, broken]))
    assert [reason for _, reason in rejected(cars)] == ["malformed_annotation"]
    assert len(instances(cars)) == 1


def test_box_that_leaves_the_image_is_cut_to_it(cars, tmp_path) -> None:
    run_parts(cars, coco_file(tmp_path, [{**GOOD, "bbox": [-5, 20, 10, 10]}]))
    assert instances(cars)[0].box_xyxy == (0, 20, 5, 24)


def test_images_may_be_named_by_id_stem_path_or_vehicle_and_stem(cars, tmp_path) -> None:
    names = ["00001/000001", "000001", "000001.png", "images/00001/000001.png", "./00001\\000001.png"]
    names += ["00001_000001.png", "00001_000001"]
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    annotations = [{**GOOD, "image_id": number} for number in range(len(names))]
    run_parts(cars, coco_file(tmp_path, annotations, images=images))
    assert len(instances(cars)) == len(names)
    assert rejected(cars) == []


def test_images_that_are_not_in_the_workspace_are_reported_once_each(cars, tmp_path) -> None:
    images = [{"id": 1, "file_name": "000001.png"}, {"id": 2, "file_name": "other/000009.png"}, {"id": 3}]
    annotations = [GOOD, {**GOOD, "image_id": 2}, {**GOOD, "image_id": 2}]
    run_parts(cars, coco_file(tmp_path, annotations, images=images))
    assert rejected(cars) == [
        ("parts.coco.json:image 2", "unknown_image"),
        ("parts.coco.json:images[2]", "malformed_image"),
    ]
    assert len(instances(cars)) == 1


def test_stem_of_two_images_is_ambiguous(small, tmp_path) -> None:
    small.add_images({"00001": 1, "00002": 1})
    (small.source / "images/00002/000001.png").write_bytes((small.source / "images/00002/000002.png").read_bytes())
    twin = small.images[1].model_copy(update={"image_id": "00002/000001", "path": "images/00002/000001.png"})
    shutil.rmtree(small.workspace.folder("import"))
    source = {"name": "small", "root": str(small.source), "format": "veri-wild"}
    small.seal("import", ImageRecord, [small.images[0], twin], {"sources": [source]})
    images = [{"id": 1, "file_name": "000001.png"}, {"id": 2, "file_name": "00002/000001.png"}]
    run_parts(small, coco_file(tmp_path, [GOOD, {**GOOD, "image_id": 2}], images=images))
    assert rejected(small) == [("parts.coco.json:image 1", "ambiguous_name")]
    assert len(instances(small, "00002/000001")) == 1


def test_images_that_select_left_out_are_told_from_unknown_ones(cars, tmp_path) -> None:
    chosen = Selected(image_id=cars.images[0].image_id, vehicle_id=cars.images[0].vehicle_id)
    cars.seal("select", Selected, [chosen])
    names = ["00001/000001.png", "000003.png", "other/000009.png"]
    images = [{"id": number, "file_name": name} for number, name in enumerate(names, start=1)]
    annotations = [GOOD, {**GOOD, "image_id": 2}, {**GOOD, "image_id": 3}]
    summary = run_parts(cars, coco_file(tmp_path, annotations, images=images))
    assert rejected(cars) == [
        ("parts.coco.json:image 2", "not_selected"),
        ("parts.coco.json:image 3", "unknown_image"),
    ]
    assert next(cars.workspace.rejected("parts")).detail == "00002/000003 was left out by pfcvr-data select"
    assert (summary.kept, len(instances(cars))) == (1, 1)


def test_hundreds_of_images_that_select_left_out_do_not_stop_the_run(small, tmp_path) -> None:
    small.add_images({"00001": 1, "00002": 250}, size=(WIDTH, HEIGHT))
    small.seal("select", Selected, [Selected(image_id="00001/000001", vehicle_id="00001")])
    images = [{"id": number, "file_name": image.image_id} for number, image in enumerate(small.images, start=1)]
    assert run_parts(small, coco_file(tmp_path, [GOOD], images=images)).reasons == {"not_selected": 250}


def test_image_of_another_size_loses_its_annotations_and_says_so(cars, tmp_path) -> None:
    images = [
        {"id": 1, "file_name": "000001.png", "width": HEIGHT, "height": WIDTH},
        {"id": 2, "file_name": "000002.png"},
    ]
    run_parts(cars, coco_file(tmp_path, [GOOD, {**GOOD, "image_id": 2}], images=images))
    (row,) = cars.workspace.rejected("parts")
    assert (row.subject, row.reason) == ("parts.coco.json:image 1", "size_mismatch")
    assert row.detail == "24 x 40 here, the image has 40 x 24 pixels after EXIF rotation"
    assert instances(cars) == ()
    assert len(instances(cars, "00001/000002")) == 1


def test_image_without_annotation_keeps_an_empty_record(cars, tmp_path) -> None:
    summary = run_parts(cars, coco_file(tmp_path, [GOOD]))
    assert (summary.kept, summary.rejected) == (3, 0)
    assert instances(cars, "00002/000003") == ()
    assert summary.notes["coverage"]["windows"] == pytest.approx(1 / 3, abs=1e-4)
    assert summary.notes["instances"]["windows"] == 1
    assert summary.notes["grid"] == {"rule": "stretch-coverage", "rows": 24, "cols": 24, "coverage": 0.5}


def test_hundreds_of_foreign_categories_do_not_stop_the_run(cars, tmp_path) -> None:
    annotations = [GOOD] + [{**GOOD, "category_id": 9}] * 500
    summary = run_parts(cars, coco_file(tmp_path, annotations))
    assert summary.reasons == {"unknown_category": 500}


def test_annotations_that_share_an_id_are_rejected_by_their_place(cars, tmp_path) -> None:
    bad = {**GOOD, "id": 4, "category_id": 9}
    run_parts(cars, coco_file(tmp_path, [GOOD, bad, bad, {**bad, "id": "4"}]))
    assert [subject for subject, _ in rejected(cars)] == [f"parts.coco.json:annotations[{n}]" for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"images": [', "not readable as JSON .*the file may be cut off, get it anew"),
        ("", "not readable as JSON"),
        ("[" * 200_000, "not readable as JSON"),
        ("[]", "it has no list 'images'"),
        ('{"image_id": "a/1", "caption": "A car."}\n' * 2, "not a COCO annotation file, it has no list 'images'"),
        ('{"images": [], "annotations": []}', "it has no list 'categories'; expected images, annotations, categories"),
        ('{"images": {}, "annotations": [], "categories": []}', "it has no list 'images'"),
    ],
)
def test_file_that_is_no_coco_file_is_refused_in_one_sentence(cars, tmp_path, content, sentence) -> None:
    path = tmp_path / "parts.json"
    path.write_text(content)
    with pytest.raises(SourceError, match=sentence) as caught:
        run_parts(cars, path)
    assert str(caught.value).startswith(str(path))


def test_missing_file_is_refused_and_so_is_none_at_all(cars, tmp_path) -> None:
    with pytest.raises(SourceError, match="there is no such annotation file; check --annotations"):
        run_parts(cars, tmp_path / "nowhere.json")
    with pytest.raises(SourceError, match="is a folder without a part mask .* or the COCO file itself"):
        run_parts(cars, tmp_path)
    with pytest.raises(UsageError, match=r"needs a COCO file or a folder of MVP masks, since .* with --annotations"):
        parts.run(cars.workspace, PartsConfig(), QUIET)


def test_file_about_other_images_is_refused_before_anything_is_sealed(cars, tmp_path) -> None:
    path = coco_file(tmp_path, [GOOD], images=[{"id": 1, "file_name": "elsewhere.jpg"}])
    with pytest.raises(
        SourceError, match=r"no annotation fits an image of .* \(1 x unknown_image\); check that file_name"
    ):
        run_parts(cars, path)
    assert cars.workspace.manifest("parts") is None


def test_running_again_does_nothing_and_a_changed_file_is_refused(cars, tmp_path) -> None:
    path = coco_file(tmp_path, [GOOD])
    run_parts(cars, path)
    (tmp_path / "moved").mkdir()
    moved = path.rename(tmp_path / "moved" / path.name)
    assert run_parts(cars, moved).already_done
    with pytest.raises(WorkspaceError, match="annotations .* rerun with --overwrite"):
        run_parts(cars, coco_file(tmp_path, [GOOD, GOOD]))


def test_half_characters_in_ids_and_names_cost_only_their_own_rows(cars, tmp_path) -> None:
    half = "\ud800"
    annotations = [GOOD, {**GOOD, "id": half, "category_id": 7}, {**GOOD, "image_id": half}]
    images = [
        {"id": 1, "file_name": "00001/000001.png"},
        {"id": half, "file_name": "00001/000002.png"},
        {"id": 3, "file_name": half},
    ]
    path = coco_file(tmp_path, annotations, images=images, categories=[*CATEGORIES, {"id": 7, "name": half}])
    run_parts(cars, path)
    assert len(instances(cars)) == 1
    assert rejected(cars) == [
        ("parts.coco.json:annotation 12", "malformed_annotation"),
        ("parts.coco.json:annotations[1]", "unknown_category"),
        ("parts.coco.json:image 3", "unknown_image"),
        ("parts.coco.json:images[1]", "malformed_image"),
    ]


def test_a_number_too_long_to_read_is_one_sentence(cars, tmp_path) -> None:
    path = tmp_path / "long.json"
    path.write_text('{"images": [' + "9" * 5000 + '], "annotations": [], "categories": []}')
    with pytest.raises(SourceError, match="long.json: not readable as JSON .*; the file may be cut off, get it anew"):
        run_parts(cars, path)


def test_more_rejected_rows_than_a_page_are_all_kept_once(cars, tmp_path) -> None:
    annotations = [GOOD] + [{**GOOD, "category_id": 9}] * 1203
    run_parts(cars, coco_file(tmp_path, annotations))
    assert len({subject for subject, _ in rejected(cars)}) == len(rejected(cars)) == 1203
