"""PFCVR at retrieval time: the two towers alone (paper, section III: parts and masks are for training)."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from pfcvr.model.device import full_gpu_stops
from pfcvr.model.pfcvr import PfcvrModel


class PfcvrRetriever:
    """A ``Retriever`` around a model that stays where it is; the model must be in evaluation mode."""

    def __init__(self, model: PfcvrModel, device: torch.device | str) -> None:
        self._model, self._device = model, device
        self.image_size = model.config.image_size

    @torch.inference_mode()
    def encode_images(self, images: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        return self._model.encode_images(images.to(self._device)).float().cpu()

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Float[Tensor, "B D"]:
        ids = self._model.tokenizer.encode(texts).ids
        return self._model.encode_texts(ids.to(self._device)).float().cpu()

    def truncated(self, texts: Sequence[str]) -> int:
        return int(self._model.tokenizer.encode(texts).truncated.sum())

    def rare_words(self, text: str) -> list[str]:
        """Known of a vocabulary trained on the captions: what was frequent there is a word of it."""
        return self._model.tokenizer.words_in_pieces(text) if self._model.config.vocabulary == "captions" else []


def load_pfcvr(folder: Path, device: str) -> PfcvrRetriever:
    """The model in ``folder``; raises CheckpointError when it cannot be read, StageStopped when a GPU has no room."""
    model = PfcvrModel.from_pretrained(folder)
    with full_gpu_stops("the model"):
        return PfcvrRetriever(model.to(device), device)
