"""A box that is no box costs itself alone, whichever file it stands in, and the row that has it is named."""

import json

import pyarrow.parquet as parquet
import pytest

from pfcvr.config import ExportConfig, ImportConfig, MergeConfig, PartsConfig
from pfcvr.pipeline import export, import_, merge, parts
from pfcvr.records import HumanEdit, ImageParts
from pfcvr.stage import RunOptions
from pfcvr.store import Workspace

QUIET = RunOptions(quiet=True)
NAN, INFINITE = float("nan"), float("inf")
BAD_CORNERS = [(NAN, 2, 9, 9), (1, -INFINITE, 9, 9), (1, 2, INFINITE, 9), (9, 2, 1, 9), (1, 9, 9, 2), (5, 5, 5, 5)]
IMAGE = "00001/000001"
CVAT = """<annotations><image id="0" name="00001/000001.png" width="40" height="24">
<box label="wheels" xtl="1" ytl="2" xbr="9" ybr="9"/>
<box label="roof" xtl="{}" ytl="{}" xbr="{}" ybr="{}"/>
</image></annotations>"""


def coco(corners: tuple[float, ...]) -> str:
    x0, y0, x1, y1 = corners
    boxes = [[1, 2, 8, 7], [x0, y0, x1 - x0, y1 - y0]]
    return json.dumps(
        {
            "images": [{"id": 1, "file_name": f"{IMAGE}.png"}],
            "categories": [{"id": 1, "name": "wheels"}],
            "annotations": [{"id": n, "image_id": 1, "category_id": 1, "bbox": box} for n, box in enumerate(boxes)],
        }
    )


def label_studio(corners: tuple[float, ...]) -> str:
    results = []
    for x0, y0, x1, y1 in ((1, 2, 9, 9), corners):
        shape = {"x": x0 / 0.4, "y": y0 / 0.24, "width": (x1 - x0) / 0.4, "height": (y1 - y0) / 0.24}
        value = {**shape, "rotation": 0, "rectanglelabels": ["wheels"]}
        size = {"original_width": 40, "original_height": 24}
        results.append({"type": "rectanglelabels", **size, "value": value})
    task = {"id": 7, "data": {"image": f"{IMAGE}.png"}, "annotations": [{"id": 1, "result": results}]}
    return json.dumps([task])


@pytest.mark.parametrize("corners", BAD_CORNERS)
@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("people.coco.json", coco, "people.coco.json:annotation 1"),
        ("tasks.json", label_studio, "tasks.json:task 7 region 2"),
        ("people.xml", lambda corners: CVAT.format(*corners), "people.xml:image 0 shape 2"),
    ],
)
def test_a_box_drawn_by_people_that_is_none_is_rejected_alone(whole, corners, name, content, place) -> None:
    file = whole.source / name
    file.write_text(content(corners))
    summary = merge.run(whole.workspace, MergeConfig(file=file), QUIET)
    assert {row.subject: row.reason for row in whole.workspace.rejected("merge")} == {place: "malformed_box"}
    assert summary.kept == 1
    (edit,) = whole.workspace.records("merge", HumanEdit)
    assert [one.part for one in edit.parts.instances] == ["wheels"]
    assert edit.parts.instances[0].box_xyxy == pytest.approx((1, 2, 9, 9))


def altered_export(whole, folder, change) -> Workspace:
    """The data set exported, ``change`` made to the rows of its train shard, and imported again."""
    export.run(whole.workspace, ExportConfig(out=folder / "dataset"), QUIET)
    shard = next((folder / "dataset" / "data").glob("train-*.parquet"))
    table = parquet.read_table(shard)
    rows = table.to_pylist()
    change(rows)
    parquet.write_table(type(table).from_pylist(rows, table.schema), shard)
    again = Workspace(folder / "again", create=True)
    import_.run(again, ImportConfig(source=folder / "dataset"), QUIET)
    return again


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        *[({"box_xyxy": list(corners)}, "malformed_box") for corners in BAD_CORNERS],
        ({"box_xyxy": [1.0, 2.0]}, "malformed_box"),
        ({"box_xyxy": [50.0, 2.0, 60.0, 9.0]}, "out_of_frame"),
        ({"score": NAN}, "malformed_score"),
        ({"part": "hood"}, "unknown_category"),
        ({"mask": {"size": [24, 41], "counts": "0"}}, "size_mismatch"),
        ({"mask": {"size": [24, 40], "counts": "zz"}}, "malformed_mask"),
    ],
)
def test_a_part_of_an_exported_data_set_that_is_none_is_rejected_alone(whole, tmp_path, change, reason) -> None:
    changed: dict[str, list] = {}

    def damage(rows: list[dict]) -> None:
        row = next(row for row in rows if len(row["parts"]) == 2)
        row["parts"][0] |= change
        changed[row["image_id"]] = row["parts"][1]["box_xyxy"]

    again = altered_export(whole, tmp_path, damage)
    summary = parts.run(again, PartsConfig.model_validate({"grid": "5x4"}), QUIET)
    ((image_id, kept_box),) = changed.items()
    assert {row.subject: row.reason for row in again.rejected("parts")} == {f"{image_id}:part 1": reason}
    assert (summary.kept, summary.rejected) == (14, 1)
    found = {row.image_id: row for row in again.records("parts", ImageParts)}
    assert [list(one.box_xyxy) for one in found[image_id].instances] == [kept_box]
    others = {row.image_id: row for row in whole.workspace.records("parts", ImageParts)}
    del found[image_id], others[image_id]
    assert {name: row.instances for name, row in found.items()} == {name: row.instances for name, row in others.items()}


def test_a_patch_grid_of_an_exported_data_set_that_is_none_is_made_anew(whole, tmp_path) -> None:
    changed: list[str] = []

    def damage(rows: list[dict]) -> None:
        rows[0]["part_grid"][0][0][0] = 7
        changed.append(rows[0]["image_id"])

    again = altered_export(whole, tmp_path, damage)
    parts.run(again, PartsConfig.model_validate({"grid": "5x4"}), QUIET)
    assert {row.subject: row.reason for row in again.rejected("parts")} == {f"{changed[0]}:part_grid": "malformed_grid"}
    (before,) = [row.grid for row in whole.workspace.records("parts", ImageParts) if row.image_id == changed[0]]
    (after,) = [row.grid for row in again.records("parts", ImageParts) if row.image_id == changed[0]]
    assert (after.rule, after.cells) == ("stretch-coverage", before.cells)
