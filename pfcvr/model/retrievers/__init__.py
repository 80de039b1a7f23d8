"""What evaluation, galleries and search need of a method: features of images and of sentences.

A new method is a file here with a class that has these members, and a line in ``RETRIEVERS``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from jaxtyping import Float, UInt8
from torch import Tensor

from pfcvr.backends import BackendTable, load_backend
from pfcvr.config import METHODS


@runtime_checkable
class Retriever(Protocol):
    """A trained method. Scores are cosines of its features, which need not be normalised."""

    image_size: tuple[int, int]
    """Rows and columns, in px, of the images it takes."""

    def encode_images(self, images: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Features, on the CPU, of images given as RGB pixels 0..255."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Float[Tensor, "B D"]:
        """Features, on the CPU, of sentences."""
        ...

    def truncated(self, texts: Sequence[str]) -> int:
        """How many of ``texts`` are longer than the method reads."""
        ...

    def rare_words(self, text: str) -> list[str]:
        """Words of ``text`` that the captions it was trained on hardly had, where that is known."""
        ...


RETRIEVERS: BackendTable = dict.fromkeys(METHODS, ("pfcvr.model.retrievers.pfcvr:load_pfcvr", None))


def load_retriever(method: str, folder: Path, device: str) -> Retriever:
    """The weights in ``folder`` as ``method`` on ``device``; raises CheckpointError when they cannot be read."""
    retriever: Retriever = load_backend("method", RETRIEVERS, method)(folder, device)
    return retriever
