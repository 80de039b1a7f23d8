"""Features of a split: every image once, every caption a query."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from pfcvr.model.data import Rows
from pfcvr.model.embedding import blocks_of, features_of, joined
from pfcvr.model.loading import full_memory_stops, image_loader
from pfcvr.model.metrics import Labels, QueryMetrics, RetrievalMetrics, Scores, feature_metrics, label_numbers
from pfcvr.model.retrievers import Retriever
from pfcvr.progress import Progress


@dataclass(frozen=True)
class Encoded:
    """A split as a retrieval problem: features [Q, D] and [G, D], identity labels, and each query's own image."""

    queries: Scores
    gallery: Scores
    query_labels: Labels
    gallery_labels: Labels
    own_image: Labels

    @property
    def is_finite(self) -> bool:
        """Whether every feature is a finite number, as scores need."""
        return bool(np.isfinite(self.queries).all() and np.isfinite(self.gallery).all())

    def query_metrics(self) -> QueryMetrics:
        """By the protocol: a hit is the same identity, the query's own image counts."""
        return feature_metrics(self.queries, self.gallery, self.query_labels, self.gallery_labels)

    def metrics(self) -> RetrievalMetrics:
        """Means of ``query_metrics``; raises DataError when no query has an image of its identity."""
        return self.query_metrics().means()


def encode_split(retriever: Retriever, rows: Rows, workers: int, quiet: bool = False) -> Encoded:
    """Features of all images of ``rows`` and of all their captions, in order."""
    labels = label_numbers(rows.vehicle_ids)
    own = np.array([row for row, captions in enumerate(rows.captions) for _ in captions], dtype=np.int64)
    texts = [caption for captions in rows.captions for caption in captions]
    gallery = encode_images(retriever, rows, workers, quiet)
    return Encoded(encode_texts(retriever, texts), gallery, labels[own], labels, own)


def encode_images(retriever: Retriever, rows: Rows, workers: int, quiet: bool = False) -> Scores:
    """Features [G, D] of all images of ``rows``, in order."""
    blocks = []
    with (
        Progress("encode images", len(rows), quiet=quiet, unit="image") as progress,
        full_memory_stops(rows.where),
        closing(image_loader(rows, retriever.image_size, workers)) as batches,
    ):
        for images in batches:
            blocks += blocks_of(retriever.encode_images, images)
            for _ in range(len(images)):
                progress.advance()
    return joined(blocks)


def encode_texts(retriever: Retriever, texts: Sequence[str]) -> Scores:
    """Features [Q, D] of ``texts``, in order."""
    return features_of(retriever.encode_texts, texts)
