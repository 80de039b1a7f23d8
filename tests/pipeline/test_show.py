"""The contact sheet: parts in their colours where the masks are, captions of any script, a seeded sample."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pfcvr import geometry, lettering
from pfcvr.config import ShowConfig
from pfcvr.errors import NothingKept, WorkspaceError
from pfcvr.pipeline import show
from pfcvr.records import PARTS, PartInstance


def draw(small, out: Path, **settings) -> show.Sheet:
    return show.run(small.workspace, ShowConfig(out=out, **settings))


def test_sheet_holds_the_sample_and_a_legend_of_all_six_colours(whole, tmp_path) -> None:
    sheet = draw(whole, tmp_path / "sheet.png", sample=8)
    assert (sheet.images, sheet.missing) == (8, 0)
    with Image.open(tmp_path / "sheet.png") as picture:
        legend = np.asarray(picture)[: show.LEGEND_HEIGHT]
        assert picture.width == 6 * (show.TILE_WIDTH + show.MARGIN) + show.MARGIN
    for part in PARTS:
        assert (legend == show.COLOURS[part]).all(axis=-1).sum() > 100
    assert len(set(show.COLOURS.values())) == 6


def test_masks_are_tinted_inside_only_and_boxes_are_outlined() -> None:
    picture = Image.new("RGB", (30, 20), (100, 100, 100))
    mask = np.zeros((20, 30), dtype=bool)
    mask[2:9, 0:9] = True
    instances = (
        PartInstance(part="roof", box_xyxy=(0, 2, 9, 9), mask=geometry.encode_mask(mask)),
        PartInstance(part="wheels", box_xyxy=(15, 5, 25, 15)),
    )
    drawn = np.asarray(show.overlay(picture, instances))
    assert (drawn[2:9, 0:9] != 100).any(axis=-1).all()
    assert (drawn[2, 0:9] == show.COLOURS["roof"]).all()
    assert (drawn[2:9, 0] == show.COLOURS["roof"]).all()
    assert (drawn[4:7, 2:7] != show.COLOURS["roof"]).any(axis=-1).all()
    assert (drawn[5, 15:25] == show.COLOURS["wheels"]).all()
    assert (drawn[7:13, 17:23] == 100).all()
    drawn_outside = drawn.copy()
    drawn_outside[2:9, 0:9] = drawn_outside[5:15, 15:25] = 100
    assert (drawn_outside == 100).all()


def test_captions_in_any_script_and_of_any_length_are_drawn(small, tmp_path) -> None:
    small.add_images({"车辆": 2, "é": 1})
    texts = ["白色轿车，车顶有行李架", "Μαύρο 🚗 αυτοκίνητο", "x" * 5000]
    small.add_captions({image.image_id: [text] for image, text in zip(small.images, texts, strict=True)})
    assert draw(small, tmp_path / "sheet.png").images == 3


def test_caption_lines_fit_the_tile_and_the_cut_is_marked() -> None:
    lines = show.wrapped("a white car with dark windows " * 30)
    assert len(lines) == show.CAPTION_LINES
    assert all(lettering.font().getlength(line) <= show.TILE_WIDTH for line in lines)
    assert lines[-1].endswith("…")
    assert show.wrapped("a short caption") == ["a short caption"]


def test_letters_that_the_font_lacks_are_told_by_their_code_points() -> None:
    assert lettering.legible("A white SUV, 5 doors.") == "A white SUV, 5 doors."
    assert lettering.legible("Škoda naïve Жигули Ωμέγα … ’ —") == "Škoda naïve Жигули Ωμέγα … ’ —"
    assert lettering.legible("白 car 🚗") == "[U+767D] car [U+1F697]"
    assert show.wrapped("白色") == ["[U+767D][U+8272]"]


def test_without_matplotlib_what_pillows_font_lacks_is_still_told(monkeypatch) -> None:
    monkeypatch.setattr(lettering, "find_spec", lambda name: None)
    for cached in (lettering.font, lettering._is_drawn):
        cached.cache_clear()
    try:
        assert lettering.legible("car 车") == "car [U+8F66]"
        assert lettering.font().getname()[0] != "DejaVu Sans"
    finally:
        for cached in (lettering.font, lettering._is_drawn):
            cached.cache_clear()


def test_two_captions_of_different_letters_never_look_the_same(small, tmp_path) -> None:
    small.add_images({"1": 1})
    sheets = []
    for number, text in enumerate(["白色轿车", "黑色货车"]):
        small.add_captions({small.images[0].image_id: [text]})
        draw(small, tmp_path / f"{number}.png")
        sheets.append((tmp_path / f"{number}.png").read_bytes())
        shutil.rmtree(small.workspace.folder("caption"))
    assert sheets[0] != sheets[1]


def test_sample_follows_the_seed(whole) -> None:
    def sample(seed: int) -> list[str]:
        return [joined.image.image_id for joined in show.sample_images(whole.workspace, 6, seed)]

    assert sample(1) == sample(1) == sorted(sample(1))
    assert sample(1) != sample(2)
    assert len(show.sample_images(whole.workspace, 400, 1)) == 14


def test_same_seed_gives_the_same_picture(whole, tmp_path) -> None:
    for name in ("a.png", "b.png"):
        draw(whole, tmp_path / name, sample=5, seed=3)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_images_whose_file_is_gone_are_counted_and_all_gone_is_an_error(whole, tmp_path) -> None:
    (whole.source / whole.images[0].path).unlink()
    sheet = draw(whole, tmp_path / "sheet.png")
    assert (sheet.images, sheet.missing) == (13, 1)
    for image in whole.images[1:]:
        (whole.source / image.path).unlink()
    with pytest.raises(NothingKept, match="not one of 14 image files can be read; put the files back"):
        draw(whole, tmp_path / "sheet.png")


def test_place_that_cannot_be_written_is_named(whole, tmp_path) -> None:
    with pytest.raises(WorkspaceError, match=r"cannot be written .*; give another --out FILE.png"):
        draw(whole, tmp_path)


def test_an_older_sheet_stays_whole_when_the_new_one_cannot_be_finished(whole, tmp_path, monkeypatch) -> None:
    out = tmp_path / "sheet.png"
    draw(whole, out, sample=2)
    before = out.read_bytes()

    def half_saved(picture, file, **_) -> None:
        if isinstance(file, str | Path):
            Path(file).write_bytes(b"half a picture")
        else:
            file.write(b"half a picture")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", half_saved)
    with pytest.raises(WorkspaceError, match="No space left on device"):
        draw(whole, out, sample=3)
    assert out.read_bytes() == before
