import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pfcvr.config import IndexConfig, SearchConfig
from pfcvr.errors import CheckpointError, DataError, SealedError, UsageError
from pfcvr.model.gallery import index, read_gallery
from pfcvr.model.panel import (
    FRAME,
    RIGHT,
    TILE,
    UNKNOWN,
    WRONG,
    PanelHit,
    PanelRow,
    render_panel,
    row_places,
)
from pfcvr.model.pfcvr import PfcvrModel
from pfcvr.model.retrievers.pfcvr import PfcvrRetriever
from pfcvr.model.search import search

SENTENCE = "a red car with green windows"


@pytest.fixture(scope="module")
def gallery(finished_run: Path, painted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("galleries") / "gallery"
    index(IndexConfig(run=finished_run, data=str(painted), out=out, workers=0), quiet=True)
    return out


def config_for(source: Path, **fields: Any) -> SearchConfig:
    return SearchConfig(**{"source": source, "text": SENTENCE, "workers": 0, **fields})


def test_the_best_images_come_first_with_their_ids(finished_run: Path, painted: Path) -> None:
    answer = search(config_for(finished_run, data=str(painted), k=5), quiet=True)
    assert answer.gallery == 15
    assert [hit.rank for hit in answer.hits] == [1, 2, 3, 4, 5]
    scores = [hit.score for hit in answer.hits]
    assert scores == sorted(scores, reverse=True)
    assert all(hit.image_id.startswith(hit.vehicle_id) for hit in answer.hits)
    assert all(hit.right is None for hit in answer.hits)
    assert answer.text().splitlines()[1].split()[2] == answer.hits[0].image_id
    assert answer.as_dict()["hits"][0]["image_id"] == answer.hits[0].image_id


def test_a_gallery_answers_as_the_run_does(finished_run: Path, painted: Path, gallery: Path) -> None:
    direct = search(config_for(finished_run, data=str(painted), split="all", k=60), quiet=True)
    stored = search(config_for(gallery, k=60), quiet=True)
    assert [hit.image_id for hit in stored.hits] == [hit.image_id for hit in direct.hits]
    assert [hit.score for hit in stored.hits] == pytest.approx([hit.score for hit in direct.hits])


def test_a_gallery_holds_unit_features_of_every_image_and_is_built_once(
    finished_run: Path, painted: Path, gallery: Path
) -> None:
    found = read_gallery(gallery)
    assert np.linalg.norm(found.features, axis=1) == pytest.approx(np.ones(60), abs=1e-5)
    assert found.images[0].image_id == "000/0"
    again = index(IndexConfig(run=finished_run, data=str(painted), out=gallery, workers=0), quiet=True)
    assert (again.already_done, again.images, again.dimensions) == (True, 60, 32)
    assert "60 images" in again.text()


def test_every_file_of_a_gallery_has_the_mode_of_a_new_file(gallery: Path, tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    assert {path.stat().st_mode for path in gallery.iterdir()} == {(tmp_path / "new").stat().st_mode}


def test_more_answers_than_images_are_all_images(gallery: Path) -> None:
    assert len(search(config_for(gallery, k=1000), quiet=True).hits) == 60


def test_a_sentence_that_the_model_cannot_read_to_its_end_is_told(gallery: Path) -> None:
    answer = search(config_for(gallery, text=f"{SENTENCE} " * 20, k=1))
    assert answer.as_dict()["truncated"]
    assert answer.text().endswith("the sentence is longer than the model reads; its end was not searched for")
    assert not search(config_for(gallery, k=1)).truncated


def test_words_that_the_captions_hardly_had_are_told(gallery: Path) -> None:
    answer = search(config_for(gallery, text="a red taxi with green windows; ein Taxi, 白", k=1))
    assert answer.as_dict()["rare_words"] == ("taxi", "ein", "白")
    assert answer.text().endswith("rare or absent in the captions that the model learned from: taxi, ein, 白")
    plain = search(config_for(gallery, k=1))
    assert (plain.rare_words, "rare" in plain.text()) == ((), False)


def test_a_vocabulary_that_was_not_made_of_the_captions_says_nothing_of_them(
    tiny_model: Callable[..., PfcvrModel],
) -> None:
    model = tiny_model()
    assert PfcvrRetriever(model, "cpu").rare_words("a red zeppelin") == ["zeppelin"]
    model.config = model.config.model_copy(update={"vocabulary": "clip"})
    assert PfcvrRetriever(model, "cpu").rare_words("a red zeppelin") == []


def test_a_known_answer_frames_right_and_wrong(gallery: Path, tmp_path: Path) -> None:
    answer = search(config_for(gallery, k=12, image_id="003/1", out=tmp_path / "panel.png"), quiet=True)
    assert {hit.right for hit in answer.hits} <= {True, False}
    assert all(hit.right == (hit.vehicle_id == "003") for hit in answer.hits)
    (place,) = row_places([PanelRow(SENTENCE, [], described=b"")])
    with Image.open(tmp_path / "panel.png") as sheet:
        for number, hit in enumerate(answer.hits):
            assert sheet.getpixel(place.frame_corner(number)) == (RIGHT if hit.right else WRONG)


class TestWhatAUserIsTold:
    def test_an_empty_sentence(self, gallery: Path) -> None:
        with pytest.raises(UsageError, match="the text to search for is empty"):
            search(config_for(gallery, text="  "), quiet=True)

    def test_weights_that_give_no_finite_features(self, finished_run: Path, painted: Path, tmp_path: Path) -> None:
        shutil.copytree(finished_run, tmp_path / "run")
        path = tmp_path / "run" / "model" / "model.safetensors"
        weights = load_file(path)
        save_file({name: torch.full_like(weight, float("nan")) for name, weight in weights.items()}, path)
        with pytest.raises(DataError, match="a feature is not a finite number; the weights are damaged"):
            search(config_for(tmp_path / "run", data=str(painted)), quiet=True)
        with pytest.raises(DataError, match="a feature is not a finite number; the weights are damaged"):
            index(IndexConfig(run=tmp_path / "run", data=str(painted), out=tmp_path / "new", workers=0), quiet=True)

    def test_neither_gallery_nor_run(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="neither a gallery of pfcvr index nor a run of pfcvr train"):
            search(config_for(tmp_path), quiet=True)

    def test_a_run_without_images_to_search(self, finished_run: Path) -> None:
        with pytest.raises(UsageError, match="is a run: say with --data which images to search"):
            search(config_for(finished_run), quiet=True)

    def test_a_described_image_that_is_not_there(self, gallery: Path) -> None:
        with pytest.raises(DataError, match="no image 'x/1' among the 60 searched"):
            search(config_for(gallery, image_id="x/1"), quiet=True)

    def test_a_damaged_gallery(self, gallery: Path, tmp_path: Path) -> None:
        shutil.copytree(gallery, tmp_path / "gallery")
        features = tmp_path / "gallery" / "features.safetensors"
        features.write_bytes(features.read_bytes()[:100])
        with pytest.raises(CheckpointError, match="damaged gallery .* build it again with pfcvr index"):
            search(config_for(tmp_path / "gallery"), quiet=True)
        features.unlink()
        with pytest.raises(CheckpointError, match=r"no gallery here \(features.safetensors missing\)"):
            search(config_for(tmp_path / "gallery"), quiet=True)

    def test_a_gallery_whose_run_is_gone(self, finished_run: Path, painted: Path, tmp_path: Path) -> None:
        shutil.copytree(finished_run, tmp_path / "run")
        config = IndexConfig(run=tmp_path / "run", data=str(painted), out=tmp_path / "gallery", workers=0)
        index(config, quiet=True)
        shutil.rmtree(tmp_path / "run")
        with pytest.raises(CheckpointError, match="the run it was built with, .*run, is gone or holds another model"):
            search(config_for(tmp_path / "gallery"), quiet=True)

    def test_another_gallery_in_the_folder(
        self, finished_run: Path, painted: Path, gallery: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(SealedError, match=r"holds a gallery of something else \(split differ\)"):
            index(IndexConfig(run=finished_run, data=str(painted), out=gallery, split="test", workers=0), quiet=True)
        (tmp_path / "mine.txt").write_text("mine")
        with pytest.raises(CheckpointError, match="exists and is not a gallery"):
            index(IndexConfig(run=finished_run, data=str(painted), out=tmp_path, workers=0), quiet=True)

    def test_pixels_of_another_data_set(
        self, gallery: Path, tmp_path: Path, make_data: Callable[..., Path], rows_of: Callable
    ) -> None:
        other = make_data(train=rows_of(range(1)))
        with pytest.raises(DataError, match="no image '.*', which the gallery has; give its data set with --data"):
            search(config_for(gallery, data=str(other), out=tmp_path / "panel.png"), quiet=True)


def test_a_panel_has_a_row_a_sentence_and_coloured_frames(tmp_path: Path, image_file: Callable[..., bytes]) -> None:
    yellow = image_file(np.full((40, 80, 3), (250, 220, 20), dtype=np.uint8))
    hits = [PanelHit(yellow, 0.5, f"7/{number}", right) for number, right in enumerate((True, False, None))]
    rows = [
        PanelRow("A yellow van. " * 30, hits, described=yellow),
        PanelRow("白色的车 — une voiture blanche", hits * 4),
        PanelRow("nothing found", []),
    ]
    render_panel(rows, tmp_path / "new folder" / "panel.png")
    with Image.open(tmp_path / "new folder" / "panel.png") as sheet:
        places = row_places(rows)
        assert sheet.height > places[2].bottom
        for number, colour in enumerate((RIGHT, WRONG, UNKNOWN)):
            x, y = places[0].frame_corner(number)
            for corner in ((x, y), (x + TILE + 2 * FRAME - 1, y + TILE + 2 * FRAME - 1)):
                assert sheet.getpixel(corner) == colour
            middle = sheet.getpixel((x + FRAME + TILE // 2, y + FRAME + TILE // 2))
            assert np.abs(np.subtract(middle, (250, 220, 20))).max() <= 4
        x, y = places[1].frame_corner(11)
        assert y > places[1].top + 2 * TILE, "the twelfth image stands on the third line"
        assert sheet.getpixel((x, y)) == UNKNOWN


def test_the_words_below_neighbours_do_not_run_into_each_other(
    tmp_path: Path, image_file: Callable[..., bytes]
) -> None:
    """The widest line, that of a negative cosine, leaves white between one image's column and the next."""
    black = image_file(np.zeros((40, 40, 3), dtype=np.uint8))
    hits = [PanelHit(black, -0.999, "v/1", right=False) for _ in range(2)]
    render_panel([PanelRow("a car", hits)], tmp_path / "panel.png")
    with Image.open(tmp_path / "panel.png") as panel:
        pixels = np.asarray(panel.convert("L"))
    (place,) = row_places([PanelRow("a car", hits)])
    (_, y), (next_column, _) = (place.frame_corner(number) for number in (0, 1))
    below = pixels[y + TILE + 2 * FRAME :]
    assert (below[:, next_column - 6 : next_column] == 255).all()
    assert (below[:, next_column - 100 : next_column] < 255).any()


def test_a_sentence_stands_above_its_images_as_wide_as_they_are() -> None:
    words = "A white delivery van with a roof rack, black mirrors and a dent in the left sliding door. "
    short, long, endless, foreign = row_places(
        [PanelRow(words * n, []) for n in (1, 3, 500)] + [PanelRow("白色的车", [])]
    )
    assert short.sentence == [words.strip()]
    assert (len(long.sentence), " ".join(long.sentence)) == (2, (words * 3).strip())
    assert (len(endless.sentence), endless.sentence[-1][-1]) == (6, "…")
    assert foreign.sentence == ["[U+767D][U+8272][U+7684][U+8F66]"], "the font has no Chinese letters"
    for place in (short, long, endless, foreign):
        assert place.left == 16
        assert place.top >= place.sentence_top + 17 * len(place.sentence)


def test_room_for_described_images_is_there_where_one_is_known() -> None:
    with_one = row_places([PanelRow("a car", []), PanelRow("a van", [], described=b"")])
    assert {place.left for place in with_one} == {112}
