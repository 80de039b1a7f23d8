"""Pictures of an evaluation: what the heads say is what they compute, and a missing head is said so."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from pfcvr.config import EvalConfig
from pfcvr.model import evaluate as evaluation
from pfcvr.model import plots
from pfcvr.model.batch import Batch
from pfcvr.model.data import Rows, open_data
from pfcvr.model.encode import Encoded, encode_split
from pfcvr.model.evaluate import evaluate
from pfcvr.model.figures import _with_gaps, _word, draw_figures
from pfcvr.model.inspection import guess_words, restore_patches, view_parts
from pfcvr.model.pfcvr import PfcvrModel
from pfcvr.model.retrievers.pfcvr import PfcvrRetriever
from pfcvr.model.tokenizer import CaptionTokenizer, train_caption_tokenizer
from pfcvr.records import PARTS

MakeModel = Callable[..., PfcvrModel]
MakeBatch = Callable[..., Batch]
MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])
OFFICIAL_PARTS = {
    "part_context": "image",
    "part_fusion": "add",
    "part_text_feature": "mean",
    "part_decoder": "detr",
    "part_decoder_depth": 2,
}
BLACK_PATCHES = {"masked_patches": "zero", "masked_patch_choice": "parts"}


@pytest.fixture(scope="module")
def rows(painted: Path) -> Rows:
    return open_data(str(painted)).split("test")


def encoded_by(model: PfcvrModel, rows: Rows) -> Encoded:
    return encode_split(PfcvrRetriever(model, "cpu"), rows, 0, quiet=True)


def test_a_run_with_all_heads_gets_all_pictures(finished_run: Path, painted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "figures"
    result = evaluate(EvalConfig(run=finished_run, data=str(painted), workers=0, figures=folder), quiet=True)
    names = ["retrieval.png", "parts-1.png", "parts-2.png", "parts-3.png", "restored.png", "words.png"]
    assert [Path(path).name for path in result["figures"]["files"]] == names
    assert result["figures"]["notes"] == []
    for name in names:
        with Image.open(folder / name) as sheet:
            assert sheet.format == "PNG"
            assert len(sheet.convert("RGB").getcolors(1 << 24)) > 100, "more than an empty sheet"
    assert f"picture: {folder / 'words.png'}" in evaluation.text(result)


def test_a_head_that_was_not_trained_is_named(tiny_model: MakeModel, rows: Rows, tmp_path: Path) -> None:
    off = dict.fromkeys(("id", "part_itc", "mlm", "mim"), 0.0)
    model = tiny_model(losses={"sdm": 1.0, **off}).eval()
    figures = draw_figures(tmp_path, model, rows, encoded_by(model, rows), 0, 0.5)
    assert [path.name for path in figures.files] == ["retrieval.png"]
    assert figures.notes == [
        "no picture of part attention: the run trained no part queries (part_itc and part_across are 0)",
        "no picture of restored images: the run trained no image branch (mim is 0)",
        "no picture of guessed words: the run trained no text branch (mlm is 0)",
    ]


@pytest.mark.filterwarnings("error")
def test_the_switches_of_the_released_code_are_drawn_too(tiny_model: MakeModel, rows: Rows, tmp_path: Path) -> None:
    model = tiny_model(**OFFICIAL_PARTS, **BLACK_PATCHES).eval()
    figures = draw_figures(tmp_path, model, rows, encoded_by(model, rows), 0, 0.5)
    assert len(figures.files) == 6
    assert figures.notes == []


@pytest.mark.parametrize(
    "switches", [{}, OFFICIAL_PARTS, {"part_context": "image"}], ids=["paper", "official", "image"]
)
def test_part_attention_is_shared_out_and_likeness_is_a_cosine(
    switches: dict[str, object], tiny_model: MakeModel, tiny_batch: MakeBatch
) -> None:
    model = tiny_model(**switches).eval()
    batch = tiny_batch(model)
    view = view_parts(model, batch)
    present = batch.part_grids.any(dim=2)
    total = view.on_parts.sum(dim=2) + view.on_context.sum(dim=2)
    torch.testing.assert_close(total[present], torch.ones_like(total[present]))
    assert (
        view.on_context.shape[2]
        == {"paper": 24, "official": 0, "image": 1}[
            "paper" if not switches else "official" if "part_fusion" in switches else "image"
        ]
    )
    assert view.likeness.shape == (8, 6, 24)
    assert view.likeness.abs().max() <= 1 + 1e-6
    assert view.likeness.std() > 0.01


@pytest.mark.parametrize("switches", [{}, BLACK_PATCHES], ids=["dropped", "black"])
def test_only_hidden_patches_are_painted_and_stand_where_they_were(
    switches: dict[str, object], tiny_model: MakeModel, tiny_batch: MakeBatch
) -> None:
    """A decoder that paints one pattern on every patch shows where its pixels go."""
    model = tiny_model(**switches).eval()
    batch = tiny_batch(model)
    pattern = torch.linspace(-1, 1, 8 * 8 * 3)  # row, column, channel
    with torch.no_grad():
        model.heads.patch_decoder.head.weight.zero_()
        model.heads.patch_decoder.head.bias.copy_(pattern)
    hidden, images = restore_patches(model, batch)
    if switches:
        assert torch.equal(hidden, batch.part_grids.any(dim=1))
    else:
        assert (hidden.sum(dim=1) == 6).all(), "a quarter of 24"
    expected_pattern = np.clip(pattern.reshape(8, 8, 3).numpy() * STD + MEAN, 0, 1)
    originals = np.clip(batch.images.permute(0, 2, 3, 1).numpy() * STD + MEAN, 0, 1)
    for pair in range(8):
        for patch in range(24):
            place = np.s_[patch // 6 * 8 : patch // 6 * 8 + 8, patch % 6 * 8 : patch % 6 * 8 + 8]
            expected = expected_pattern if hidden[pair, patch] else originals[pair][place]
            np.testing.assert_allclose(images[pair].numpy()[place], expected, atol=1e-5)


def test_guesses_are_the_most_probable_words_of_the_masked_caption(
    tiny_model: MakeModel, tiny_batch: MakeBatch
) -> None:
    model = tiny_model().eval()
    batch = tiny_batch(model)
    guesses = guess_words(model, batch, guesses=3)
    assert guesses.ids.shape == (len(batch.masked_positions), 3)
    losses = model(batch)["mlm"]
    everything = guess_words(model, batch, guesses=model.tokenizer.vocabulary_size)
    torch.testing.assert_close(everything.probabilities.sum(dim=1), torch.ones(len(batch.masked_positions)))
    assert torch.equal(everything.ids[:, :3], guesses.ids)
    labels = batch.masked_labels.flatten()[batch.masked_positions]
    of_truth = everything.probabilities[everything.ids == labels[:, None]]
    assert float(-of_truth.log().mean()) == pytest.approx(float(losses.detach()), rel=1e-4)


@pytest.fixture
def pieces() -> CaptionTokenizer:
    """Knows "a", "red" and "car" as words; others are put together."""
    return train_caption_tokenizer(["a red car"] * 2, 600, 12)


def test_half_a_letter_is_drawn_as_a_question_mark(pieces: CaptionTokenizer) -> None:
    start, half = pieces.encode(["é"]).ids[0, :2]
    assert pieces.decode(half[None]) == "\ufffd"
    assert _word(pieces, half, start) == "?·"


def test_pieces_of_a_word_are_joined_by_dots_and_words_are_not(pieces: CaptionTokenizer) -> None:
    ids = pieces.encode(["a red bus."]).ids[0]
    assert [_word(pieces, ids[place], ids[place - 1]) for place in range(1, 7)] == ["a", "red", "b·", "·u·", "·s", "."]


@pytest.mark.parametrize(
    ("masked", "shown"),
    [
        ([], "a red bus <| mask |>."),
        ([2], "a ____ bus <| mask |>."),
        ([3], "a red ____us <| mask |>."),
        ([4, 5], "a red b________ <| mask |>."),
        ([1, 2, 5], "____ ____ bu____ <| mask |>."),
    ],
)
def test_a_gap_stands_for_a_piece_inside_its_word_and_for_a_word_alone(
    pieces: CaptionTokenizer, masked: list[int], shown: str
) -> None:
    """Also beside text that spells the mask token out."""
    long = CaptionTokenizer(pieces.tokenizer, 24)
    ids = long.encode(["a red bus <|mask|>."]).ids[0]
    masked_ids = ids.clone()
    masked_ids[masked] = long.mask_id
    assert _with_gaps(long, ids, masked_ids) == shown


def drawn_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> Figure:
    """The figure of a part picture with 6 parts on a 2 x 3 grid; ``fields`` replace what they name."""
    figures = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append(figure))
    values = {
        "image": np.zeros((20, 30, 3), dtype=np.uint8),
        "title": "v/1: a car",
        "grids": np.eye(6, dtype=bool).reshape(6, 2, 3),
        "on_parts": np.eye(6, dtype=np.float32),
        "on_context": np.zeros((6, 0), dtype=np.float32),
        "context": [],
        "likeness": np.zeros((6, 2, 3), dtype=np.float32),
    }
    plots.draw_parts(plots.PartPicture(**{**values, **fields}), tmp_path / "parts.png")
    return figures[0]


def attention_panels(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_title().startswith("attention")]


def test_part_attention_fills_the_page_where_there_is_no_caption_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (alone,) = attention_panels(drawn_parts(tmp_path, monkeypatch))
    assert [label.get_text() for label in alone.get_xticklabels()] == list(PARTS)
    assert alone.get_title().endswith("each query to its own alone")
    image = {"on_context": np.full((6, 1), 0.3, dtype=np.float32), "context": ["image"]}
    (beside,) = attention_panels(drawn_parts(tmp_path, monkeypatch, **image))
    assert beside.get_xticklabels()[-1].get_text() == "image"
    assert [text.get_text() for text in beside.texts].count("0.30") == 6
    shared = np.full((6, 6), 1 / 6, dtype=np.float32)
    (spread,) = attention_panels(drawn_parts(tmp_path, monkeypatch, on_parts=shared))
    assert spread.get_title() == "attention to the part texts"


def test_what_the_font_lacks_is_told_by_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["[start]", "白", "[end]"]
    context = {"on_context": np.full((6, 3), 1 / 3, dtype=np.float32), "context": words, "title": "v/1: 🚗"}
    figure = drawn_parts(tmp_path, monkeypatch, **context)
    assert figure.get_suptitle() == "v/1: [U+1F697]"
    assert [label.get_text() for label in attention_panels(figure)[1].get_xticklabels()][1] == "[U+767D]"
