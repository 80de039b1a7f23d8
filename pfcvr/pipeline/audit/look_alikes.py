"""Images of different splits that are the same picture to the eye: re-encoded, rescaled or slightly retouched copies.

The difference hash of a picture is 64 bits: whether each of 8 x 8 grey cells is brighter than its right neighbour.
Pairs with at most two differing bits share at least one of three bit bands, so only images of equal bands are compared;
a thumbnail then tells chance hits from copies.
"""

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pfcvr.pipeline.audit.table import AuditTable

BITS_APART = 2
BANDS = ((0, 22), (22, 21), (43, 21))  # first bit and number of bits
THUMBNAIL_SIDE = 16
GREY_LEVELS_APART = 4.0  # mean difference of thumbnails; re-encoding at JPEG quality 30 moves them by about 0.5
BLOCK = 1024


class LookAlike(NamedTuple):
    """A pair of images: bits in which their hashes differ, and the mean difference of their thumbnails."""

    one: str
    other: str
    bits: int
    grey_levels: float

    def distance(self) -> str:
        """How far apart they are, in words."""
        return f"{self.bits} of 64 bits, {self.grey_levels:.1f} of 255 grey levels apart"


def fingerprint_of(pixels: bytes) -> tuple[int, bytes] | None:
    """Difference hash (as signed 64 bits) and thumbnail of an image file.

    None when OpenCV cannot read it, or when the picture is flat, so that its hash says nothing.
    """
    try:
        grey = cv2.imdecode(np.frombuffer(pixels, np.uint8), cv2.IMREAD_GRAYSCALE)
    except cv2.error:
        return None
    if grey is None:
        return None
    cells = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA).astype(np.int16)
    bits = cells[:, :-1] > cells[:, 1:]
    if not bits.any():
        return None
    thumbnail = cv2.resize(grey, (THUMBNAIL_SIDE, THUMBNAIL_SIDE), interpolation=cv2.INTER_AREA)
    return int(np.packbits(bits).view(np.int64)[0]), thumbnail.tobytes()


def look_alikes(table: AuditTable) -> Iterator[LookAlike]:
    """Pairs of images of different splits, each pair once. Images with the same bytes are not among them."""
    for number, band in enumerate(BANDS):
        for bucket in _buckets(table, band):
            yield from _pairs_in(bucket, number)


def _buckets(table: AuditTable, band: tuple[int, int]) -> Iterator[list[tuple[str, str, str, int, bytes]]]:
    """Images that agree in ``band``, where they come from more than one split."""
    first_bit, bits = band
    key = f"(fingerprint >> {first_bit}) & {(1 << bits) - 1}"
    query = (
        f"SELECT image_id, split, sha256, fingerprint, thumbnail, {key} FROM image "
        f"WHERE split IS NOT NULL AND {key} IN (SELECT {key} FROM image WHERE fingerprint IS NOT NULL "
        "GROUP BY 1 HAVING count(DISTINCT split) > 1) ORDER BY 6, 1"
    )
    bucket: list[tuple[str, str, str, int, bytes]] = []
    value = None
    for *row, row_value in table.select(query):
        if row_value != value and bucket:
            yield bucket
            bucket = []
        value = row_value
        bucket.append((row[0], row[1], row[2], row[3], row[4]))
    if bucket:
        yield bucket


def _pairs_in(bucket: list[tuple[str, str, str, int, bytes]], band: int) -> Iterator[LookAlike]:
    """Look-alikes in a bucket of ``band``, leaving out pairs that an earlier band has found already."""
    hashes = np.array([row[3] for row in bucket], dtype=np.int64).view(np.uint64)
    splits = np.array([row[1] for row in bucket])
    thumbnails = np.frombuffer(b"".join(row[4] for row in bucket), np.uint8).reshape(len(bucket), -1).astype(np.int16)
    for start in range(0, len(bucket), BLOCK):
        apart = hashes[start : start + BLOCK, None] ^ hashes[None, :]
        close = (_bits_set(apart) <= BITS_APART) & (splits[start : start + BLOCK, None] != splits[None, :])
        for first_bit, bits in BANDS[:band]:
            mask = np.uint64(((1 << bits) - 1) << first_bit)
            close &= (apart & mask) != 0
        for row, right in np.argwhere(close):
            left = row + start
            if left >= right or bucket[left][2] == bucket[right][2]:
                continue
            difference = _difference(thumbnails[left], thumbnails[right])
            if difference <= GREY_LEVELS_APART:
                bits_apart = int(_bits_set(apart[row : row + 1, right : right + 1])[0, 0])
                yield LookAlike(bucket[left][0], bucket[right][0], bits_apart, difference)


def _difference(one: NDArray[np.int16], other: NDArray[np.int16]) -> float:
    """Mean difference in grey levels, a change of overall brightness aside."""
    apart = one - other
    return float(np.abs(apart - apart.mean()).mean())


def _bits_set(words: NDArray[np.uint64]) -> NDArray[np.uint8]:
    bits = np.unpackbits(np.ascontiguousarray(words).view(np.uint8).reshape(*words.shape, 8), axis=-1)
    counts: NDArray[np.uint8] = bits.sum(axis=-1, dtype=np.uint8)
    return counts
