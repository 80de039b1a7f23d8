"""Tiny models of every kind, made once, and pictures of any shape with the record that import would write."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_models.grounding_dino import make_grounding_dino
from tiny_models.sam import make_sam, make_segment_anything
from tiny_models.sam3 import make_sam3

from pfcvr.config import PartsConfig
from pfcvr.pipeline.pictures import Picture
from pfcvr.records import ImageRecord

PHRASES = """
name = "few"
version = 1
vehicle = ["car"]
[phrases]
windows = ["window", "windshield"]
wheels = ["wheel"]
roof = ["roof rack", "roof"]
[thresholds]
box = 0.6
instance = 0.3
"""


@pytest.fixture(scope="session")
def grounding_dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_grounding_dino(tmp_path_factory.mktemp("models") / "grounding-dino")


@pytest.fixture(scope="session")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sam(tmp_path_factory.mktemp("models") / "sam")


@pytest.fixture(scope="session")
def segment_anything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_segment_anything(tmp_path_factory.mktemp("models") / "sam.pth")


@pytest.fixture(scope="session")
def sam3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sam3(tmp_path_factory.mktemp("models") / "sam3")


@pytest.fixture(scope="session")
def phrases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("phrases") / "few.toml"
    path.write_text(PHRASES)
    return path


@pytest.fixture
def config(
    grounding_dino: Path, sam: Path, segment_anything: Path, sam3: Path, phrases: Path
) -> Callable[..., PartsConfig]:
    """PartsConfig with the tiny weights of whatever backends are asked for."""
    weights = {"grounding-dino": grounding_dino, "sam": sam, "segment-anything": segment_anything, "sam3": sam3}

    def make(detector: str, segmenter: str, **more: Any) -> PartsConfig:
        values: dict[str, Any] = {"detector": detector, "segmenter": segmenter, "device": "cpu"}
        if detector in weights:
            values["detector_model"] = str(weights[detector])
        if segmenter in weights:
            values["segmenter_model"] = str(weights[segmenter])
        if detector != "import":
            values["phrases"] = phrases
        return PartsConfig.model_validate(values | more)

    return make


@pytest.fixture
def picture(tmp_path: Path) -> Callable[..., Picture]:
    """A picture of soft blobs; ``pixels`` replaces them."""

    def make(width: int, height: int, seed: int = 0, pixels: Image.Image | None = None, name: str = "") -> Picture:
        if pixels is None:
            coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
            pixels = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        path = tmp_path / f"{name or f'{width}x{height}-{seed}'}.png"
        pixels.save(path)
        content = path.read_bytes()
        record = ImageRecord(
            image_id=f"v/{path.stem}",
            vehicle_id="v",
            source="s",
            path=path.name,
            sha256=hashlib.sha256(content).hexdigest(),
            width=width,
            height=height,
        )
        return Picture(record, path, content)

    return make
