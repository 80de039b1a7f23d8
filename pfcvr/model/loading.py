"""From rows of a data set to tensors: train items drawn by (seed, epoch, item), plain images for encoding, workers.

An item depends on nothing but its key, so the number of workers changes the speed and nothing else, and a run that is
continued in mid-epoch sees exactly what it would have seen. What is wrong with an image is the same sentence whoever
reads it.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler, default_collate

from pfcvr.config import ModelConfig, Recipe
from pfcvr.errors import DataError, PfcvrError, StageStopped, first_line
from pfcvr.model.augment import (
    LOOKS,
    Draw,
    Image,
    Look,
    apply_geometry,
    apply_look,
    draw_geometry,
    framed,
    inside,
    stretch,
)
from pfcvr.model.batch import Batch
from pfcvr.model.data import Rows, identity_labels
from pfcvr.model.embedding import ENCODE_BATCH, decoded
from pfcvr.model.part_masks import NO_PARTS, PartLayers, grids_of_shares, part_shares
from pfcvr.model.parts import part_prompts
from pfcvr.model.tokenizer import CaptionTokenizer
from pfcvr.records import PARTS

ItemKey = tuple[int, int]
"""(epoch, item)."""
PR_SET_PDEATHSIG = 1  # linux/prctl.h
ITEM_STREAM, ORDER_STREAM = 0, 1  # keep the draws of an item apart from the order of an epoch


@dataclass(frozen=True)
class DrawnItem:
    """What one item is beside its pixels and its caption; ``rng`` has drawn all but what the look needs."""

    row: int
    look: Look
    geometry: Draw
    part_shares: Float[np.ndarray, "P rows cols"]
    draws: Float[np.ndarray, " draws"]
    """Uniform in [0, 1): three for each token, one for each patch."""
    rng: np.random.Generator


class TrainPairs(Dataset[Batch]):
    """Every (image, caption) of ``rows``, four times with ``augment.expand``: once in each of the paper's looks.

    Read by batches: ``pairs[keys]``. Item ``i`` is pair ``i // looks`` in look ``i % looks``.
    """

    def __init__(self, rows: Rows, tokenizer: CaptionTokenizer, recipe: Recipe, coverage: float, seed: int) -> None:
        self._rows, self._tokenizer, self._coverage, self._seed = rows, tokenizer, coverage, seed
        self._augment, self._size = recipe.augment, recipe.model.image_size
        self._grid, self._word_ratio = recipe.model.patch_grid, recipe.model.word_mask_ratio
        losses = recipe.model.losses
        part_losses = losses.part_itc + losses.part_across
        self._needs_parts = part_losses + losses.part_mlm + losses.mim > 0
        self._row_of = [row for row, captions in enumerate(rows.captions) for _ in captions]
        self._layers_of_row: dict[int, PartLayers] = {}
        self._frames: dict[int, Image] = {}
        encoded = tokenizer.encode([caption for captions in rows.captions for caption in captions])
        self._token_ids = encoded.ids
        self.truncated = int(encoded.truncated.sum())
        labels = identity_labels(rows.vehicle_ids)
        self._labels = torch.tensor([labels[vehicle_id] for vehicle_id in rows.vehicle_ids])
        self._part_token_ids, self.truncated_phrases = None, 0
        if part_losses and recipe.model.part_text == "phrase":
            self._part_token_ids, self.truncated_phrases = encode_part_phrases(rows, tokenizer, recipe.model)
        self.lacks_phrases = self._part_token_ids is not None and not any(rows.part_texts)
        self._looks = LOOKS if recipe.augment.expand else LOOKS[:1]

    @property
    def pairs(self) -> int:
        """Number of (image, caption) pairs."""
        return len(self._row_of)

    def __len__(self) -> int:
        return self.pairs * len(self._looks)

    def __getitem__(self, keys: Sequence[ItemKey]) -> Batch:
        """The items with ``keys`` as the batch that the model's ``forward`` takes."""
        pairs = [item // len(self._looks) for _, item in keys]
        rows = [self._row_of[pair] for pair in pairs]
        drawn = [self._drawn(*key) for key in keys]
        images = default_collate([torch.from_numpy(self._image(item, place)) for place, item in enumerate(drawn)])
        grids = grids_of_shares(np.stack([item.part_shares for item in drawn]), self._coverage)
        draws = torch.from_numpy(np.stack([item.draws for item in drawn]))
        ids = self._token_ids[pairs]
        word_draws, patch_draws = draws[:, : 3 * ids.shape[1]], draws[:, 3 * ids.shape[1] :]
        masked_ids, masked_labels = self._tokenizer.mask_drawn_words(
            ids, self._word_ratio, word_draws.unflatten(1, (3, -1)).transpose(0, 1)
        )
        return Batch(
            images=images.permute(0, 3, 1, 2),
            token_ids=ids,
            masked_token_ids=masked_ids,
            masked_labels=masked_labels,
            part_grids=torch.from_numpy(grids).flatten(start_dim=2),
            identities=self._labels[rows],
            patch_draws=patch_draws.contiguous(),
            part_token_ids=None if self._part_token_ids is None else self._part_token_ids[rows],
        )

    def keep_parts(self) -> None:
        """Read where the parts of all images are, which is otherwise done when an item is first asked for.

        Workers that start afterwards share what was read.
        """
        for row in range(len(self._rows)):
            self._layers(row)

    def _drawn(self, epoch: int, item: int) -> DrawnItem:
        row = self._row_of[item // len(self._looks)]
        rng = np.random.default_rng((self._seed, ITEM_STREAM, epoch, item))
        geometry = draw_geometry(self._augment, self._size, rng)
        draws = rng.random(3 * self._token_ids.shape[1] + self._grid[0] * self._grid[1], dtype=np.float32)
        seen = geometry if self._augment.sync_masks else Draw(self._size)
        shares = part_shares(self._layers(row), seen, self._grid)
        return DrawnItem(row, self._looks[item % len(self._looks)], geometry, shares, draws, rng)

    def _image(self, item: DrawnItem, place: int) -> UInt8[np.ndarray, "H W 3"]:
        """The augmented image, in memory that the next item at this ``place`` of a batch will use."""
        margin = self._augment.crop_padding
        frame = framed(decode(self._rows, item.row), self._size, margin, out=self._frames.get(place))
        self._frames[place] = frame  # room that is taken anew for each image costs as much as the changes made in it
        apply_look(inside(frame, margin), item.look, self._augment, item.rng)
        return apply_geometry(frame, item.geometry)

    def _layers(self, row: int) -> PartLayers:
        if not self._needs_parts:
            return NO_PARTS
        if row not in self._layers_of_row:
            self._layers_of_row[row] = self._rows.parts(row)
        return self._layers_of_row[row]


class PlainImages(Dataset[Tensor]):
    """The images of ``rows`` in the size that the model takes, and otherwise unchanged. Read by batches."""

    def __init__(self, rows: Rows, size: tuple[int, int]) -> None:
        self._rows, self._size = rows, size

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Sequence[int]) -> UInt8[Tensor, "b 3 H W"]:
        images = [torch.from_numpy(stretch(decode(self._rows, row), self._size)) for row in rows]
        stacked: Tensor = default_collate(images)
        return stacked.permute(0, 3, 1, 2)


class _Attempts(Dataset[Any]):
    """What ``dataset`` gives, or the error with which it ends: raised in a worker, that would come as a trace."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._dataset = dataset

    def __getitem__(self, key: Any) -> Any:
        try:
            return self._dataset[key]
        except PfcvrError as error:
            return error
        except MemoryError:  # those of numpy cannot be sent as they are
            return MemoryError()


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


def encode_part_phrases(
    rows: Rows, tokenizer: CaptionTokenizer, config: ModelConfig
) -> tuple[Int[Tensor, "rows P T"], int]:
    """Token ids of what is said of each part of each image, of a part without a phrase its name; how many were cut."""
    names = dict(zip(PARTS, part_prompts(), strict=True))
    texts = [phrases.get(part, name) for phrases in rows.part_texts for part, name in names.items()]
    short = CaptionTokenizer(tokenizer.tokenizer, min(config.part_text_length, config.text_length))
    encoded = short.encode(texts)
    return encoded.ids.unflatten(0, (len(rows), len(PARTS))), int(encoded.truncated.sum())


def decode(rows: Rows, row: int) -> np.ndarray:
    """RGB pixels [h, w, 3] of ``row``, turned as EXIF says; raises DataError when the file is not a readable image."""
    image = decoded(rows.image_bytes(row))
    if image is None:
        raise DataError(f"{rows.where}: image '{rows.image_ids[row]}' cannot be decoded; export the data set again")
    return image


def train_loader(pairs: TrainPairs, batches: EpochBatches, workers: int) -> Generator[Batch, None, None]:
    """Yields a ``Batch`` for each of ``batches``, in order, made by ``workers`` processes (0: by this one).

    They live until the generator is closed.

    Raises:
        DataError: an image cannot be read.
    """
    pairs.keep_parts()
    return _loaded(pairs, batches, workers)


def image_loader(rows: Rows, size: tuple[int, int], workers: int) -> Generator[UInt8[Tensor, "b 3 H W"], None, None]:
    """All images of ``rows`` in order, in batches [b, 3, H, W] of RGB pixels 0..255; ``workers`` as above.

    Raises:
        DataError: an image cannot be read.
    """
    return _loaded(PlainImages(rows, size), BatchSampler(range(len(rows)), ENCODE_BATCH, drop_last=False), workers)


@contextmanager
def full_memory_stops(what: str) -> Iterator[None]:
    """Turn a lack of memory on this machine into StageStopped of ``what``: the end of a worker too, which torch tells
    at any point of the work.
    """
    advice = "run the same command with a lower --workers"
    try:
        yield
    except MemoryError:
        raise StageStopped(f"{what}: the memory of this machine is full; end other programs, or {advice}") from None
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise StageStopped(
            f"{what}: a process that loads images ended by itself ({first_line(error).rstrip('. ')}), most likely for "
            f"lack of memory; {advice}"
        ) from None


def _loaded(dataset: Dataset[Any], batches: Iterable[Any], workers: int) -> Generator[Any, None, None]:
    loader = DataLoader(
        _Attempts(dataset),
        batch_size=None,
        sampler=batches,
        num_workers=workers,
        worker_init_fn=partial(settle_worker, os.getpid()) if workers else None,
        generator=torch.Generator(),  # the loader draws a seed when it starts: not from the run's own generator
        pin_memory=torch.cuda.is_available(),
    )
    for loaded in loader:
        if isinstance(loaded, PfcvrError | MemoryError):
            raise loaded
        yield loaded


def settle_worker(trainer: int, number: int) -> None:
    """One thread a worker, and no worker that outlives ``trainer``: a kill -9 of the run must leave nothing behind."""
    cv2.setNumThreads(0)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != trainer:  # it died before the line above
        os._exit(1)
