"""From rows of a data set to tensors: train items drawn by (seed, epoch, item), plain images for encoding, workers.

An item depends on nothing but its key, so the number of workers changes the speed and nothing else, and a run that is
continued in mid-epoch sees exactly what it would have seen.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pfcvr.config import ModelConfig, Recipe
from pfcvr.errors import DataError
from pfcvr.model.augment import LOOKS, Draw, apply_geometry, apply_look, draw_geometry, normalise, stretch
from pfcvr.model.batch import Batch
from pfcvr.model.data import Rows, identity_labels
from pfcvr.model.part_masks import part_grids
from pfcvr.model.parts import part_prompts
from pfcvr.model.tokenizer import CaptionTokenizer
from pfcvr.records import PARTS

ItemKey = tuple[int, int]
"""(epoch, item)."""
PR_SET_PDEATHSIG = 1  # linux/prctl.h
ITEM_STREAM, ORDER_STREAM = 0, 1  # keep the draws of an item apart from the order of an epoch
ENCODE_BATCH = 64


@dataclass(frozen=True)
class TrainItem:
    """One image-caption pair of one epoch; ``Batch`` without its first dimension."""

    image: Float[Tensor, "3 H W"]
    token_ids: Int[Tensor, " L"]
    masked_token_ids: Int[Tensor, " L"]
    masked_labels: Int[Tensor, " L"]
    part_grid: Bool[Tensor, "P N"]
    identity: int
    patch_draws: Float[Tensor, " N"]
    part_token_ids: Int[Tensor, "P T"] | None = None


class TrainPairs(Dataset[TrainItem]):
    """Every (image, caption) of ``rows``, four times with ``augment.expand``: once in each of the paper's looks.

    Item ``i`` is pair ``i // looks`` in look ``i % looks``.
    """

    def __init__(self, rows: Rows, tokenizer: CaptionTokenizer, recipe: Recipe, coverage: float, seed: int) -> None:
        self._rows, self._tokenizer, self._coverage, self._seed = rows, tokenizer, coverage, seed
        self._augment, self._size = recipe.augment, recipe.model.image_size
        self._grid, self._word_ratio = recipe.model.patch_grid, recipe.model.word_mask_ratio
        losses = recipe.model.losses
        part_losses = losses.part_itc + losses.part_across
        self._needs_parts = part_losses + losses.part_mlm + losses.mim > 0
        self._row_of = [row for row, captions in enumerate(rows.captions) for _ in captions]
        encoded = tokenizer.encode([caption for captions in rows.captions for caption in captions])
        self._token_ids = encoded.ids
        self.truncated = int(encoded.truncated.sum())
        labels = identity_labels(rows.vehicle_ids)
        self._labels = [labels[vehicle_id] for vehicle_id in rows.vehicle_ids]
        self._part_token_ids = None
        if part_losses and recipe.model.part_text == "phrase":
            self._part_token_ids = encode_part_phrases(rows, tokenizer, recipe.model)
        self.lacks_phrases = self._part_token_ids is not None and not any(rows.part_texts)
        self._looks = LOOKS if recipe.augment.expand else LOOKS[:1]

    @property
    def pairs(self) -> int:
        """Number of (image, caption) pairs."""
        return len(self._row_of)

    def __len__(self) -> int:
        return self.pairs * len(self._looks)

    def __getitem__(self, key: ItemKey) -> TrainItem:
        epoch, item = key
        pair, look = divmod(item, len(self._looks))
        row = self._row_of[pair]
        rng = np.random.default_rng((self._seed, ITEM_STREAM, epoch, item))
        draw = draw_geometry(self._augment, self._size, rng)
        image = stretch(decode(self._rows, row), self._size)
        image = apply_look(apply_geometry(image, draw), self._looks[look], self._augment, rng)
        words = torch.Generator().manual_seed(int(rng.integers(2**63)))
        masked_ids, masked_labels = self._tokenizer.mask_words(self._token_ids[pair], self._word_ratio, words)
        return TrainItem(
            image=torch.from_numpy(normalise(image, draw.erased)),
            token_ids=self._token_ids[pair],
            masked_token_ids=masked_ids,
            masked_labels=masked_labels,
            part_grid=self._part_grid(row, draw),
            identity=self._labels[row],
            patch_draws=torch.from_numpy(rng.random(self._grid[0] * self._grid[1], dtype=np.float32)),
            part_token_ids=None if self._part_token_ids is None else self._part_token_ids[row],
        )

    def _part_grid(self, row: int, draw: Draw) -> Bool[Tensor, "P N"]:
        layers = self._rows.parts(row) if self._needs_parts else []
        if not self._augment.sync_masks:
            draw = Draw(self._size)
        return torch.from_numpy(part_grids(layers, draw, self._grid, self._coverage)).flatten(start_dim=1)


class PlainImages(Dataset[Tensor]):
    """The images of ``rows`` as the model wants them, unchanged but for their size."""

    def __init__(self, rows: Rows, size: tuple[int, int]) -> None:
        self._rows, self._size = rows, size

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> Float[Tensor, "3 H W"]:
        return torch.from_numpy(normalise(stretch(decode(self._rows, row), self._size)))


@dataclass(frozen=True)
class Division:
    """How every batch is divided: into parts computed one after another, each of them among the processes."""

    parts: int = 1
    processes: int = 1
    rank: int = 0

    def of(self, pairs: int) -> list[tuple[int, ...]]:
        """How many of ``pairs`` each process has in each part, as even as can be. No part is empty, a share may be."""
        return [tuple(_evenly(part, self.processes)) for part in _evenly(pairs, min(self.parts, pairs))]


class EpochBatches(Sampler[list[ItemKey]]):
    """This process's parts of the batches from number ``first`` to the end of ``total``, epoch after epoch: item keys.

    Every epoch is a permutation drawn from (seed, epoch); its last batch may be smaller (official code keeps it).
    Where a part has no pair for this process, one that belongs to another stands in.
    """

    def __init__(
        self, items: int, batch_size: int, total: int, seed: int, first: int = 0, division: Division | None = None
    ) -> None:
        self._items, self._batch_size, self._total, self._seed, self._first = items, batch_size, total, seed, first
        self._division = division or Division()
        self.per_epoch = -(-items // batch_size)

    def parts(self, batch: int) -> list[tuple[int, ...]]:
        """How many pairs each process has in each part of batch number ``batch``."""
        before = batch % self.per_epoch * self._batch_size
        return self._division.of(min(self._batch_size, self._items - before))

    def __iter__(self) -> Iterator[list[ItemKey]]:
        batches = islice(self._from_epoch(self._first // self.per_epoch), self._first % self.per_epoch, None)
        for keys in batches:
            for pairs in self._division.of(len(keys)):
                part, keys = keys[: sum(pairs)], keys[sum(pairs) :]
                before = sum(pairs[: self._division.rank])
                yield part[before : before + pairs[self._division.rank]] or part[:1]

    def _from_epoch(self, epoch: int) -> Iterator[list[ItemKey]]:
        batches = self._total - epoch * self.per_epoch
        while batches > 0:
            order = np.random.default_rng((self._seed, ORDER_STREAM, epoch)).permutation(self._items)
            for start in range(0, self._items, self._batch_size)[:batches]:
                yield [(epoch, int(item)) for item in order[start : start + self._batch_size]]
            batches -= self.per_epoch
            epoch += 1


def _evenly(pairs: int, shares: int) -> list[int]:
    return [pairs // shares + (share < pairs % shares) for share in range(shares)]


def encode_part_phrases(rows: Rows, tokenizer: CaptionTokenizer, config: ModelConfig) -> Int[Tensor, "rows P T"]:
    """Token ids of what is said of each part of each image; of a part without a phrase, its name."""
    names = dict(zip(PARTS, part_prompts(), strict=True))
    texts = [phrases.get(part, name) for phrases in rows.part_texts for part, name in names.items()]
    short = CaptionTokenizer(tokenizer.tokenizer, min(config.part_text_length, config.text_length))
    return short.encode(texts).ids.unflatten(0, (len(rows), len(PARTS)))


def decode(rows: Rows, row: int) -> np.ndarray:
    """RGB pixels [h, w, 3] of ``row``, turned as EXIF says; raises DataError when the file is not a readable image."""
    encoded = np.frombuffer(rows.image_bytes(row), dtype=np.uint8)
    image = cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise DataError(f"{rows.where}: image '{rows.image_ids[row]}' cannot be decoded; export the data set again")
    return np.asarray(image)


def train_loader(pairs: TrainPairs, batches: EpochBatches, workers: int) -> "DataLoader[TrainItem]":
    """Yields a ``Batch`` for each of ``batches``, in order, made by ``workers`` processes (0: by this one)."""
    return DataLoader(
        pairs,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=partial(settle_worker, os.getpid()) if workers else None,
        generator=torch.Generator(),  # the loader draws a seed when it starts: not from the run's own generator
        pin_memory=torch.cuda.is_available(),
    )


def image_loader(rows: Rows, size: tuple[int, int], workers: int) -> "DataLoader[Tensor]":
    """All images of ``rows`` in order, in batches [b, 3, H, W]."""
    return DataLoader(
        PlainImages(rows, size),
        batch_size=ENCODE_BATCH,
        num_workers=workers,
        worker_init_fn=partial(settle_worker, os.getpid()) if workers else None,
        generator=torch.Generator(),
    )


def collate(items: Sequence[TrainItem]) -> Batch:
    """Items stacked into the batch that the model's ``forward`` takes."""
    part_texts = [item.part_token_ids for item in items if item.part_token_ids is not None]
    return Batch(
        images=torch.stack([item.image for item in items]),
        token_ids=torch.stack([item.token_ids for item in items]),
        masked_token_ids=torch.stack([item.masked_token_ids for item in items]),
        masked_labels=torch.stack([item.masked_labels for item in items]),
        part_grids=torch.stack([item.part_grid for item in items]),
        identities=torch.tensor([item.identity for item in items]),
        patch_draws=torch.stack([item.patch_draws for item in items]),
        part_token_ids=torch.stack(part_texts) if part_texts else None,
    )


def settle_worker(trainer: int, number: int) -> None:
    """One thread a worker, and no worker that outlives ``trainer``: a kill -9 of the run must leave nothing behind."""
    cv2.setNumThreads(0)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != trainer:  # it died before the line above
        os._exit(1)
