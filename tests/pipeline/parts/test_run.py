"""The stage over images of every kind with tiny models: what is kept, rejected, resumed, refused and reported."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from folders import files_of
from PIL import Image

from pfcvr import geometry
from pfcvr.config import PartsConfig, ShowConfig
from pfcvr.errors import CheckpointError, NothingKept, SealedError, StageStopped
from pfcvr.pipeline import parts, show, stats
from pfcvr.pipeline.detectors.grounding_dino import GroundingDinoDetector
from pfcvr.pipeline.images import UnreadableImage
from pfcvr.pipeline.part_report import PartTally, certainty, report_text
from pfcvr.pipeline.segmenters.sam import SamSegmenter
from pfcvr.records import ImageParts, PartInstance, PartsOrigin, PatchGrid, Rejected
from pfcvr.stage import RunOptions
from pfcvr.store import Workspace

Make = Callable[..., PartsConfig]
QUIET = RunOptions(quiet=True)
OVERWRITE = RunOptions(quiet=True, overwrite=True)
PAIRS = [
    ("grounding-dino", "sam"),
    ("grounding-dino", "segment-anything"),
    ("grounding-dino", "none"),
    ("none", "sam3"),
]


@pytest.fixture
def cars(small):
    """Eleven images of three vehicles."""
    small.add_images({"a": 3, "b": 4, "c": 4}, size=(64, 40))
    return small


def records(workspace: Workspace) -> dict[str, ImageParts]:
    return {row.image_id: row for row in workspace.records("parts", ImageParts)}


def sealed(workspace: Workspace) -> dict[str, bytes]:
    return files_of(workspace.folder("parts"), but=("telemetry.jsonl",))


@pytest.mark.parametrize(("detector", "segmenter"), PAIRS)
def test_boxes_become_masks_and_masks_become_grids(detector, segmenter, cars, config) -> None:
    summary = parts.run(cars.workspace, config(detector, segmenter), QUIET)
    assert (summary.kept, summary.rejected) == (11, 0)
    assert sum(summary.notes["instances"].values()) > 20
    for row in records(cars.workspace).values():
        layers = geometry.grid_array(row.grid)
        for instance in row.instances:
            x0, y0, x1, y1 = instance.box_xyxy
            assert 0 <= x0 < x1 <= 64
            assert 0 <= y0 < y1 <= 40
            assert (instance.mask is None) == (segmenter == "none")
            if instance.mask is not None and geometry.mask_area(instance.mask):
                assert layers[geometry.PARTS.index(instance.part)].any()
    origin = next(iter(records(cars.workspace).values())).origin
    assert (origin.detector, origin.segmenter) == (detector, None if segmenter == "none" else segmenter)
    assert origin.phrases == "few-1"
    named = [origin.detector_model, origin.segmenter_model]
    assert all(name is None or "/" not in name for name in named)


def test_parts_stay_when_the_weights_that_are_to_find_others_cannot_be_loaded(cars, config, tmp_path) -> None:
    parts.run(cars.workspace, config("grounding-dino", "none"), QUIET)
    before = sealed(cars.workspace)
    torn = Path(shutil.copytree(config("none", "sam3").segmenter_model, tmp_path / "torn"))
    weights = (torn / "model.safetensors").read_bytes()
    (torn / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        parts.run(cars.workspace, config("none", "sam3", segmenter_model=str(torn)), OVERWRITE)
    assert sealed(cars.workspace) == before
    assert parts.run(cars.workspace, config("grounding-dino", "none"), QUIET).already_done


@pytest.mark.parametrize(
    ("detector", "segmenter", "step"),
    [
        ("grounding-dino", "none", "transformers.GroundingDinoForObjectDetection.forward"),
        ("grounding-dino", "sam", "transformers.SamModel.get_image_embeddings"),
        ("grounding-dino", "segment-anything", "segment_anything.modeling.ImageEncoderViT.forward"),
        ("none", "sam3", "transformers.Sam3Model.get_vision_features"),
    ],
)
def test_a_batch_that_is_too_large_for_the_gpu_stops_the_run_and_rejects_nothing(
    detector, segmenter, step, cars, config, monkeypatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore.")

    monkeypatch.setattr(step, full)
    with pytest.raises(StageStopped, match=r"\(CUDA out of memory. Tried to allocate 2.00 GiB.\); run .* --batch"):
        parts.run(cars.workspace, config(detector, segmenter), QUIET)
    assert not (cars.workspace.folder("parts") / "rejected-running.jsonl").read_bytes()
    monkeypatch.undo()
    assert parts.run(cars.workspace, config(detector, segmenter, batch=2), QUIET).kept == 11


@pytest.mark.parametrize(("detector", "segmenter"), [("grounding-dino", "sam"), ("none", "sam3")])
@pytest.mark.parametrize("stopped_at", [1, 3])
def test_an_interrupted_run_seals_the_bytes_of_an_undisturbed_one(
    detector, segmenter, stopped_at, cars, config, monkeypatch, tmp_path
) -> None:
    settings = config(detector, segmenter, batch=3)
    other = Workspace(tmp_path / "other", create=True)
    shutil.copytree(cars.workspace.folder("import"), other.folder("import"))
    parts.run(other, settings, QUIET)
    look_at, calls = parts.PartFinder.work_many, []

    def interrupted(finder: Any, rows: Any) -> Any:
        calls.append(rows)
        if len(calls) > stopped_at:
            raise KeyboardInterrupt
        return look_at(finder, rows)

    with monkeypatch.context() as patched:
        patched.setattr(parts.PartFinder, "work_many", interrupted)
        patched.setattr(parts, "READING_THREADS", 1)
        with pytest.raises(KeyboardInterrupt):
            parts.run(cars.workspace, settings, QUIET)
    assert cars.workspace.manifest("parts") is None
    parts.run(cars.workspace, settings, QUIET)
    assert sealed(cars.workspace) == sealed(other)


def test_a_finished_stage_is_known_as_such_without_reading_the_weights(cars, config, monkeypatch) -> None:
    settings = {pair: config(*pair) for pair in (("grounding-dino", "sam"), ("none", "sam3"))}
    for pair in settings:
        shutil.rmtree(cars.workspace.folder("parts"), ignore_errors=True)
        parts.run(cars.workspace, settings[pair], QUIET)
        with monkeypatch.context() as patched:
            patched.setattr("torch.nn.Module.load_state_dict", None)
            patched.setattr("transformers.PreTrainedModel.from_pretrained", None)
            assert parts.run(cars.workspace, settings[pair], QUIET).already_done


def test_a_picture_that_is_gone_changed_or_broken_costs_only_itself(cars, config) -> None:
    gone, changed = cars.images[1], cars.images[2]
    (cars.source / gone.path).unlink()
    Image.new("RGB", (64, 40)).save(cars.source / changed.path)
    settings = config("none", "sam3", batch=11)
    summary = parts.run(cars.workspace, settings, QUIET)
    assert (summary.kept, summary.reasons) == (9, {"missing_file": 1, "changed_file": 1})
    assert {row.subject for row in cars.workspace.rejected("parts")} == {gone.image_id, changed.image_id}


def test_rows_of_a_reason_are_taken_up_again_by_retry(cars, config) -> None:
    gone = cars.source / cars.images[1].path
    content = gone.read_bytes()
    gone.unlink()
    settings = config("none", "sam3", batch=4)
    parts.run(cars.workspace, settings, QUIET)
    before = records(cars.workspace)
    gone.write_bytes(content)
    summary = parts.run(cars.workspace, settings, RunOptions(retry="missing_file", quiet=True))
    assert (summary.kept, summary.rejected) == (11, 0)
    after = records(cars.workspace)
    assert {image_id: after[image_id] for image_id in before} == before


def test_a_picture_that_a_model_refuses_is_rejected_alone(cars, config, monkeypatch) -> None:
    detect = GroundingDinoDetector.detect
    bad = cars.images[4].image_id

    def refuses(self: Any, pictures: Any) -> Any:
        if any(picture.record.image_id == bad for picture in pictures):
            raise UnreadableImage("strange_picture", "cannot be looked at")
        return detect(self, pictures)

    monkeypatch.setattr(GroundingDinoDetector, "detect", refuses)
    summary = parts.run(cars.workspace, config("grounding-dino", "none", batch=4), QUIET)
    assert (summary.kept, summary.reasons) == (10, {"strange_picture": 1})
    (row,) = cars.workspace.rejected("parts")
    assert row == Rejected(stage="parts", subject=bad, reason="strange_picture", detail="cannot be looked at")


def test_an_error_of_the_library_on_one_picture_costs_only_that_picture(cars, config, monkeypatch) -> None:
    detect = GroundingDinoDetector.detect
    bad = cars.images[4].image_id

    def breaks(self: Any, pictures: Any) -> Any:
        if any(picture.record.image_id == bad for picture in pictures):
            raise RuntimeError("CUDA out of memory")
        return detect(self, pictures)

    monkeypatch.setattr(GroundingDinoDetector, "detect", breaks)
    summary = parts.run(cars.workspace, config("grounding-dino", "none", batch=4), QUIET)
    assert (summary.kept, summary.reasons) == (10, {"unexpected_error": 1})


def test_other_weights_phrases_or_thresholds_are_other_inputs(cars, config, tmp_path) -> None:
    from tiny_models.sam3 import make_sam3

    parts.run(cars.workspace, config("none", "sam3"), QUIET)
    phrases = tmp_path / "other.toml"
    phrases.write_text('name = "few"\nversion = 1\n[phrases]\nroof = ["roof"]\n')
    others = {
        "segmenter_model": {"segmenter_model": str(make_sam3(tmp_path / "sam3", seed=1))},
        "phrases": {"phrases": phrases},
        "threshold": {"threshold": 0.9},
        "precision": {"precision": "bfloat16"},
    }
    for name, change in others.items():
        with pytest.raises(SealedError, match=rf"{name} .*; rerun with --overwrite"):
            parts.run(cars.workspace, config("none", "sam3", **change), QUIET)


def test_boxes_from_a_file_get_masks_and_masks_from_a_file_stay(cars, config, tmp_path) -> None:
    mask = np.zeros((40, 64), dtype=bool)
    mask[5:20, 10:30] = True
    rle = geometry.encode_mask(mask)
    drawn = {"image_id": 1, "category_id": 1, "segmentation": {"size": list(rle.size), "counts": rle.counts}}
    boxed = {"image_id": 1, "category_id": 1, "bbox": [30, 10, 20, 20]}
    path = tmp_path / "boxes.coco.json"
    annotations = [{"id": n, **one} for n, one in enumerate([boxed, drawn, boxed], start=1)]
    images = [{"id": 1, "file_name": cars.images[0].image_id}]
    categories = [{"id": 1, "name": "doors"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    parts.run(cars.workspace, config("import", "sam", annotations=path), QUIET)
    first, second, third = records(cars.workspace)[cars.images[0].image_id].instances
    assert second.mask == rle
    assert first.mask == third.mask != rle
    assert first.box_xyxy == third.box_xyxy == (30, 10, 50, 30)


def test_images_with_one_shape_are_looked_at_side_by_side(small) -> None:
    for number, size in enumerate([(64, 40), (40, 64), (64, 40), (32, 20), (40, 64)]):
        small.images.append(_image(number, size))
    order = [image.image_id for image in parts.similar_together(iter(small.images))]
    assert order == ["v/1", "v/4", "v/0", "v/2", "v/3"]


def _image(number: int, size: tuple[int, int]) -> Any:
    from pfcvr.records import ImageRecord

    return ImageRecord(
        image_id=f"v/{number}", vehicle_id="v", source="s", path="p", sha256="0" * 64, width=size[0], height=size[1]
    )


def image_parts(image_id: str, *instances: PartInstance) -> ImageParts:
    grid = PatchGrid(rows=1, cols=1, coverage=0.5, cells={})
    return ImageParts(image_id=image_id, instances=instances, grid=grid, origin=PartsOrigin(detector="d"))


def wheel(score: float, *flags: str) -> PartInstance:
    return PartInstance(part="wheels", box_xyxy=(0, 0, 1, 1), score=score, flags=flags)


def roof(score: float, *flags: str) -> PartInstance:
    return PartInstance(part="roof", box_xyxy=(0, 0, 1, 1), score=score, flags=flags)


def test_certainty_is_the_mean_over_parts_of_their_best_unflagged_score() -> None:
    assert certainty(image_parts("a")) == 0
    assert certainty(image_parts("a", wheel(0.4), wheel(0.8), roof(0.6))) == pytest.approx(0.7)
    assert certainty(image_parts("a", wheel(0.9, "wheel_above_roof"), wheel(0.3), roof(0.5))) == pytest.approx(0.4)
    assert certainty(image_parts("a", roof(0.5, "whole_picture"))) == 0


def test_report_counts_by_part_view_tenth_and_flag_and_lists_the_least_certain() -> None:
    tally = PartTally()
    for number in range(30):
        found = [wheel(number / 30)] + ([roof(1.0, "whole_picture")] if number == 29 else [])
        tally.look_at(f"v/{number:02d}", image_parts(f"v/{number:02d}", *found), "front" if number % 3 else None)
    tally.look_at("v/99", image_parts("v/99"), "rear")
    tally.look_at("v/never", None, "rear")
    notes = tally.as_dict()
    assert (notes["images"], notes["images_with_parts"]) == (32, 30)
    assert notes["instances"]["wheels"] == 30
    assert notes["coverage"]["wheels"] == round(30 / 32, 4)
    assert notes["coverage_by_view"]["front"]["images"] == 20
    assert notes["coverage_by_view"]["front"]["wheels"] == 1.0
    assert notes["coverage_by_view"]["rear"]["wheels"] == 0
    assert notes["coverage_by_view"]["unknown"]["images"] == 10
    assert notes["scores"]["wheels"] == [3] * 10
    assert notes["scores"]["roof"] == [0] * 9 + [1]
    assert notes["flags"] == {"whole_picture": 1}
    least = [row["image_id"] for row in notes["least_certain"]]
    assert least == ["v/00", "v/99", *(f"v/{number:02d}" for number in range(1, 15)), "v/29", "v/15", "v/16", "v/17"]


def test_images_of_equal_certainty_are_not_called_the_least_certain(cars, config, tmp_path) -> None:
    tally = PartTally()
    for number in range(30):
        tally.look_at(f"v/{number:02d}", image_parts(f"v/{number:02d}", wheel(1.0), roof(1.0)), "front")
    notes = tally.as_dict()
    assert notes["least_certain"] == []
    assert "least certain" not in report_text(notes)
    cars.add_parts(on=slice(None))
    with pytest.raises(NothingKept, match=r"all images are equally certain.*leave --least-certain out"):
        show.run(cars.workspace, ShowConfig(out=tmp_path / "least.png", least_certain=True))


def test_more_views_than_a_table_bears_are_counted_together() -> None:
    tally = PartTally()
    for number in range(450):
        tally.look_at(f"v/{number}", image_parts(f"v/{number}", wheel(0.5)), f"camera {number % 300}")
    by_view = tally.as_dict()["coverage_by_view"]
    assert len(by_view) == 201
    assert sum(view["images"] for view in by_view.values()) == 450
    assert by_view["other"] == {"images": 100, **dict.fromkeys(geometry.PARTS, 0.0), "wheels": 1.0}


def test_stats_tell_coverage_by_what_captions_say_of_the_view_else_by_camera(cars, config) -> None:
    from pfcvr.records import Caption, CaptionOrigin

    views = ["front", "front", "rear left"]
    captions = [
        Caption(
            image_id=image.image_id,
            texts=("a car",),
            attributes={"viewpoint": view},
            origin=CaptionOrigin(captioner="import"),
        )
        for image, view in zip(cars.images, views, strict=False)
    ]
    cars.seal("caption", Caption, captions)
    parts.run(cars.workspace, config("none", "sam3"), QUIET)
    statistics = stats.run(cars.workspace)
    counted = {view: row["images"] for view, row in statistics.as_dict()["parts"]["coverage_by_view"].items()}
    assert (counted["front"], counted["rear left"]) == (2, 1)
    assert sum(count for view, count in counted.items() if view.startswith("camera ")) == 8
    assert "rear left" in statistics.text()


def test_the_least_certain_images_are_drawn_with_their_flags(cars, config, tmp_path, monkeypatch) -> None:
    drawn: list[str] = []
    fit = show.fitting
    monkeypatch.setattr(show, "fitting", lambda text, width: drawn.append(fit(text, width)) or drawn[-1])
    parts.run(cars.workspace, config("grounding-dino", "sam"), QUIET)
    rows = records(cars.workspace)
    expected = sorted(rows, key=lambda image_id: (certainty(rows[image_id]), image_id))[:4]
    chosen = show.least_certain_images(cars.workspace, 4)
    assert [joined.image.image_id for joined in chosen] == expected
    sheet = show.run(cars.workspace, ShowConfig(out=tmp_path / "least.png", sample=4, least_certain=True))
    assert (sheet.images, sheet.missing) == (4, 0)
    flags = [sorted({flag for own in rows[image_id].instances for flag in own.flags}) for image_id in expected]
    assert any(0 < len(own) < 3 for own in flags)
    assert all("  ".join(own) in drawn for own in flags if 0 < len(own) < 3), "flags do not fit beside the rest"


def test_every_image_is_encoded_once_in_a_whole_run(cars, config, monkeypatch) -> None:
    taken: list[int] = []
    make = SamSegmenter.__init__

    def counting(self: Any, settings: PartsConfig) -> None:
        make(self, settings)
        self._network.vision_encoder.register_forward_pre_hook(lambda module, inputs: taken.append(len(inputs[0])))

    monkeypatch.setattr(SamSegmenter, "__init__", counting)
    parts.run(cars.workspace, config("grounding-dino", "sam", batch=4), QUIET)
    assert sum(taken) == sum(bool(row.instances) for row in records(cars.workspace).values()) == 11
    assert max(taken) == 4


def test_report_is_printed_after_the_books(cars, config, capsys) -> None:
    from pfcvr.cli import data_app, run

    settings = config("none", "sam3")
    arguments = ["parts", "-w", str(cars.workspace.root), "--detector", "none", "--device", "cpu"]
    arguments += ["--segmenter-model", str(settings.segmenter_model), "--phrases", str(settings.phrases)]
    assert run(data_app, "pfcvr-data", arguments) == 0
    out = capsys.readouterr().out
    assert out.startswith("parts: 11 in, 11 kept, 0 rejected\n")
    assert "wheels" in out
    assert "least certain: " in out
    assert run(data_app, "pfcvr-data", [*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["notes"]["coverage"]["wheels"] == 1.0


def test_a_run_that_found_no_part_at_all_says_so(cars, config, capsys) -> None:
    from pfcvr.cli import data_app, run

    settings = config("grounding-dino", "none")
    arguments = ["parts", "-w", str(cars.workspace.root), "--detector", "grounding-dino", "--segmenter", "none"]
    arguments += ["--detector-model", str(settings.detector_model), "--phrases", str(settings.phrases)]
    arguments += ["--device", "cpu", "--threshold"]
    assert run(data_app, "pfcvr-data", [*arguments, "0.9999"]) == 0
    remark = "no part on any of 11 images; lower --threshold or look at the phrases"
    assert capsys.readouterr().out.startswith(f"parts: 11 in, 11 kept, 0 rejected\n{remark}\n")
    assert run(data_app, "pfcvr-data", [*arguments, "0.9999", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["notes"]["remark"] == remark
    assert run(data_app, "pfcvr-data", [*arguments, "0.6", "--overwrite"]) == 0
    assert "no part" not in capsys.readouterr().out


def test_weights_without_a_folder_are_one_sentence_on_the_command_line(cars, capsys) -> None:
    from pfcvr.cli import data_app, run

    arguments = ["parts", "-w", str(cars.workspace.root), "--detector", "none", "--segmenter-model", "nowhere"]
    assert run(data_app, "pfcvr-data", arguments) == 1
    assert capsys.readouterr().err == (
        "error: nowhere: no folder with a Transformers model; give one, or a model's name on the Hub\n"
    )


def test_phrases_for_some_parts_leave_the_others_empty(cars, config, tmp_path: Path) -> None:
    phrases = tmp_path / "wheels.toml"
    phrases.write_text('name = "wheels"\nversion = 1\n[phrases]\nwheels = ["wheel", "tire"]\n')
    notes = parts.run(cars.workspace, config("none", "sam3", phrases=phrases, threshold=0.3), QUIET).notes
    assert {part for part, count in notes["instances"].items() if count} == {"wheels"}
