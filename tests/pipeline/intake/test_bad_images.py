"""Every kind of damaged, odd or hostile image file: what is refused, in which words, and that the good ones arrive."""

import hashlib
import os
import threading
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from claimed_size import png_of_claimed_size
from PIL import Image, ImageOps

from pfcvr.pipeline import images
from pfcvr.pipeline.images import UnreadableImage, inspect_image, open_rgb


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(width: int = 48, height: int = 32) -> Image.Image:
    pixels = np.random.default_rng(1).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


JPEG = encoded(photo(), "JPEG")
PNG = encoded(photo(), "PNG")
BAD = {
    "zero bytes": (b"", "empty_file", "the file has no bytes"),
    "text": (b"this is no picture\n" * 20, "not_an_image", "the content is not a picture, whatever its name says"),
    "jpeg cut in the middle": (JPEG[: len(JPEG) * 4 // 5], "truncated", "the picture is cut off or damaged: "),
    "jpeg without its last bytes": (JPEG[:-20], "truncated", "the picture is cut off or damaged: "),
    "jpeg cut in its header": (JPEG[:30], "truncated", "the file ends or is damaged inside its header"),
    "png cut in the middle": (PNG[: len(PNG) // 2], "truncated", "the picture is cut off or damaged: "),
    "png cut in its header": (PNG[:12], "truncated", "the file ends or is damaged inside its header"),
    "one pixel": (encoded(Image.new("RGB", (1, 1)), "PNG"), "too_small", "1 x 1 pixels, a side under 8"),
    "a sliver": (encoded(Image.new("RGB", (200, 7)), "PNG"), "too_small", "200 x 7 pixels, a side under 8"),
    "bomb": (png_of_claimed_size(60_000, 60_000), "too_large", "exceeds limit"),
    "large beyond use": (png_of_claimed_size(10_000, 9_000), "too_large", "10000 x 9000 pixels, more than 50,000,000"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_refused_with_its_reason_and_the_good_ones_arrive(intake, kind: str) -> None:
    content, reason, sentence = BAD[kind]
    intake.pictures("00001/000001", "00002/000003")
    intake.write("images/00001/000002.jpg", content)
    summary = intake.run_import()
    assert (summary.rows_in, summary.kept, summary.reasons) == (3, 2, {reason: 1})
    found, detail = intake.rejected()["00001/000002"]
    assert found == reason
    assert detail.startswith("images/00001/000002.jpg: ")
    assert sentence in detail
    assert f"{reason}: 1" in summary.text()
    assert list(intake.images()) == ["00001/000001", "00002/000003"]


def test_all_kinds_of_bad_files_together_cost_only_themselves(intake) -> None:
    for number, (content, _, _) in enumerate(BAD.values()):
        intake.write(f"images/00001/{number:06d}.jpg", content)
    intake.pictures("00002/000100", "00002/000101")
    summary = intake.run_import()
    assert list(intake.images()) == ["00002/000100", "00002/000101"]
    assert summary.rejected == len(BAD)
    assert "unexpected_error" not in summary.reasons


def test_a_link_out_of_the_source_is_refused_and_one_inside_is_followed(intake, tmp_path: Path) -> None:
    secret = tmp_path / "elsewhere" / "private.jpg"
    secret.parent.mkdir()
    Image.new("RGB", (20, 20)).save(secret)
    intake.pictures("00001/000001")
    os.symlink(secret, intake.root / "images/00001/000002.jpg")
    os.symlink("../../../elsewhere/private.jpg", intake.root / "images/00001/000003.jpg")
    os.symlink("000001.jpg", intake.root / "images/00001/000004.jpg")
    os.symlink("nowhere.jpg", intake.root / "images/00001/000005.jpg")
    os.symlink(secret.parent, intake.root / "images/00009")
    os.symlink("00001", intake.root / "images/00010")
    intake.run_import()
    assert list(intake.images()) == ["00001/000001", "00001/000004"]
    assert intake.reasons() == {
        "00001/000002": "outside_root",
        "00001/000003": "outside_root",
        "00001/000005": "missing_file",
        "images/00009": "outside_root",
        "images/00010": "linked_folder",
    }
    assert "leads out of the source folder" in intake.rejected()["00001/000002"][1]


def test_a_pipe_or_folder_named_like_an_image_does_not_hang_the_run(intake) -> None:
    intake.pictures("00001/000001")
    os.mkfifo(intake.root / "images/00001/000002.jpg")
    (intake.root / "images/00001/000003.jpg").mkdir()
    intake.run_import()
    assert list(intake.images()) == ["00001/000001"]
    assert intake.rejected() == {"00001/000002": ("not_an_image", "images/00001/000002.jpg: not a plain file")}


def test_names_that_are_not_text_are_refused_and_odd_ones_kept(intake) -> None:
    intake.pictures("00001/000001", "00001/two words 'quoted'", "00001/车")
    folder = os.fsencode(intake.root / "images/00001")
    for name in (b"\xff\xfe.jpg", b"line\nbreak.jpg"):
        with open(folder + b"/" + name, "wb") as file:
            file.write(JPEG)
    intake.run_import()
    assert list(intake.images()) == ["00001/000001", "00001/two words 'quoted'", "00001/车"]
    assert set(intake.reasons().values()) == {"bad_name"}
    assert r"images/00001/line\nbreak.jpg" in intake.reasons()
    assert r"images/00001/\udcff\udcfe.jpg" in intake.reasons()


def deep_grey() -> Image.Image:
    ramp = np.linspace(0, 65535, 48 * 32).reshape(32, 48).astype(np.uint16)
    return Image.fromarray(ramp)


UNUSUAL = {
    "cmyk": encoded(photo().convert("CMYK"), "JPEG", quality=95),
    "16-bit": encoded(deep_grey(), "PNG"),
    "grey": encoded(photo().convert("L"), "JPEG"),
    "one bit": encoded(photo().convert("1"), "PNG"),
    "palette": encoded(photo().convert("P"), "PNG", transparency=b"\x00\x80\xff"),
    "alpha": encoded(photo().convert("RGBA"), "PNG"),
    "progressive": encoded(photo(), "JPEG", progressive=True),
    "png named jpg": PNG,
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_an_unusual_picture_is_kept_with_its_own_bytes(intake, kind: str) -> None:
    file = intake.write("images/00001/000001.jpg", UNUSUAL[kind])
    summary = intake.run_import()
    image = intake.images()["00001/000001"]
    assert (summary.kept, summary.rejected) == (1, 0)
    assert (image.width, image.height) == (48, 32)
    assert image.sha256 == hashlib.sha256(UNUSUAL[kind]).hexdigest()
    rgb = open_rgb(file)
    assert (rgb.mode, rgb.size) == ("RGB", (48, 32))


def test_16_bit_grey_is_scaled_over_the_whole_range() -> None:
    grey = np.asarray(open_rgb(UNUSUAL["16-bit"]))[..., 0]
    expected = np.rint(np.asarray(deep_grey()).astype(np.float64) * 255 / 65535)
    assert (grey == expected).all()
    assert (grey.min(), grey.max()) == (0, 255)


def test_cmyk_keeps_its_colours() -> None:
    difference = np.asarray(open_rgb(UNUSUAL["cmyk"])).astype(int) - np.asarray(photo()).astype(int)
    assert np.abs(difference).mean() < 6


def test_transparency_becomes_white() -> None:
    pixels = np.zeros((10, 10, 4), np.uint8)
    pixels[:5] = (200, 10, 10, 255)
    pixels[5:] = (0, 0, 0, 0)
    rgb = np.asarray(open_rgb(encoded(Image.fromarray(pixels), "PNG")))
    assert (rgb[:5] == (200, 10, 10)).all()
    assert (rgb[5:] == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied_to_size_and_pixels(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / "turned.jpg"
    file.write_bytes(encoded(photo(), "JPEG", exif=exif))
    with Image.open(file) as image:
        expected = ImageOps.exif_transpose(image).convert("RGB")
    facts = inspect_image(file)
    assert (facts.width, facts.height) == expected.size
    assert (np.asarray(open_rgb(file)) == np.asarray(expected)).all()


def test_an_exif_block_of_rubbish_leaves_the_picture_upright(tmp_path: Path) -> None:
    file = tmp_path / "rubbish.jpg"
    file.write_bytes(encoded(photo(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff rubbish"))
    facts = inspect_image(file)
    assert (facts.width, facts.height) == (48, 32)


@pytest.mark.parametrize("content", [content for content, _, _ in BAD.values()], ids=list(BAD))
def test_opening_a_bad_file_for_use_says_why_in_one_sentence(content: bytes) -> None:
    with pytest.raises(UnreadableImage, match=r"; replace the file or leave the image out$"):
        open_rgb(content)


def test_pillows_warnings_stay_hidden_however_threads_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first thread leaves while the second is inside, and then Pillow warns in the second."""
    inside = {"first": threading.Event(), "second": threading.Event()}
    leave = {"first": threading.Event(), "second": threading.Event()}
    outcomes: dict[str, object] = {}

    def decode_slowly(_: object) -> Image.Image:
        name = threading.current_thread().name
        inside[name].set()
        assert leave[name].wait(30)
        warnings.warn_explicit("about this picture", UserWarning, "Image.py", 1, module="PIL.Image")
        return photo()

    def look() -> None:
        try:
            outcomes[threading.current_thread().name] = open_rgb(JPEG).size
        except Warning as leaked:
            outcomes[threading.current_thread().name] = leaked

    monkeypatch.setattr(images, "_decoded", decode_slowly)
    before = list(warnings.filters)
    threads = {name: threading.Thread(target=look, name=name) for name in inside}
    for name, thread in threads.items():
        thread.start()
        assert inside[name].wait(30)
    for name, thread in threads.items():
        leave[name].set()
        thread.join()
    assert outcomes == {"first": (48, 32), "second": (48, 32)}
    assert list(warnings.filters) == before


def test_a_picture_that_pillow_warns_about_is_refused_without_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "large.png"
    file.write_bytes(png_of_claimed_size(9_600, 9_600))  # Pillow warns from 89 million pixels on
    with pytest.raises(UnreadableImage, match="9600 x 9600 pixels"):
        inspect_image(file)


def test_a_jpeg_cut_anywhere_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "cut.jpg"
    for size in range(0, len(JPEG) - 2, 7):
        file.write_bytes(JPEG[:size])
        with pytest.raises(UnreadableImage) as caught:
            inspect_image(file)
        assert caught.value.reason in ("truncated", "empty_file", "not_an_image")
