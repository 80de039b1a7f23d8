"""A small workspace made without the import stage: images on disk, and records written through ``run_stage``."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from workspaces import seal_records

from pfcvr import geometry
from pfcvr.config import ExportConfig, PartsConfig, SplitConfig
from pfcvr.pipeline import export, parts, split
from pfcvr.records import Caption, CaptionOrigin, ImageRecord, Record
from pfcvr.stage import RunOptions
from pfcvr.store import Workspace

QUIET = RunOptions(quiet=True)


@dataclass
class SmallWorkspace:
    """A workspace with its source folder; each ``add_*`` seals one stage."""

    workspace: Workspace
    source: Path
    images: list[ImageRecord] = field(default_factory=list)
    images_known: dict[str, str] = field(default_factory=dict)

    def seal(
        self,
        stage: str,
        kind: type[Record],
        records: list[Any],
        notes: dict[str, Any] | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        seal_records(self.workspace, stage, kind, records, notes, settings)

    def add_images(
        self, vehicles: dict[str, int], size: tuple[int, int] = (40, 24), licence: str | None = "CC0-1.0"
    ) -> None:
        """``vehicles``: images of each; ``size`` is (width, height). Every image has its own pixels."""
        number = 0
        for vehicle_id, count in vehicles.items():
            for _ in range(count):
                number += 1
                path = f"images/{vehicle_id}/{number:06d}.png"
                file = self.source / path
                file.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.random.default_rng(number).integers(0, 256, (size[1] // 4, size[0] // 4, 3), np.uint8)
                Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).save(file)
                self.images.append(
                    ImageRecord(
                        image_id=f"{vehicle_id}/{number:06d}",
                        vehicle_id=vehicle_id,
                        camera_id=str(number % 3),
                        source="small",
                        path=path,
                        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
                        width=size[0],
                        height=size[1],
                        **self.images_known,
                    )
                )
        source = {
            "name": "small",
            "root": str(self.source),
            "format": "veri-wild",
            "licence": licence,
            "terms": "made for tests",
            "redistribute_images": True,
        }
        self.seal("import", ImageRecord, self.images, {"sources": [source]})

    def add_captions(self, texts: dict[str, list[str]] | None = None, captioner: str = "import") -> None:
        """Captions by image_id; without ``texts`` one distinct sentence for every image."""
        if texts is None:
            texts = {image.image_id: [f"A vehicle that looks like {image.image_id}."] for image in self.images}
        origin = CaptionOrigin(captioner=captioner)
        records = [
            Caption(image_id=image_id, texts=tuple(own), part_texts={"roof": "plain roof"}, origin=origin)
            for image_id, own in texts.items()
        ]
        self.seal("caption", Caption, records)

    def add_parts(self, rows: int = 5, cols: int = 4, on: slice = slice(-1)) -> Path:
        """A window mask and a box around a wheel on the images ``on``, all but the last; returns the COCO file."""
        annotations = []
        for index, image in list(enumerate(self.images))[on]:
            mask = np.zeros((image.height, image.width), dtype=bool)
            mask[2:9, 3 : 12 + index] = True
            rle = geometry.encode_mask(mask)
            segmentation = {"size": list(rle.size), "counts": rle.counts}
            annotations.append({"image_id": index, "category_id": 1, "segmentation": segmentation, "score": 0.75})
            annotations.append({"image_id": index, "category_id": 2, "bbox": [20.5, 12, 9.25, 10]})
        coco = {
            "images": [{"id": index, "file_name": image.image_id} for index, image in enumerate(self.images)],
            "annotations": [{"id": number, **annotation} for number, annotation in enumerate(annotations)],
            "categories": [{"id": 1, "name": "windows"}, {"id": 2, "name": "Wheel"}],
        }
        path = self.source / "parts.coco.json"
        path.write_text(json.dumps(coco))
        config = PartsConfig.model_validate({"annotations": path, "grid": {"rows": rows, "cols": cols}})
        parts.run(self.workspace, config, QUIET)
        return path

    def add_split(self, **settings: Any) -> None:
        split.run(self.workspace, SplitConfig(**settings), QUIET)

    def export(self, out: Path, overwrite: bool = False) -> export.ExportSummary:
        return export.run(self.workspace, ExportConfig(out=out), RunOptions(overwrite=overwrite, quiet=True))


@pytest.fixture
def small(tmp_path: Path) -> SmallWorkspace:
    """An empty workspace and an empty source folder."""
    return make_small(tmp_path)


@pytest.fixture
def whole(small: SmallWorkspace) -> SmallWorkspace:
    """Five vehicles, 14 images, every stage sealed."""
    return make_whole(small)


@pytest.fixture
def build_small() -> Callable[[Path], SmallWorkspace]:
    """Makes a further workspace in a folder of its own; the same one every time."""
    return lambda folder: make_whole(make_small(folder))


@pytest.fixture
def build_empty() -> Callable[[Path], SmallWorkspace]:
    """Makes an empty workspace in a folder of its own."""
    return make_small


def make_small(folder: Path) -> SmallWorkspace:
    (folder / "source").mkdir(parents=True)
    return SmallWorkspace(Workspace(folder / "work", create=True), folder / "source")


def make_whole(small: SmallWorkspace) -> SmallWorkspace:
    small.add_images({"00001": 3, "00002": 2, "00003": 4, "00007": 1, "00012": 4})
    small.add_captions()
    small.add_parts()
    small.add_split(ratio=0.6, val=0.3, seed=1)
    return small
