"""Source folders written by hand, line by line, as their owners ship them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pfcvr.config import CaptionConfig, ImportConfig, SelectConfig
from pfcvr.pipeline import caption, import_, select
from pfcvr.records import Caption, ImageRecord, Selected
from pfcvr.stage import RunOptions, StageSummary
from pfcvr.store import Workspace

QUIET = RunOptions(quiet=True)


@dataclass
class Intake:
    """A source folder and the workspace it goes into."""

    root: Path
    workspace: Workspace

    def picture(self, path: str, color: str = "navy", size: tuple[int, int] = (32, 24)) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, color).save(file)
        return file

    def pictures(self, *image_ids: str) -> None:
        for number, image_id in enumerate(image_ids):
            self.picture(f"images/{image_id}.jpg", color=f"rgb({number * 29 % 256}, {number * 53 % 251}, 40)")

    def write(self, path: str, content: str | bytes) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    def info(self, *lines: str) -> Path:
        return self.write("train_test_split/vehicle_info.txt", "".join(f"{line}\n" for line in lines))

    def run_import(self, options: RunOptions = QUIET, **settings: Any) -> StageSummary:
        return import_.run(self.workspace, ImportConfig(**{"source": self.root} | settings), options)

    def run_select(self, options: RunOptions = QUIET, **settings: Any) -> StageSummary:
        return select.run(self.workspace, SelectConfig(**settings), options)

    def run_caption(self, options: RunOptions = QUIET, **settings: Any) -> StageSummary:
        return caption.run(self.workspace, CaptionConfig(**settings), options)

    def import_captions(self, name: str, content: str | bytes) -> StageSummary:
        return self.run_caption(captioner="import", captions=self.write(name, content))

    def images(self) -> dict[str, ImageRecord]:
        return {image.image_id: image for image in self.workspace.records("import", ImageRecord)}

    def selected(self) -> list[str]:
        return [row.image_id for row in self.workspace.records("select", Selected)]

    def captions(self) -> dict[str, tuple[str, ...]]:
        return {row.image_id: row.texts for row in self.workspace.records("caption", Caption)}

    def rejected(self, stage: str = "import") -> dict[str, tuple[str, str]]:
        return {row.subject: (row.reason, row.detail) for row in self.workspace.rejected(stage)}

    def reasons(self, stage: str = "import") -> dict[str, str]:
        return {row.subject: row.reason for row in self.workspace.rejected(stage)}


@pytest.fixture
def intake(tmp_path: Path) -> Intake:
    """An empty source folder and an empty workspace."""
    return make_intake(tmp_path)


@pytest.fixture
def new_intake() -> Callable[[Path], Intake]:
    return make_intake


def make_intake(folder: Path) -> Intake:
    root = folder / "source"
    root.mkdir(parents=True)
    return Intake(root, Workspace(folder / "work", create=True))


@pytest.fixture
def json_lines() -> Callable[..., str]:
    """Rows as JSON Lines."""
    return lambda *rows: "".join(json.dumps(row) + "\n" for row in rows)
