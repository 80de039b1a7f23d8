"""Masks painted in Label Studio: the bits of ``rle-pack`` (thi.ng/umbrella), over the RGBA bytes of the picture.

32 bits say how many values follow, 5 how many bits a value has (less one), four times 4 how many bits the four kinds of
run length have (less one). Then, until all values are there: 1 bit, whether one value is repeated; 2 bits, the kind of
the run length; the run length (less one); and the value, or as many values.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

CHANNELS, ALPHA = 4, 3
HALF_OPAQUE = 128


def decode_brush(packed: Sequence[int], height: int, width: int) -> NDArray[np.bool_]:
    """The mask [height, width] that was painted; raises ValueError where ``packed`` is not one of this size."""
    if not all(type(byte) is int and 0 <= byte <= 255 for byte in packed):
        raise ValueError("a brush mask is a list of bytes")
    bits = _Bits(bytes(packed))
    wanted = height * width * CHANNELS
    if bits.number(32) != wanted:
        raise ValueError(f"the brush mask is not one of {height} x {width} pixels")
    value_bits = bits.number(5) + 1
    if value_bits != 8:
        raise ValueError("the values of the brush mask are not bytes")
    length_bits = [bits.number(4) + 1 for _ in range(4)]
    values = np.zeros(wanted, dtype=np.uint8)
    place = 0
    while place < wanted:
        repeated = bits.number(1)
        end = place + bits.number(length_bits[bits.number(2)]) + 1
        if end > wanted:
            raise ValueError("a run of the brush mask reaches beyond the picture")
        values[place:end] = bits.number(8) if repeated else bits.byte_list(end - place)
        place = end
    opaque: NDArray[np.bool_] = values.reshape(height, width, CHANNELS)[..., ALPHA] >= HALF_OPAQUE
    return opaque


class _Bits:
    """Numbers from a stream of bits, highest bit first; raises ValueError at its end."""

    def __init__(self, content: bytes) -> None:
        self._bits = np.unpackbits(np.frombuffer(content, np.uint8))
        self._place = 0

    def number(self, bits: int) -> int:
        value = 0
        for bit in self._take(bits):
            value = value << 1 | int(bit)
        return value

    def byte_list(self, count: int) -> NDArray[np.uint8]:
        return np.packbits(self._take(8 * count))

    def _take(self, bits: int) -> NDArray[np.uint8]:
        taken = self._bits[self._place : self._place + bits]
        if len(taken) < bits:
            raise ValueError("the brush mask is cut off")
        self._place += bits
        return taken
