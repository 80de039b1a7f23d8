"""Small models and batches that every test of the model half can ask for."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pfcvr.config import ModelConfig
from pfcvr.model.batch import Batch
from pfcvr.model.pfcvr import PfcvrModel, build_pfcvr
from pfcvr.model.tokenizer import CaptionTokenizer, caption_tokenizer

TINY_TOWERS = {
    "patch_size": 8,
    "embedding_dim": 32,
    "vision_width": 48,
    "vision_mlp": 96,
    "vision_layers": 2,
    "vision_heads": 4,
    "text_width": 40,
    "text_mlp": 80,
    "text_layers": 2,
    "text_heads": 4,
}
ALL_LOSSES = {name: 1.0 for name in ("sdm", "id", "part_itc", "part_across", "part_mlm", "mlm", "mim", "itc")}
PHRASES = ("dark tinted windows", "steel wheels", "car doors", "car mirrors", "narrow round lights", "a plain roof")
CAPTIONS = (
    "A white SUV with roof rails and dark rear windows.",
    "Red pickup truck, two doors, round lights",
    "The blue van has black mirrors and steel wheels",
    "yellow city bus with a plain roof",
    "A small green hatchback with tinted windows and silver wheels, seen from behind",
    "Grey sedan, chrome door trim, narrow lights",
    "an orange taxi with a roof sign",
    "brown coupe with a sunroof and red mirrors",
)


@pytest.fixture
def tiny_config() -> Callable[..., ModelConfig]:
    """Settings of a model with a 4 x 6 patch grid; keyword arguments replace what they name."""

    def make(**changes: Any) -> ModelConfig:
        values: dict[str, Any] = {
            "towers": TINY_TOWERS,
            "image_size": (32, 48),
            "text_length": 24,
            "vocabulary": "captions",
            "vocabulary_size": 700,
            "heads": 4,
            "patch_decoder_depth": 2,
            "patch_decoder_head_width": 12,
            "losses": ALL_LOSSES,
        }
        return ModelConfig.model_validate({**values, **changes})

    return make


@pytest.fixture
def tiny_model(tiny_config: Callable[..., ModelConfig]) -> Callable[..., PfcvrModel]:
    """A randomly initialised model of ``tiny_config``, always the same."""

    def make(identities: int = 8, **changes: Any) -> PfcvrModel:
        config = tiny_config(**changes)
        torch.manual_seed(0)
        return build_pfcvr(config, caption_tokenizer(config, CAPTIONS * 2), identities)

    return make


@pytest.fixture
def tiny_batch() -> Callable[..., Batch]:
    """A batch of random images with real captions for a model of ``tiny_model``."""

    def make(model: PfcvrModel, size: int = 8, identities: list[int] | None = None) -> Batch:
        random = torch.Generator().manual_seed(1)
        rows, cols = model.config.image_size
        patches = model.config.patch_grid[0] * model.config.patch_grid[1]
        short = CaptionTokenizer(model.tokenizer.tokenizer, model.config.part_text_length)
        ids = model.tokenizer.encode(CAPTIONS[:size]).ids
        masked, labels = model.tokenizer.mask_words(ids, 0.3, random)
        return Batch(
            images=torch.randn(size, 3, rows, cols, generator=random),
            token_ids=ids,
            masked_token_ids=masked,
            masked_labels=labels,
            part_grids=torch.rand(size, 6, patches, generator=random) < 0.2,
            part_token_ids=short.encode(PHRASES * size).ids.unflatten(0, (size, 6)).roll(1, dims=0),
            identities=torch.tensor(identities if identities is not None else list(range(size))),
        )

    return make
