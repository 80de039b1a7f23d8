"""The picture a model is shown: size, tokens, colors, orientation; compared with Qwen3-VL's own image processor."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from pfcvr.config import ImageInputConfig, parse
from pfcvr.errors import UsageError
from pfcvr.pipeline.captioners.image_input import fitted_size, prepare, vision_tokens
from pfcvr.pipeline.images import UnreadableImage

DEFAULT = ImageInputConfig()


def content(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def shown(jpeg: bytes) -> Image.Image:
    image = Image.open(BytesIO(jpeg))
    assert image.format == "JPEG"
    assert image.mode == "RGB"
    return image


@given(width=st.integers(16, 9000), height=st.integers(16, 9000))
def test_sizes_and_tokens_are_those_of_qwen_and_its_processor_leaves_them_alone(width: int, height: int) -> None:
    bounds = {"factor": 32, "min_pixels": DEFAULT.min_pixels, "max_pixels": DEFAULT.max_pixels}
    if max(width, height) > DEFAULT.max_aspect * min(width, height):
        return
    expected = smart_resize(height, width, **bounds)
    fitted = fitted_size(width, height, DEFAULT)
    assert (fitted[1], fitted[0]) == expected
    assert smart_resize(fitted[1], fitted[0], **bounds) == expected
    assert vision_tokens(*fitted) == expected[0] * expected[1] // 1024
    assert 256 <= vision_tokens(*fitted) <= 640


def test_a_small_crop_is_enlarged_and_keeps_its_aspect() -> None:
    crop = Image.new("RGB", (96, 128), (200, 30, 30))
    prepared = prepare(content(crop), DEFAULT)
    assert shown(prepared.jpeg).size == (prepared.width, prepared.height) == (448, 608)
    assert prepared.vision_tokens == 14 * 19
    assert np.abs(np.asarray(shown(prepared.jpeg), int) - (200, 30, 30)).max() <= 3


def test_a_forty_megapixel_picture_is_reduced() -> None:
    picture = Image.new("RGB", (8000, 5000), "blue")
    prepared = prepare(content(picture, "JPEG"), DEFAULT)
    assert prepared.vision_tokens <= 640
    assert abs(prepared.width / prepared.height - 1.6) < 0.06
    assert len(prepared.jpeg) < 200_000


@pytest.mark.parametrize(
    ("size", "reason", "detail"),
    [
        ((12, 12), "too_small", "12 x 12 pixels, a side under 16"),
        ((900, 30), "extreme_aspect", "900 x 30 pixels, one side more than 20 times the other"),
        ((30, 900), "extreme_aspect", "30 x 900 pixels"),
    ],
)
def test_pictures_that_no_words_can_be_asked_for_are_refused(size: tuple[int, int], reason: str, detail: str) -> None:
    with pytest.raises(UnreadableImage, match=detail) as caught:
        prepare(content(Image.new("RGB", size)), DEFAULT)
    assert caught.value.reason == reason


def test_the_picture_is_turned_upright() -> None:
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[:, :64] = (255, 255, 0)
    exif = Image.Exif()
    exif[0x0112] = 6
    prepared = prepare(content(Image.fromarray(pixels), "JPEG", exif=exif, quality=95), DEFAULT)
    assert prepared.height > prepared.width
    top, bottom = np.asarray(shown(prepared.jpeg))[[10, -10], prepared.width // 2].astype(int)
    assert top[0] > 230
    assert bottom.max() < 25
    assert 0x0112 not in shown(prepared.jpeg).getexif()


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (Image.new("L", (64, 64), 128), "PNG"),
        (Image.new("CMYK", (64, 64), (0, 0, 0, 127)), "JPEG"),
        (Image.fromarray(np.full((64, 64), 128 * 257, np.uint16)), "PNG"),
        (Image.new("P", (64, 64), 1), "GIF"),
    ],
    ids=["grey", "cmyk", "16-bit", "palette"],
)
def test_every_kind_of_pixel_arrives_as_rgb(tmp_path: Path, image: Image.Image, kind: str) -> None:
    if kind == "GIF":
        image.putpalette([0, 0, 0, 128, 128, 128])
    path = tmp_path / "image"
    path.write_bytes(content(image, kind))
    pixels = np.asarray(shown(prepare(path, DEFAULT).jpeg), int)
    assert np.abs(pixels - 128).max() <= 4


def test_the_same_picture_gives_the_same_bytes_and_a_good_size_is_left_alone() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (512, 640, 3), np.uint8))
    one, other = prepare(content(noise), DEFAULT), prepare(content(noise), DEFAULT)
    assert one == other
    assert (one.width, one.height) == (640, 512)


def test_bounds_can_be_chosen_and_a_floor_above_the_ceiling_is_refused() -> None:
    small = ImageInputConfig(min_pixels=4096, max_pixels=65536)
    assert prepare(content(Image.new("RGB", (640, 640))), small).vision_tokens == 64
    with pytest.raises(UsageError, match="min_pixels 9999999 is more than max_pixels"):
        parse(ImageInputConfig, {"min_pixels": 9_999_999}, "test")
