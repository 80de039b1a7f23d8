"""Exports of Label Studio and CVAT, typed by hand as these tools write them, on images of 40 x 24 pixels."""

import json

import numpy as np
import pytest

from pfcvr import geometry
from pfcvr.config import MergeConfig
from pfcvr.errors import NothingKept, SourceError
from pfcvr.pipeline import merge
from pfcvr.records import HumanEdit, PartInstance
from pfcvr.stage import RunOptions, StageSummary

QUIET = RunOptions(quiet=True)
# 3840 RGBA bytes: a word is 8 bits; run lengths take 3, 4, 8 or 16 bits; 1000 bytes of 0 (a run), 5 bytes written out,
# 3 bytes of 255, 912 bytes of 255, the rest 0. So the alpha byte is first opaque at byte 1007 = pixel 251.
BRUSH_BITS = (
    "00000000000000000000111100000000" + "00111" + "0010" + "0011" + "0111" + "1111"
    "1" + "11" + "0000001111100111" + "00000000"
    "0" + "00" + "100" + "00000001" + "00000010" + "00000011" + "00000100" + "00000101"
    "1" + "00" + "010" + "11111111"
    "1" + "11" + "0000001110001111" + "11111111"
    "1" + "11" + "0000011101111111" + "00000000"
)
BRUSH = [int(BRUSH_BITS[place : place + 8].ljust(8, "0"), 2) for place in range(0, len(BRUSH_BITS), 8)]


def merged(small, name: str, content: str) -> StageSummary:
    path = small.source / name
    path.write_text(content)
    return merge.run(small.workspace, MergeConfig(file=path), QUIET)


def edits(small) -> dict[str, HumanEdit]:
    return {edit.image_id: edit for edit in small.workspace.records("merge", HumanEdit)}


def instances(small, image_id: str = "00001/000001") -> tuple[PartInstance, ...]:
    return edits(small)[image_id].parts.instances


def reasons(small) -> dict[str, str]:
    return {row.subject: row.reason for row in small.workspace.rejected("merge")}


def region(kind: str, label: str, **value) -> dict:
    return {
        "id": "x",
        "type": kind,
        "from_name": "label",
        "to_name": "image",
        "original_width": 40,
        "original_height": 24,
        "image_rotation": 0,
        "value": {**value, kind: [label]},
    }


def task(number: int, image: str, *results: dict, **annotation) -> dict:
    submitted = {
        "id": number,
        "completed_by": 3,
        "was_cancelled": False,
        "ground_truth": False,
        "created_at": "2026-10-02T09:00:00.000000Z",
        "updated_at": "2026-10-02T09:10:00.000000Z",
        "result": list(results),
    }
    return {"id": number, "data": {"image": image}, "annotations": [submitted | annotation], "predictions": []}


RECTANGLE = region("rectanglelabels", "Wheels", x=10, y=25, width=50, height=50, rotation=0)


def test_label_studio_rectangles_polygons_and_brush_masks_become_parts(whole) -> None:
    triangle = region("polygonlabels", "roof", points=[[0, 0], [50, 0], [0, 50]], closed=True)
    brush = region("brushlabels", "windows", format="rle", rle=BRUSH)
    content = [task(7, "/data/upload/4/1a2b3c4d-00001_000001.png", RECTANGLE, triangle, brush)]
    summary = merged(whole, "export.json", json.dumps(content))
    assert summary.notes["form"] == "label-studio"
    wheels, roof, windows = instances(whole)
    assert (wheels.part, wheels.box_xyxy, wheels.mask) == ("wheels", (4, 6, 24, 18), None)
    expected = geometry.rle_from_polygons([[0, 0, 20, 0, 0, 12]], 24, 40)
    assert (roof.part, roof.mask) == ("roof", expected)
    painted = np.zeros(24 * 40, dtype=bool)
    painted[251:480] = True
    assert (geometry.decode_mask(windows.mask) == painted.reshape(24, 40)).all()


def test_label_studio_edit_says_who_and_when_without_an_address(whole) -> None:
    account = {"id": 12, "email": "somebody@example.org", "first_name": "S"}
    content = [task(7, "00001/000001.png", RECTANGLE, completed_by=account)]
    merged(whole, "export.json", json.dumps(content))
    origin = edits(whole)["00001/000001"].parts.origin
    assert (origin.editor, origin.time) == ("annotator 12", "2026-10-02T09:10:00.000000Z")
    assert "example.org" not in (whole.workspace.folder("merge") / "manifest.json").read_text()


@pytest.mark.parametrize(
    "address",
    [
        "/data/local-files/?d=cars/images/00001/000001.png",
        "s3://bucket/images/00001/000001.png",
        "https://host.example/images/00001/000001.png?sig=1",
        "/data/upload/1a2b3c4d-000001.png",
        "00001_000001.png",
    ],
)
def test_label_studio_image_is_found_under_every_address_it_gives(whole, address) -> None:
    merged(whole, "export.json", json.dumps([task(7, address, RECTANGLE)]))
    assert list(edits(whole)) == ["00001/000001"]


def test_label_studio_task_counts_once_it_is_submitted_and_empty_means_no_part(whole) -> None:
    content = [
        task(1, "00001/000001.png"),
        task(2, "00001/000002.png", RECTANGLE, was_cancelled=True),
        task(3, "00001/000003.png") | {"annotations": []},
    ]
    merged(whole, "export.json", json.dumps(content))
    assert list(edits(whole)) == ["00001/000001"]
    assert instances(whole) == ()


def test_label_studio_takes_the_ground_truth_else_the_latest_of_several_annotations(whole) -> None:
    other = region("rectanglelabels", "roof", x=0, y=0, width=100, height=50)
    early, late = task(1, "00001/000001.png", RECTANGLE), task(1, "", other, updated_at="2026-10-03T00:00:00Z")
    content = [early | {"annotations": early["annotations"] + late["annotations"]}]
    merged(whole, "export.json", json.dumps(content))
    assert [one.part for one in instances(whole)] == ["roof"]
    content[0]["data"]["image"] = "00001/000002.png"
    content[0]["annotations"][0]["ground_truth"] = True
    merged(whole, "export2.json", json.dumps(content))
    assert [one.part for one in instances(whole, "00001/000002")] == ["wheels"]


def test_label_studio_turned_rectangle_is_turned_clockwise_about_its_first_corner(whole) -> None:
    turned = region("rectanglelabels", "doors", x=50, y=25, width=25, height=25, rotation=90)
    merged(whole, "export.json", json.dumps([task(1, "00001/000001.png", turned)]))
    (door,) = instances(whole)
    assert door.box_xyxy == (14, 6, 20, 16)
    assert geometry.mask_area(door.mask) == 60


def test_label_studio_shapes_that_cannot_be_used_are_rejected_alone(whole) -> None:
    bad = [
        region("rectanglelabels", "hood", x=1, y=1, width=9, height=9),
        region("ellipselabels", "roof", x=1, y=1, radiusX=9, radiusY=9),
        region("rectanglelabels", "roof", x=1, y=1, width=9),
        region("rectanglelabels", "roof", x=101, y=1, width=9, height=9),
        region("brushlabels", "roof", format="rle", rle=BRUSH[:-4]),
        region("brushlabels", "roof", format="rle", rle=[0, 0, 255, 255, *BRUSH[4:]]),
        region("polygonlabels", "roof", points="none"),
        region("rectanglelabels", "roof", x=1, y=1, width=9, height=9) | {"image_rotation": 90},
        region("rectanglelabels", "roof", x="NaN", y=1, width=9, height=9),
        region("rectanglelabels", "roof") | {"value": None},
        {"type": "choices", "value": {"choices": ["good"]}},
        RECTANGLE,
    ]
    merged(whole, "export.json", json.dumps([task(1, "00001/000001.png", *bad), "no task", {"data": {}}]))
    assert len(instances(whole)) == 1
    found = reasons(whole)
    assert [found.pop(f"export.json:task 1 region {number}") for number in range(1, 11)] == [
        "unknown_category",
        "unsupported_shape",
        "malformed_shape",
        "out_of_frame",
        "malformed_shape",
        "malformed_shape",
        "malformed_shape",
        "rotated_image",
        "malformed_box",
        "malformed_shape",
    ]
    assert found == {"export.json:task number 2": "malformed_task", "export.json:task number 3": "malformed_task"}


def test_label_studio_image_of_another_size_or_drawn_twice_or_unknown_is_rejected(whole) -> None:
    larger = RECTANGLE | {"original_width": 400, "original_height": 240}
    content = [
        task(1, "00001/000001.png", RECTANGLE),
        task(2, "00001/000001.png", RECTANGLE),
        task(3, "00001/000002.png", larger),
        task(4, "00001/000003.png", RECTANGLE, larger),
        task(5, "nobody.png", RECTANGLE),
    ]
    merged(whole, "export.json", json.dumps(content))
    assert list(edits(whole)) == ["00001/000001"]
    assert list(reasons(whole).values()) == ["second_drawing", "size_mismatch", "size_mismatch", "unknown_image"]


def test_label_studio_sizes_and_addresses_of_any_kind_reject_their_task_alone(whole) -> None:
    content = [
        task(1, "00001/000001.png", RECTANGLE),
        task(2, "00001/000002.png", RECTANGLE | {"original_height": {}}),
        task(3, "00001/000002.png", RECTANGLE | {"original_height": "24"}),
        task(4, "http://[::bad/00001/000003.png", RECTANGLE | {"original_height": 24.0}),
        task(5, "", RECTANGLE) | {"data": 5},
    ]
    merged(whole, "export.json", json.dumps(content))
    assert sorted(edits(whole)) == ["00001/000001", "00001/000003"]
    assert list(reasons(whole).values()) == ["size_mismatch", "size_mismatch", "unknown_image"]


def test_gigantic_claims_about_a_mask_are_refused_before_memory_is_taken(whole) -> None:
    huge = region("brushlabels", "roof", format="rle", rle=BRUSH) | {
        "original_width": 10**9,
        "original_height": 10**9,
    }
    with pytest.raises(NothingKept, match="1 x size_mismatch"):
        merged(whole, "export.json", json.dumps([task(1, "00001/000001.png", huge)]))


def test_label_studio_file_that_is_cut_off_is_refused(whole) -> None:
    content = json.dumps([task(1, "00001/000001.png", RECTANGLE), task(2, "00001/000002.png", RECTANGLE)])
    with pytest.raises(SourceError, match="export.json: not readable as JSON"):
        merged(whole, "export.json", content[:-40])


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <job>
      <id>5</id>
      <assignee><username>wang</username><email>wang@example.org</email></assignee>
      <labels><label><name>wheels</name></label></labels>
    </job>
    <dumped>2026-10-05 08:00:00.000000+00:00</dumped>
  </meta>
%s
</annotations>
"""


def image(number: int, shapes: str, width: int = 40, height: int = 24) -> str:
    name = f"00001/{number:06d}.png"
    return f'<image id="{number}" name="{name}" width="{width}" height="{height}">{shapes}</image>'


BOX = (
    '<box label="wheels" source="manual" occluded="0" xtl="4.00" ytl="6.50" xbr="24.00" ybr="18.00" z_order="0"></box>'
)
POLYGON = '<polygon label="roof" source="manual" occluded="0" points="0.00,0.00;20.00,0.00;0.00,12.00" z_order="0"/>'
MASK = (
    '<mask label="windows" source="semi-auto" occluded="0" rle="1, 2, 1, 3" '
    'left="5" top="2" width="4" height="2" z_order="0"/>'
)


def test_cvat_boxes_polygons_and_masks_become_parts(whole) -> None:
    summary = merged(whole, "annotations.xml", CVAT % image(1, BOX + POLYGON + MASK))
    assert summary.notes["form"] == "cvat"
    wheels, roof, windows = instances(whole)
    assert (wheels.part, wheels.box_xyxy) == ("wheels", (4, 6.5, 24, 18))
    assert roof.mask == geometry.rle_from_polygons([[0, 0, 20, 0, 0, 12]], 24, 40)
    expected = np.zeros((24, 40), dtype=bool)
    # Row by row inside the rectangle: .##. and then ###. , whose last cell the runs leave out.
    expected[2, 6:8] = expected[3, 5:8] = True
    expected[2, 5:9] = [False, True, True, False]
    expected[3, 5:9] = [True, True, True, False]
    assert (geometry.decode_mask(windows.mask) == expected).all()


def test_cvat_edit_says_who_and_when(whole) -> None:
    merged(whole, "annotations.xml", CVAT % image(1, BOX))
    origin = edits(whole)["00001/000001"].parts.origin
    assert (origin.form, origin.editor, origin.time) == ("cvat", "wang", "2026-10-05 08:00:00.000000+00:00")


def test_cvat_image_without_shapes_is_no_edit(whole) -> None:
    merged(whole, "annotations.xml", CVAT % (image(1, BOX) + image(2, "") + image(3, '<tag label="roof"/>')))
    assert list(edits(whole)) == ["00001/000001"]


def test_cvat_turned_box_is_turned_about_its_middle(whole) -> None:
    turned = '<box label="doors" xtl="10" ytl="8" xbr="18" ybr="12" rotation="90.00"/>'
    merged(whole, "annotations.xml", CVAT % image(1, turned))
    (door,) = instances(whole)
    assert door.box_xyxy == (12, 6, 16, 14)


def test_cvat_shapes_that_cannot_be_used_are_rejected_alone(whole) -> None:
    shapes = [
        '<ellipse label="roof" cx="1" cy="1" rx="3" ry="3"/>',
        '<box label="roof" xtl="1" ytl="1" xbr="9"/>',
        '<box label="hood" xtl="1" ytl="1" xbr="9" ybr="9"/>',
        '<polygon label="roof" points="1,1;2"/>',
        '<mask label="roof" rle="3, 9" left="0" top="0" width="2" height="2"/>',
        '<mask label="roof" rle="0, 4" left="39" top="0" width="2" height="2"/>',
        '<mask label="roof" rle="0, 4" left="-1" top="0" width="2" height="2"/>',
        '<mask label="roof" rle="0, -4" left="0" top="0" width="2" height="2"/>',
        '<box label="roof" xtl="nan" ytl="1" xbr="9" ybr="9"/>',
        BOX,
    ]
    merged(whole, "annotations.xml", CVAT % image(1, "".join(shapes)))
    assert len(instances(whole)) == 1
    found = reasons(whole)
    assert [found[f"annotations.xml:image 1 shape {number}"] for number in range(1, 10)] == [
        "unsupported_shape",
        "malformed_shape",
        "unknown_category",
        "malformed_shape",
        "malformed_mask",
        "out_of_frame",
        "out_of_frame",
        "malformed_mask",
        "malformed_box",
    ]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            '<?xml version="1.0"?><!DOCTYPE annotations [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>'
            "<annotations>&b;</annotations>",
            "declares a document type, which no CVAT export does",
        ),
        (
            '<!DOCTYPE annotations SYSTEM "file:///etc/passwd"><annotations/>',
            "declares a document type",
        ),
        ("<annotations><image id='1'", "not readable as XML"),
        ("<svg></svg>", "its XML starts with <svg>, a CVAT export with <annotations>"),
        ("<annotations><track id='0'></track></annotations>", "export for video; export the task as CVAT for images"),
    ],
)
def test_xml_that_is_dangerous_cut_off_or_of_another_kind_is_refused(whole, content, sentence) -> None:
    with pytest.raises(SourceError, match=sentence):
        merged(whole, "annotations.xml", content)


def test_cvat_image_whose_size_is_no_number_is_a_mismatch(whole) -> None:
    content = CVAT % (image(1, BOX) + image(2, MASK).replace('width="40"', 'width="1e99"'))
    merged(whole, "annotations.xml", content)
    assert reasons(whole) == {"annotations.xml:image 2": "size_mismatch"}
