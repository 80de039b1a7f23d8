"""What docs/python.md and the card of a model show works as it stands there."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pfcvr.config import IndexConfig, SearchConfig
from pfcvr.errors import DataError, UsageError
from pfcvr.model.data import open_data
from pfcvr.model.gallery import index, read_gallery
from pfcvr.model.pfcvr import PfcvrModel
from pfcvr.model.search import search

PAGE = Path(__file__).parents[3] / "docs" / "python.md"
SENTENCE = "a red car with green windows"


@pytest.fixture
def place(finished_run: Path, painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a reader of the page: a run, a data set, some photos."""
    shutil.copytree(finished_run, tmp_path / "run")
    shutil.copytree(painted, tmp_path / "dataset")
    (tmp_path / "photos").mkdir()
    for number, content in enumerate(contents(painted)):
        (tmp_path / "photos" / f"{number:02d}.png").write_bytes(content)
        with Image.open(tmp_path / "photos" / f"{number:02d}.png") as image:
            image.save(tmp_path / "photos" / f"{number:02d}.jpg")
    shutil.copy(tmp_path / "photos" / "03.jpg", tmp_path / "car.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(painted: Path) -> list[bytes]:
    test = open_data(str(painted)).split("test")
    return [test.image_bytes(row) for row in range(len(test))]


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)


def run_block(heading: str, number: int = 0) -> dict[str, Any]:
    """The names that a block of the page leaves behind."""
    section = PAGE.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    names: dict[str, Any] = {}
    exec(compile(blocks(section)[number], f"{PAGE.name}, {heading}", "exec"), names)
    return names


def test_the_page_has_no_block_that_is_not_run_here() -> None:
    assert len(blocks(PAGE.read_text(encoding="utf-8"))) == 6


def test_a_sentence_is_scored_against_a_picture(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left = run_block("How well a sentence fits a picture")
    assert left["scores"].shape == (2,)
    assert left["scores"].abs().max() <= 1 + 1e-6
    assert str(left["scores"].tolist()) in capsys.readouterr().out


def test_photos_without_names_are_ranked(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left = run_block("Search pictures by a sentence")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[0] == f"{left['scores'].max():.3f}  {left['photos'][int(left['scores'].argmax())]}"


def test_a_gallery_is_built_searched_and_read(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left = run_block("Search pictures by a sentence", 1)
    assert [hit.rank for hit in left["answer"].hits] == [1, 2, 3, 4, 5]
    assert capsys.readouterr().out.splitlines()[-1] == "(15, 32) 015/0"


def test_a_data_set_is_opened_by_both_ways(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = run_block("Open a data set")
    assert ours["content"] == contents(place / "dataset")[0]
    theirs = run_block("Open a data set", 1)
    assert theirs["first"]["captions"] == ours["test"].captions[0]
    assert theirs["grid"].shape == (6, 4, 4)
    assert "windows [" in capsys.readouterr().out


def test_a_model_is_trained_and_evaluated(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left = run_block("Train and evaluate")
    assert left["result"].steps == 4
    assert "chance:" in capsys.readouterr().out
    assert PfcvrModel.from_pretrained(place / "short-run" / "model").identities == 12


def test_the_card_of_a_model_shows_a_block_that_runs(place: Path) -> None:
    (block,) = blocks((place / "run" / "model" / "README.md").read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    exec(block.replace("OWNER/NAME", "run/model"), names)
    left = run_block("How well a sentence fits a picture")
    assert names["scores"].shape == (1,)
    assert left["model"].config == names["model"].config


def test_embedded_pictures_and_sentences_are_those_of_index_and_search(place: Path) -> None:
    """To the bit: from files, from their contents, and from a PIL image of a file that loses nothing."""
    index(IndexConfig(run=Path("run"), data="dataset", out=Path("gallery"), split="test", workers=0), quiet=True)
    stored = torch.from_numpy(read_gallery(Path("gallery")).features)
    model = PfcvrModel.from_pretrained("run/model")
    files = sorted(Path("photos").glob("*.png"))
    assert torch.equal(model.embed_images(files), stored)
    assert torch.equal(model.embed_images([str(file) for file in files]), stored)
    assert torch.equal(model.embed_images(contents(Path("dataset"))), stored)
    assert torch.equal(model.embed_images([Image.open(file) for file in files]), stored)
    (query,) = model.embed_texts([SENTENCE])
    best = search(SearchConfig(source=Path("gallery"), text=SENTENCE, k=1)).hits[0]
    assert float((stored.numpy() @ query.numpy()).max()) == best.score


def test_many_pictures_are_embedded_some_at_a_time_and_in_order(tiny_model: Callable[..., PfcvrModel]) -> None:
    model = tiny_model().eval()
    pictures = [Image.new("RGB", (30, 20), (number, 255 - number, 90)) for number in range(130)]
    together = model.embed_images(pictures)
    alone = torch.cat([model.embed_images([picture]) for picture in pictures])
    torch.testing.assert_close(together, alone)
    assert together.norm(dim=1).numpy() == pytest.approx(1)
    assert model.embed_images([]).shape == (0, 32)
    assert model.embed_texts([]).shape == (0, 32)


def test_a_picture_is_turned_as_its_file_says(tiny_model: Callable[..., PfcvrModel], tmp_path: Path) -> None:
    model = tiny_model().eval()
    upright = Image.effect_mandelbrot((60, 40), (-2, -1, 1, 1), 60).convert("RGB")
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    expected = model.embed_images([upright])
    torch.testing.assert_close(model.embed_images([tmp_path / "turned.png"]), expected)
    with Image.open(tmp_path / "turned.png") as image:
        torch.testing.assert_close(model.embed_images([image]), expected)


def test_what_cannot_be_embedded_is_told_in_one_sentence(tiny_model: Callable[..., PfcvrModel], tmp_path: Path) -> None:
    model = tiny_model().eval()
    (tmp_path / "note.jpg").write_text("no picture")
    with pytest.raises(DataError, match=r"absent\.jpg: cannot be read \(.*No such file"):
        model.embed_images([tmp_path / "absent.jpg"])
    with pytest.raises(DataError, match=r"note\.jpg: cannot be decoded"):
        model.embed_images([tmp_path / "note.jpg"])
    with pytest.raises(DataError, match=r"the content of an image file: cannot be decoded"):
        model.embed_images([b"no picture"])
    with pytest.raises(DataError, match="PIL image of mode I;16, expected 8 bits a channel"):
        model.embed_images([Image.new("I;16", (20, 20))])
    with pytest.raises(UsageError, match="expected a list"):
        model.embed_texts(SENTENCE)
