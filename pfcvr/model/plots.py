"""Pictures of what the training heads do: part attention, restored images, guessed words."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pfcvr.colours import PART_COLOURS
from pfcvr.files import atomic_write
from pfcvr.lettering import legible
from pfcvr.records import PARTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Pixels = NDArray[np.uint8] | NDArray[np.float32]
Grid = NDArray[np.bool_]
HIDDEN_GREY = 0.5
CAPTION_LETTERS = 150
FIGURE_WIDTH, ATTENTION_HEIGHT = 17.0, 4.6  # inches
DPI = 110


@dataclass(frozen=True)
class PartPicture:
    """One image and its caption as the part queries see them; ``grids`` [P, rows, cols] are the patches of each part.

    ``on_parts`` [P, P] and ``on_context`` [P, S] are attention, ``likeness`` [P, rows, cols] cosines;
    ``context`` names the S rows of context.
    """

    image: Pixels
    title: str
    grids: Grid
    on_parts: NDArray[np.float32]
    on_context: NDArray[np.float32]
    context: Sequence[str]
    likeness: NDArray[np.float32]


@dataclass(frozen=True)
class RestoredPicture:
    """One image, the patch grid [rows, cols] of what was ``hidden``, and the image ``restored``."""

    image: Pixels
    hidden: Grid
    restored: Pixels
    title: str


@dataclass(frozen=True)
class MaskedWord:
    """The word, or piece of one, that was masked, and guesses with their probabilities, best first."""

    word: str
    guesses: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class WordPicture:
    """One image, its caption with gaps, and the guesses for them."""

    image: Pixels
    caption: str
    words: Sequence[MaskedWord]


def draw_parts(picture: PartPicture, path: Path) -> None:
    """Per part: which patches its query is like, and which words it attends to."""
    height, width = picture.image.shape[:2]
    images = min(max(FIGURE_WIDTH / (1 + len(PARTS)) * height / width, 1.0), 4.0) + 0.8  # inches
    figure = _figure(FIGURE_WIDTH, 0.8 + images + ATTENTION_HEIGHT)
    upper, lower = figure.subfigures(2, 1, height_ratios=(images, ATTENTION_HEIGHT), squeeze=False)[:, 0]
    figure.suptitle(_wrapped(picture.title), fontsize=11)
    axes = upper.subplots(1, 1 + len(PARTS))
    _show(axes[0], picture.image, "image, patches of parts")
    strongest = max(float(np.abs(picture.likeness).max()), 1e-6)
    for number, part in enumerate(PARTS):
        grid, colour = picture.grids[number], PART_COLOURS[part]
        _outline(axes[0], grid, colour)
        here = axes[1 + number]
        _show(here, _grey(picture.image), part if grid.any() else f"{part} (no patch)", colour)
        extent = (-0.5, picture.image.shape[1] - 0.5, picture.image.shape[0] - 0.5, -0.5)
        heat = here.imshow(
            picture.likeness[number], cmap="coolwarm", vmin=-strongest, vmax=strongest, alpha=0.65, extent=extent
        )
        _outline(here, grid, "black")
    upper.colorbar(heat, ax=list(axes[1:]), shrink=0.8, label="cosine of query and patch", location="right")
    _draw_attention(lower, picture)
    _save(figure, path)


def _draw_attention(place: Any, picture: PartPicture) -> None:
    words = len(picture.context)
    if words <= 1:  # no caption: what little context there is stands beside the parts
        shares = np.concatenate([picture.on_parts, picture.on_context], axis=1)
        _draw_shares(place.subplots(), shares, [*PARTS, *picture.context])
        return
    left, right = place.subplots(1, 2, width_ratios=(max(9, words / 4), words), squeeze=True)
    _draw_shares(left, picture.on_parts, PARTS)
    even = picture.on_context / np.maximum(picture.on_context.mean(axis=1, keepdims=True), 1e-9)
    heat = right.imshow(even, cmap="Greens", vmin=0, vmax=max(2.0, float(even.max())), aspect="auto")
    right.set_xticks(range(words), [legible(word) for word in picture.context], rotation=90, fontsize=8)
    right.set_yticks(range(len(PARTS)), PARTS)
    right.set_title("attention to the caption (a dot joins pieces of a word)", fontsize=10)
    place.colorbar(heat, ax=right, shrink=0.9, label="attention, times the mean of the row")


def _draw_shares(axes: "Axes", shares: NDArray[np.float32], names: Sequence[str]) -> None:
    """Attention [P, names] as numbers, and a word on it where each query is shown the text of its own part alone."""
    axes.imshow(shares, cmap="Greens", vmin=0, vmax=1, aspect="auto")
    for row, col in np.ndindex(*shares.shape):
        share = float(shares[row, col])
        if share >= 0.005:
            axes.text(col, row, f"{share:.2f}", ha="center", va="center", fontsize=8, color=_ink(share))
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(PARTS)), [f"query: {part}" for part in PARTS])
    of_parts = shares[:, : len(PARTS)]
    alone = not (of_parts - np.diag(np.diag(of_parts))).any()
    axes.set_title("attention to the part texts" + (",\neach query to its own alone" if alone else ""), fontsize=10)


def draw_restored(pictures: Sequence[RestoredPicture], path: Path) -> None:
    """A row an image: as it is, what of it was hidden, and what the image branch painted there."""
    figure = _figure(8.0, 2.4 * len(pictures) + 0.3)
    rows = figure.subplots(len(pictures), 3, squeeze=False)
    for axes, picture in zip(rows, pictures, strict=True):
        first = picture is pictures[0]
        _show(axes[0], picture.image, "original" if first else "")
        _show(axes[1], _hidden(picture.image, picture.hidden), "removed" if first else "")
        _show(axes[2], picture.restored, "restored" if first else "")
        axes[0].set_ylabel(picture.title, fontsize=9)
        axes[1].set_xlabel(f"{picture.hidden.sum()} of {picture.hidden.size} patches", fontsize=8)
    _save(figure, path)


def draw_words(pictures: Sequence[WordPicture], path: Path) -> None:
    """A row an image: the caption with gaps, and the most probable words for each gap."""
    figure = _figure(14.0, sum(1.5 + 0.42 * len(picture.words) for picture in pictures))
    heights = [1.5 + 0.42 * len(picture.words) for picture in pictures]
    places = figure.subfigures(len(pictures), 1, height_ratios=heights, squeeze=False)[:, 0]
    for place, picture in zip(places, pictures, strict=True):
        left, right = place.subplots(1, 2, width_ratios=(1, 4.5))
        _show(left, picture.image, "")
        _draw_guesses(right, picture)
        place.suptitle(_wrapped(picture.caption), fontsize=10)
    _save(figure, path)


def _draw_guesses(axes: "Axes", picture: WordPicture) -> None:
    shares = np.array([[share for _, share in word.guesses] for word in picture.words])
    axes.imshow(shares, cmap="Greens", vmin=0, vmax=1, aspect="auto")
    for row, masked in enumerate(picture.words):
        for col, (guess, share) in enumerate(masked.guesses):
            right = guess == masked.word
            frame = {"fill": False, "edgecolor": "black", "pad": 2} if right else None
            text = f"{legible(guess)}  " + (f"{100 * share:.0f} %" if share >= 0.005 else "< 1 %")
            axes.text(col, row, text, ha="center", va="center", color=_ink(share), bbox=frame)
    axes.set_xticks(range(shares.shape[1]), [f"guess {number}" for number in range(1, shares.shape[1] + 1)])
    axes.set_yticks(range(len(picture.words)), [f"masked: {legible(masked.word)}" for masked in picture.words])
    axes.set_xlabel(
        "percent: probability of the guess; framed: what was masked; a dot joins pieces of a word", fontsize=8
    )
    axes.tick_params(length=0)
    axes.xaxis.tick_top()


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def _save(figure: "Figure", path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        figure.savefig(file, format="png")


def _show(axes: "Axes", image: Pixels, title: str, colour: str = "black") -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=255 if image.dtype == np.uint8 else 1)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=10, color=colour)


def _outline(axes: "Axes", grid: Grid, colour: str) -> None:
    """The border of the cells of ``grid`` that are set, drawn over an image of any size."""
    from matplotlib.collections import LineCollection

    height, width = (abs(high - low) for low, high in (axes.get_ylim(), axes.get_xlim()))
    step = np.array([width / grid.shape[1], height / grid.shape[0]])
    padded = np.pad(grid, 1)
    upright = np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1])  # row, line: set on one side only
    flat = np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1])  # line, col
    lines = [((col, row), (col, row + 1)) for row, col in upright] + [((c, r), (c + 1, r)) for r, c in flat]
    if lines:
        axes.add_collection(LineCollection(np.array(lines) * step - 0.5, colors=colour, linewidths=1.6))


def _hidden(image: Pixels, hidden: Grid) -> Pixels:
    rows, cols = (np.arange(side) * cells // side for side, cells in zip(image.shape[:2], hidden.shape, strict=True))
    grey = 255 * HIDDEN_GREY if image.dtype == np.uint8 else HIDDEN_GREY
    covered = image.copy()
    covered[hidden[np.ix_(rows, cols)]] = grey
    return covered


def _grey(image: Pixels) -> Pixels:
    grey: Pixels = image.mean(axis=2).astype(image.dtype)
    return grey


def _ink(share: float) -> str:
    return "white" if share > 0.6 else "black"


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(legible(text), CAPTION_LETTERS))
