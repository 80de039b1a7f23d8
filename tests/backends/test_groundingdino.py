"""The original groundingdino-py in its environment, with random weights of the packaged size and a tiny BERT."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from backends.serving import run_data
from numpy.testing import assert_allclose
from PIL import Image
from tiny_models.sam import make_segment_anything

from pfcvr import geometry
from pfcvr.config import PartsConfig
from pfcvr.pipeline.detectors.groundingdino import OriginalGroundingDinoDetector
from pfcvr.pipeline.pictures import Found, Picture
from pfcvr.records import PARTS, ImageParts, ImageRecord
from pfcvr.store import Workspace

pytestmark = [pytest.mark.backends, pytest.mark.timeout(900)]
HERE = Path(__file__).parent
THRESHOLD, LOW_THRESHOLD = 0.935, 0.2
PHRASES = {"windows": ["window"], "wheels": ["wheel"], "doors": ["door"], "roof": ["roof rack"]}


@pytest.fixture(scope="module")
def phrases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("phrases") / "phrases.toml"
    lines = [f"{part} = {json.dumps(words)}" for part, words in PHRASES.items()]
    path.write_text('name = "few"\nversion = 1\n[phrases]\n' + "\n".join(lines) + "\n[thresholds]\noverlap = 1.0\n")
    return path


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VERI-Wild tree of two pictures of noise, one of which is stored lying on its side."""
    source = tmp_path_factory.mktemp("squares") / "source"
    for number in (1, 2):
        folder = source / "images" / f"{number:05d}"
        folder.mkdir(parents=True)
        noise = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
        picture = Image.fromarray(noise).resize((96, 72), Image.Resampling.BICUBIC)
        exif = Image.Exif()
        if number == 2:
            exif[0x0112] = 6
        picture.save(folder / f"{number:06d}.jpg", quality=95, exif=exif)
    return source


def parts_command(workspace: Path, original: dict[str, str], python: str, phrases: Path) -> list[object]:
    command = ["parts", "-w", workspace, "--detector", "groundingdino", "--detector-model", original["checkpoint"]]
    command += ["--text-encoder", original["bert"], "--python", python, "--phrases", phrases, "--device", "cpu"]
    return [*command, "--threshold", THRESHOLD, "--grid", "8x8"]


def test_the_detector_gives_the_boxes_of_the_packages_own_call(
    squares: Path, original_groundingdino: dict[str, str], groundingdino_python: str, phrases: Path, tmp_path: Path
) -> None:
    workspace = tmp_path / "work"
    run_data("import", squares, "-w", workspace)
    run_data(*parts_command(workspace, original_groundingdino, groundingdino_python, phrases), "--segmenter", "none")
    ours = {record.image_id: record.instances for record in Workspace(workspace).records("parts", ImageParts)}

    upright = []
    for image in Workspace(workspace).images():
        path = tmp_path / f"{image.vehicle_id}.png"
        with Image.open(squares / image.path) as stored:
            (stored.rotate(-90, expand=True) if stored.getexif().get(0x0112) == 6 else stored).save(path)
        upright.append(path)
    prompt = " . ".join(words[0] for part in PARTS for words in [PHRASES.get(part)] if words) + " ."
    command = [groundingdino_python, HERE / "direct_groundingdino.py", *original_groundingdino.values(), prompt]
    done = subprocess.run(
        [*map(str, [*command, THRESHOLD, *upright])], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    answers = json.loads(done.stdout.splitlines()[-1])

    for (image_id, instances), path, direct in zip(sorted(ours.items()), upright, answers, strict=True):
        with Image.open(path) as picture:
            width, height = picture.size
        named = [
            index
            for index, words in enumerate(direct["words"])
            if words.replace("[CLS]", "").replace("[SEP]", "").strip()
        ]
        expected = np.array(direct["boxes"]).reshape(-1, 4)[named].clip(0, [width, height, width, height])
        found = np.array([instance.box_xyxy for instance in instances]).reshape(-1, 4)
        assert len(found) == len(expected) > 0, image_id
        order, own_order = np.lexsort(expected.round(1).T), np.lexsort(found.round(1).T)
        assert_allclose(found[own_order], expected[order], atol=0.05)
        scores = np.array([instance.score for instance in instances])[own_order]
        # The package's score may be that of a full stop, which is no word of any phrase.
        assert (scores > THRESHOLD).all()
        assert (scores <= np.array(direct["scores"])[named][order] + 1e-4).all()


Search = Callable[[list[Picture]], list[Found]]


@pytest.fixture(scope="module")
def searching(
    original_groundingdino: dict[str, str],
    groundingdino_python: str,
    phrases: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[float], Search]]:
    """The detector with a threshold, as a function of pictures alone."""
    opened: list[OriginalGroundingDinoDetector] = []

    def make(threshold: float) -> Search:
        values = {"detector": "groundingdino", "detector_model": original_groundingdino["checkpoint"], "device": "cpu"}
        values |= {"text_encoder": original_groundingdino["bert"], "python": groundingdino_python}
        config = PartsConfig.model_validate(values | {"phrases": phrases, "threshold": threshold})
        workspace = Workspace(tmp_path_factory.mktemp("detector") / "work", create=True)
        opened.append(OriginalGroundingDinoDetector(workspace, config))
        return opened[-1].detect

    yield make
    for detector in opened:
        detector.close()


@pytest.fixture(scope="module")
def search(searching: Callable[[float], Search]) -> Search:
    return searching(LOW_THRESHOLD)


def picture(folder: Path, pixels: Image.Image) -> Picture:
    path = folder / f"{len(list(folder.iterdir()))}.png"
    pixels.save(path)
    facts = {"vehicle_id": "1", "source": "s", "sha256": "0" * 64, "width": pixels.width, "height": pixels.height}
    return Picture(ImageRecord(image_id=f"1/{path.stem}", path=path.name, **facts), path)


def blobs(width: int, height: int, seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def test_an_answer_does_not_depend_on_the_other_pictures_of_the_call(search: Search, tmp_path: Path) -> None:
    shapes = [(300, 20), (20, 300), (240, 12)]  # the package enlarges others to many more pixels
    pictures = [picture(tmp_path, blobs(*shape, seed)) for seed, shape in enumerate(shapes)]
    together = search(pictures)
    assert all(found.instances for found in together)
    assert len({found.instances[0].box_xyxy for found in together}) == len(shapes)
    assert [search([own])[0] for own in reversed(pictures)] == together[::-1]


@pytest.mark.parametrize(
    "pixels",
    [
        pytest.param(Image.new("RGB", (12, 12), "red"), id="12 pixels"),
        pytest.param(Image.new("RGB", (600, 20), "red"), id="30:1"),
        pytest.param(Image.new("RGB", (20, 600), "red"), id="1:30"),
        pytest.param(Image.linear_gradient("L"), id="greyscale"),
        pytest.param(Image.linear_gradient("L").convert("CMYK").convert("P"), id="palette"),
    ],
)
def test_odd_pictures_are_answered_like_others(pixels: Image.Image, search: Search, tmp_path: Path) -> None:
    (found,) = search([picture(tmp_path, pixels)])
    assert found.instances
    for instance in found.instances:
        assert np.isfinite(instance.box_xyxy).all()
        assert LOW_THRESHOLD < instance.score <= 1
        x0, y0, x1, y1 = instance.box_xyxy
        assert 0 <= (x0 + x1) / 2 <= pixels.width
        assert 0 <= (y0 + y1) / 2 <= pixels.height


def test_finding_nothing_is_a_normal_answer(searching: Callable[[float], Search], tmp_path: Path) -> None:
    pictures = [picture(tmp_path, blobs(90, 60, 0)), picture(tmp_path, blobs(31, 70, 1))]
    assert searching(0.999999)(pictures) == [Found(), Found()]


def test_original_boxes_become_masks_by_segment_anything_and_grids(
    squares: Path, original_groundingdino: dict[str, str], groundingdino_python: str, phrases: Path, tmp_path: Path
) -> None:
    workspace = tmp_path / "work"
    run_data("import", squares, "-w", workspace)
    sam = make_segment_anything(tmp_path / "sam.pth")
    command = parts_command(workspace, original_groundingdino, groundingdino_python, phrases)
    summary = run_data(*command, "--segmenter-model", sam)
    assert summary["kept"] == 2
    for record in Workspace(workspace).records("parts", ImageParts):
        assert record.origin.detector == "groundingdino"
        assert record.origin.segmenter == "segment-anything"
        assert record.instances
        assert all(instance.mask is not None for instance in record.instances)
        assert set(record.grid.cells) <= {instance.part for instance in record.instances}
        size = record.instances[0].mask.size if record.instances[0].mask else (1, 1)
        cells = geometry.patch_grid(record.instances, size, record.grid.rows, record.grid.cols, record.grid.coverage)
        assert cells == record.grid


def test_an_interpreter_without_the_package_and_a_strange_checkpoint_are_one_sentence(
    squares: Path, original_groundingdino: dict[str, str], groundingdino_python: str, phrases: Path, tmp_path: Path
) -> None:
    workspace = tmp_path / "work"
    run_data("import", squares, "-w", workspace)
    boxes_alone = ["--segmenter", "none", "--overwrite"]
    command = parts_command(workspace, original_groundingdino, sys.executable, phrases)
    here = run_data(*command, *boxes_alone, code=1)
    assert f"needs the package 'groundingdino-py', which {sys.executable} does not have" in here["error"]["message"]
    unknown = tmp_path / "unknown.toml"
    unknown.write_text('name = "own"\nversion = 1\n[phrases]\nroof = ["🚗"]\n')
    command = parts_command(workspace, original_groundingdino, groundingdino_python, unknown)
    strange = run_data(*command, *boxes_alone, code=2)
    assert "the phrase '🚗' has no token that the model knows" in strange["error"]["message"]
    make_segment_anything(tmp_path / "sam.pth")
    other_file = original_groundingdino | {"checkpoint": str(tmp_path / "sam.pth")}
    other = run_data(*parts_command(workspace, other_file, groundingdino_python, phrases), *boxes_alone, code=1)
    assert "sam.pth: holds no table 'model'" in other["error"]["message"]
    command = parts_command(workspace, original_groundingdino, groundingdino_python, phrases)
    larger = run_data(*command, *boxes_alone, "--detector-config", "GroundingDINO_SwinB", code=1)
    assert "not the weights of GroundingDINO_SwinB" in larger["error"]["message"]
