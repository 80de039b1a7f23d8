"""Whether two image files show the same picture, though their bytes differ: a difference hash of 64 bits."""

from pfcvr.pipeline.audit.look_alikes import fingerprint_of

REENCODED_BITS = (
    6  # ours; JPEG at quality 30 moves 0 to 3 bits of a crop, another crop of the same vehicle more than 10
)


def difference_hash(pixels: bytes) -> str | None:
    """16 hexadecimal digits; None for a picture that is flat or cannot be read, of which the hash would say nothing."""
    found = fingerprint_of(pixels)
    return None if found is None else f"{found[0] & 0xFFFFFFFFFFFFFFFF:016x}"


def bits_apart(one: str, other: str) -> int:
    """In how many of their 64 bits two difference hashes differ."""
    return (int(one, 16) ^ int(other, 16)).bit_count()
