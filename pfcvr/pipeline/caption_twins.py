"""How well captions tell vehicles apart: for each, the most similar caption of another vehicle.

Retrieval by text cannot be better than its captions are distinct. Similarity is the cosine of TF-IDF weights of words
(Salton and Buckley 1988), so that words which most captions have, such as "vehicle", hardly count.
"""

import hashlib
import heapq
import math
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pfcvr.pipeline.audit.table import WORD
from pfcvr.records import ImageRecord
from pfcvr.scratch import temporary_tables

MOST_COMPARED = 16_384
DIMENSIONS = 1024
ROWS_AT_ONCE = 512
CANDIDATES = 3
VERY_CLOSE = 0.9
BINS = 10
EXAMPLES = 5
TABLE = "CREATE TABLE caption (words BLOB, vehicle TEXT)"
SHARED = """
SELECT coalesce(sum(uses), 0) FROM
    (SELECT count(*) AS uses FROM caption GROUP BY words HAVING count(DISTINCT vehicle) > 1)
"""


@dataclass(frozen=True)
class _Caption:
    image_id: str
    vehicle_id: str
    words: tuple[str, ...]


class CaptionTwins:
    """Collects captions; ``report`` compares them.

    Equal captions are counted among all. The nearest ones are looked for among MOST_COMPARED captions, drawn by a hash
    of their image_ids, so that memory and time stay bounded; T2I-VeRW has fewer.
    """

    def __init__(self) -> None:
        self._rows = temporary_tables(TABLE)
        self._captions = 0
        self._drawn: list[tuple[int, int, _Caption]] = []

    def add(self, image: ImageRecord, texts: Sequence[str]) -> None:
        """Take the captions of one image into account."""
        for number, text in enumerate(texts):
            words = tuple(WORD.findall(text.lower()))
            digest = hashlib.sha256(" ".join(words).encode()).digest()
            self._rows.execute("INSERT INTO caption VALUES (?, ?)", (digest, image.vehicle_id))
            self._captions += 1
            lot = int.from_bytes(hashlib.sha256(f"{image.image_id}/{number}".encode()).digest()[:8], "big")
            entry = (-lot, -self._captions, _Caption(image.image_id, image.vehicle_id, words))
            if len(self._drawn) < MOST_COMPARED:
                heapq.heappush(self._drawn, entry)
            else:
                heapq.heappushpop(self._drawn, entry)

    def report(self) -> dict[str, Any]:
        """Shares are in [0, 1]; ``histogram`` counts captions by tenths of the similarity to their nearest other."""
        (identical,) = self._rows.execute(SHARED).fetchone()
        captions = sorted((one for *_, one in self._drawn), key=lambda one: one.image_id)
        nearest = nearest_others([one.words for one in captions], [one.vehicle_id for one in captions])
        similar = np.array([similarity for _, similarity in nearest if similarity >= 0])
        found = ((place, other, similarity) for place, (other, similarity) in enumerate(nearest) if similarity >= 0)
        pairs = {(-similarity, min(place, other), max(place, other)) for place, other, similarity in found}
        very_close = int((similar >= VERY_CLOSE).sum())
        return {
            "captions": self._captions,
            "identical": identical,
            "identical_share": round(identical / max(self._captions, 1), 4),
            "compared": len(similar),
            "very_close": very_close,
            "very_close_share": round(very_close / max(len(similar), 1), 4),
            "median_similarity": round(float(np.median(similar)), 4) if similar.size else None,
            "histogram": np.bincount(np.minimum(similar * BINS, BINS - 1).astype(int), minlength=BINS).tolist(),
            "closest": [
                {
                    "image_id": captions[one].image_id,
                    "other_image_id": captions[other].image_id,
                    "similarity": round(-negative, 4),
                }
                for negative, one, other in sorted(pairs)[:EXAMPLES]
            ],
        }

    def close(self) -> None:
        self._rows.close()


def nearest_others(texts: Sequence[Sequence[str]], vehicle_ids: Sequence[str]) -> list[tuple[int, float]]:
    """For each of ``texts`` (words) the place of the most similar one of another vehicle, and the cosine in [0, 1].

    ``(-1, -1.0)`` where there is no other vehicle. Up to DIMENSIONS different words the result is exact; beyond, words
    share dimensions with random signs (Weinberger et al. 2009) to find CANDIDATES, of which the best is taken exactly.
    """
    if len(set(vehicle_ids)) < 2:
        return [(-1, -1.0)] * len(texts)
    weights, vectors = _tf_idf(texts)
    numbers = np.unique(np.array(vehicle_ids), return_inverse=True)[1]
    found: list[tuple[int, float]] = []
    for start in range(0, len(texts), ROWS_AT_ONCE):
        block = slice(start, start + ROWS_AT_ONCE)
        similar = vectors[block] @ vectors.T
        similar[numbers[block, None] == numbers[None, :]] = -np.inf
        count = min(CANDIDATES, len(texts) - 1)
        places = np.argpartition(-similar, count - 1, axis=1)[:, :count]
        for row, candidates in enumerate(places.tolist(), start=start):
            others = [place for place in candidates if numbers[place] != numbers[row]]
            found.append(max(((place, _cosine(weights[row], weights[place])) for place in others), key=_best))
    return found


def _best(candidate: tuple[int, float]) -> tuple[float, int]:
    place, similarity = candidate
    return similarity, -place


def _tf_idf(texts: Sequence[Sequence[str]]) -> tuple[list[dict[str, float]], NDArray[np.float32]]:
    """Weights of each text by word, of length 1, and the same as rows of DIMENSIONS numbers."""
    uses: Counter[str] = Counter(word for text in texts for word in set(text))
    column = {word: place for place, word in enumerate(sorted(uses, key=lambda word: (-uses[word], word)))}
    vectors = np.zeros((len(texts), DIMENSIONS), dtype=np.float32)
    all_weights = []
    for row, text in enumerate(texts):
        raw = {
            word: (1 + math.log(count)) * (1 + math.log((1 + len(texts)) / (1 + uses[word])))
            for word, count in Counter(text).items()
        }
        length = math.sqrt(sum(weight * weight for weight in raw.values())) or 1.0
        weights = {word: weight / length for word, weight in raw.items()}
        for word, weight in weights.items():
            vectors[row, column[word] % DIMENSIONS] += -weight if zlib.crc32(word.encode()) & 1 else weight
        all_weights.append(weights)
    return all_weights, vectors


def _cosine(one: dict[str, float], other: dict[str, float]) -> float:
    shorter, longer = sorted((one, other), key=len)
    return min(sum(weight * longer.get(word, 0.0) for word, weight in shorter.items()), 1.0)
