"""``pfcvr eval --figures``: pictures of some answers and of what the training heads do with the same images.

``retrieval.png`` is the paper's Figure 6; ``parts-N.png``, ``restored.png`` and ``words.png`` need the part queries,
the image branch and the text branch. A run that trained without one of them gets a sentence instead of that picture.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pfcvr.config import AugmentConfig, Recipe
from pfcvr.model.augment import stretch
from pfcvr.model.batch import IGNORED_LABEL, Batch
from pfcvr.model.clip import normalised
from pfcvr.model.data import Rows
from pfcvr.model.encode import Encoded
from pfcvr.model.inspection import guess_words, restore_patches, view_parts
from pfcvr.model.loading import TrainPairs, decode
from pfcvr.model.metrics import cosine_blocks
from pfcvr.model.panel import PanelRow, hits_of, render_panel
from pfcvr.model.pfcvr import PfcvrModel
from pfcvr.model.plots import (
    MaskedWord,
    PartPicture,
    RestoredPicture,
    WordPicture,
    draw_parts,
    draw_restored,
    draw_words,
)
from pfcvr.model.tokenizer import CaptionTokenizer

QUERIES, HITS = 6, 5  # the paper's Figure 6 shows the best five
PART_PICTURES, WORDS_PER_CAPTION = 3, 4
GAP, JOINT = "____", "·"
UNCHANGED = AugmentConfig(flip=0, crop_padding=0, erase=0, expand=False)


@dataclass(frozen=True)
class Figures:
    """The files that were drawn, and why others were not."""

    files: list[Path]
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {"files": [str(path) for path in self.files], "notes": self.notes}


def draw_figures(folder: Path, model: PfcvrModel, rows: Rows, encoded: Encoded, seed: int, coverage: float) -> Figures:
    """All pictures that the heads of ``model`` allow, of queries drawn by ``seed``, at most one a vehicle.

    ``coverage`` is the share of a patch that a part must cover to count as there, as the data set says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    queries = _drawn_queries(encoded, seed)
    texts = [text for captions in rows.captions for text in captions]
    files, notes = [_draw_panel(folder, rows, encoded, {query: texts[query] for query in queries})], []
    recipe = Recipe(model=model.config, augment=UNCHANGED)
    pairs = TrainPairs(rows, model.tokenizer, recipe, coverage, seed)
    batch = pairs[[(0, query) for query in queries]]
    batch = replace(batch, images=normalised(batch.images))
    owners = [int(encoded.own_image[query]) for query in queries]
    scene = _Scene(model, rows, owners, [texts[query] for query in queries], batch)
    weights = model.config.losses
    if model.heads.part_queries is None:
        notes.append("no picture of part attention: the run trained no part queries (part_itc and part_across are 0)")
    else:
        files += _draw_part_pictures(folder, scene)
    if model.heads.patch_decoder is None:
        notes.append("no picture of restored images: the run trained no image branch (mim is 0)")
    else:
        files.append(_draw_restored(folder, scene))
    if not weights.mlm:
        notes.append("no picture of guessed words: the run trained no text branch (mlm is 0)")
    else:
        files.append(_draw_words(folder, scene))
    return Figures(files, notes)


@dataclass(frozen=True)
class _Scene:
    """Some pairs and how the model sees them; ``owners`` are the rows of their images."""

    model: PfcvrModel
    rows: Rows
    owners: list[int]
    captions: list[str]
    batch: Batch

    def tokens(self, pair: int) -> list[str]:
        """Each token of a caption in words, from the start to the end token."""
        tokenizer, ids = self.model.tokenizer, self.batch.token_ids[pair]
        end = ids.tolist().index(tokenizer.end_id)
        words = [_word(tokenizer, ids[place], ids[place - 1]) for place in range(1, end)]
        return ["[start]", *words, "[end]"]


def _drawn_queries(encoded: Encoded, seed: int) -> list[int]:
    drawn: dict[int, int] = {}
    for query in np.random.default_rng(seed).permutation(len(encoded.queries)).tolist():
        drawn.setdefault(int(encoded.query_labels[query]), query)
    return list(drawn.values())[:QUERIES]


def _draw_panel(folder: Path, rows: Rows, encoded: Encoded, queries: dict[int, str]) -> Path:
    panel = []
    for query, text in queries.items():
        (scores,) = next(cosine_blocks(encoded.queries[query : query + 1], encoded.gallery))
        own = int(encoded.own_image[query])
        panel.append(PanelRow(text, hits_of(scores, rows, HITS, rows.vehicle_ids[own]), rows.image_bytes(own)))
    render_panel(panel, folder / "retrieval.png")
    return folder / "retrieval.png"


def _draw_part_pictures(folder: Path, scene: _Scene) -> list[Path]:
    view, grid = view_parts(scene.model, scene.batch), scene.model.config.patch_grid
    grids = scene.batch.part_grids.unflatten(2, grid).numpy()
    # Images with many parts say most.
    chosen = np.argsort(-grids.any(axis=(2, 3)).sum(axis=1), kind="stable")[:PART_PICTURES].tolist()
    files = []
    for number, pair in enumerate(chosen, start=1):
        names = scene.tokens(pair) if scene.model.config.part_context == "caption" else ["image"]
        on_context = view.on_context[pair, :, : len(names)].numpy()
        picture = PartPicture(
            image=decode(scene.rows, scene.owners[pair]),
            title=f"{scene.rows.image_ids[scene.owners[pair]]}: {scene.captions[pair]}",
            grids=grids[pair],
            on_parts=view.on_parts[pair].numpy(),
            on_context=on_context,
            context=names[: on_context.shape[1]],
            likeness=view.likeness[pair].unflatten(1, grid).numpy(),
        )
        files.append(folder / f"parts-{number}.png")
        draw_parts(picture, files[-1])
    return files


def _draw_restored(folder: Path, scene: _Scene) -> Path:
    hidden, restored = restore_patches(scene.model, scene.batch)
    size, grid = scene.model.config.image_size, scene.model.config.patch_grid
    pictures = [
        RestoredPicture(
            image=stretch(decode(scene.rows, row), size),
            hidden=hidden[pair].unflatten(0, grid).numpy(),
            restored=restored[pair].numpy(),
            title=scene.rows.image_ids[row],
        )
        for pair, row in enumerate(scene.owners)
    ]
    draw_restored(pictures, folder / "restored.png")
    return folder / "restored.png"


def _draw_words(folder: Path, scene: _Scene) -> Path:
    batch, tokenizer = _masked_for_show(scene), scene.model.tokenizer
    guesses = guess_words(scene.model, batch)
    places = batch.masked_positions.tolist()
    words: list[list[MaskedWord]] = [[] for _ in scene.owners]
    ids = batch.token_ids.flatten()
    for masked, place in enumerate(places):
        pair, before = place // batch.token_ids.shape[1], ids[place - 1]
        likely = zip(guesses.ids[masked], guesses.probabilities[masked].tolist(), strict=True)
        found = [(_word(tokenizer, word, before), share) for word, share in likely]
        words[pair].append(MaskedWord(_word(tokenizer, ids[place], before), found))
    pictures = [
        WordPicture(
            decode(scene.rows, row),
            _with_gaps(tokenizer, batch.token_ids[pair], batch.masked_token_ids[pair]),
            words[pair],
        )
        for pair, row in enumerate(scene.owners)
        if words[pair]
    ]
    draw_words(pictures, folder / "words.png")
    return folder / "words.png"


def _masked_for_show(scene: _Scene) -> Batch:
    """The batch with the first few chosen words of each caption masked, none of them replaced or kept."""
    batch, tokenizer = scene.batch, scene.model.tokenizer
    chosen = batch.masked_labels != IGNORED_LABEL
    chosen &= chosen.cumsum(dim=1) <= WORDS_PER_CAPTION
    return Batch(
        images=batch.images,
        token_ids=batch.token_ids,
        masked_token_ids=torch.where(chosen, tokenizer.mask_id, batch.token_ids),
        masked_labels=torch.where(chosen, batch.token_ids, IGNORED_LABEL),
        part_grids=batch.part_grids,
        identities=batch.identities,
        patch_draws=batch.patch_draws,
    )


def _word(tokenizer: CaptionTokenizer, token_id: Tensor, before: Tensor) -> str:
    """One token in letters, with a dot where the word goes on, and where token ``before`` it had begun.

    A byte that is no letter by itself, or cannot be shown, is a question mark.
    """
    letters = tokenizer.decode(token_id[None]).replace("\ufffd", "?")
    letters = "".join(letter if letter.isprintable() else "?" for letter in letters) or "?"
    begun, goes_on = tokenizer.goes_on(int(before)), tokenizer.goes_on(int(token_id))
    return JOINT * begun + letters + JOINT * goes_on


def _with_gaps(tokenizer: CaptionTokenizer, token_ids: Tensor, masked_ids: Tensor) -> str:
    """The caption with a line for each masked token, joined to the rest of its word where it is a piece of one."""
    ids, text, start = token_ids.tolist(), "", 1
    gaps = torch.nonzero(masked_ids == tokenizer.mask_id).flatten().tolist()
    for place in [*gaps, ids.index(tokenizer.end_id)]:
        if start < place:
            text += _spaced(tokenizer, tokenizer.decode(torch.tensor(ids[start:place])), ids[place - 1])
        text += _spaced(tokenizer, GAP, ids[place]) if place in gaps else ""
        start = place + 1
    return text.strip()


def _spaced(tokenizer: CaptionTokenizer, text: str, last: int) -> str:
    """``text`` and the space behind it, unless its last token goes on."""
    return text if tokenizer.goes_on(last) else f"{text} "
