"""Captions of different vehicles that say almost the same: whoever asks with one of them may as well find the other.

Two texts are compared by their pairs of neighbouring words: how many they share of all that either has (Jaccard). Of
50 words, one other word leaves 0.92, two leave 0.85. MinHash bands (Broder 1997) find the pairs worth comparing,
so that a million captions take one pass and a table on disk.
"""

import hashlib
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pfcvr.pipeline.audit import Finding, Tally
from pfcvr.pipeline.audit.table import WORD
from pfcvr.records import Caption, ImageRecord
from pfcvr.scratch import temporary_tables

ALIKE = 0.8
BANDS, ROWS = 10, 6  # finds 95 % of the pairs at 0.8 and 99.9 % at 0.9; compares 15 % of those at 0.5 in vain
FEWEST_PAIRS = 6
COMPARED_IN_BUCKET = 40  # texts before each that it is compared with: templates fill buckets with thousands
_DRAWN = np.random.default_rng(20260901)
_FACTORS = _DRAWN.integers(0, 2**63, BANDS * ROWS, np.uint64) * np.uint64(2) + np.uint64(1)
_OFFSETS = _DRAWN.integers(0, 2**63, BANDS * ROWS, np.uint64)

TABLES = """
CREATE TABLE text (number INTEGER PRIMARY KEY, image_id TEXT, vehicle TEXT, words BLOB, pairs BLOB);
CREATE TABLE band (bucket INTEGER, number INTEGER);
"""
BUCKETS = """
SELECT band.bucket, text.number, image_id, vehicle, words, pairs FROM band JOIN text USING (number)
WHERE band.bucket IN (SELECT bucket FROM band JOIN text USING (number) GROUP BY bucket
                      HAVING count(DISTINCT vehicle) > 1 AND count(DISTINCT words) > 1)
ORDER BY band.bucket, text.number
"""


class NearCaptions:
    """Collects captions on disk; ``finding`` compares them."""

    def __init__(self) -> None:
        self._rows = temporary_tables(TABLES)
        self._texts = 0

    def add(self, image: ImageRecord, caption: Caption) -> None:
        """Take the captions of one image into account."""
        for text in caption.texts:
            words = WORD.findall(text.lower())
            pairs = word_pairs(words)
            if len(pairs) < FEWEST_PAIRS:
                continue
            self._texts += 1
            digest = hashlib.sha256(" ".join(words).encode()).digest()
            row = (self._texts, image.image_id, image.vehicle_id, digest, pairs.tobytes())
            self._rows.execute("INSERT INTO text VALUES (?, ?, ?, ?, ?)", row)
            buckets = ((bucket, self._texts) for bucket in band_keys(pairs))
            self._rows.executemany("INSERT INTO band VALUES (?, ?)", buckets)

    def finding(self) -> Iterator[Finding]:
        """How many captions have an almost equal one of another vehicle. Equal ones are not counted here."""
        alike = bytearray(self._texts + 1)
        tally = Tally()
        for one, other in self._candidates():
            known = alike[one.number] and alike[other.number]
            if not known and likeness(one.pairs, other.pairs) >= ALIKE:
                tally.add_same((one.image_id, other.image_id))
                alike[one.number] = alike[other.number] = 1
        if tally.count:
            sentence = "captions differ in a word or two from one of another vehicle, so neither can be told by them"
            (found,) = tally.finding("near_identical_captions", "warning", sentence)
            yield replace(found, count=sum(alike))

    def _candidates(self) -> "Iterator[tuple[_Text, _Text]]":
        """Texts of different vehicles that share a bucket, each with up to COMPARED_IN_BUCKET that came before it."""
        for _, rows in groupby(self._rows.execute(BUCKETS), key=lambda row: row[0]):
            before: deque[_Text] = deque(maxlen=COMPARED_IN_BUCKET)
            for _, number, image_id, vehicle, words, pairs in rows:
                text = _Text(number, image_id, vehicle, words, np.frombuffer(pairs, np.uint32))
                for other in before:
                    if text.vehicle != other.vehicle and text.words != other.words:
                        yield other, text
                before.append(text)

    def close(self) -> None:
        self._rows.close()


def word_pairs(words: Sequence[str]) -> NDArray[np.uint32]:
    """The distinct pairs of neighbouring words, each as a 32-bit hash, in rising order."""
    hashes = {zlib.crc32(f"{one} {other}".encode()) for one, other in pairwise(words)}
    return np.array(sorted(hashes), dtype=np.uint32)


def likeness(one: NDArray[np.uint32], other: NDArray[np.uint32]) -> float:
    """Share of the pairs that two texts have in common, in [0, 1]."""
    shared = np.intersect1d(one, other, assume_unique=True).size
    return float(shared / (one.size + other.size - shared))


def band_keys(pairs: NDArray[np.uint32]) -> list[int]:
    """BANDS numbers of 63 bits; the more two texts are alike, the likelier they agree in one of them."""
    hashed = (_FACTORS[:, None] * pairs.astype(np.uint64) + _OFFSETS[:, None]) >> np.uint64(32)
    least = hashed.min(axis=1).astype(np.uint32).reshape(BANDS, ROWS)
    digests = (hashlib.blake2b(bytes([band]) + row.tobytes(), digest_size=8).digest() for band, row in enumerate(least))
    return [int.from_bytes(digest, "big") >> 1 for digest in digests]


class _Text(NamedTuple):
    """A caption's number, where it belongs, the hash of its words and its word pairs."""

    number: int
    image_id: str
    vehicle: str
    words: bytes
    pairs: NDArray[np.uint32]
