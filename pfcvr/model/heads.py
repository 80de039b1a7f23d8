"""What sits on the towers during training and is dropped for retrieval."""

from torch import nn

from pfcvr.config import ModelConfig
from pfcvr.model.part_decoder import DetrPartDecoder
from pfcvr.model.parts import PartQueries, PositionPool
from pfcvr.model.reconstruction import BlackPatchDecoder, PatchDecoder, WordDecoder


class TrainingHeads(nn.Module):
    """The heads that the losses of ``config`` need; a head whose losses all weigh 0 is none. All start from chance.

    Args:
        config: settings with the tower sizes that were really built.
        vocabulary_size: words that masked ones are predicted among.
        identities: number of train identities, K.
    """

    def __init__(self, config: ModelConfig, vocabulary_size: int, identities: int) -> None:
        super().__init__()
        weights = config.losses
        self.classifier = _classifier(config, identities) if weights.id else None
        has_parts = weights.part_itc or weights.part_across
        self.part_queries = _part_queries(config) if has_parts else None
        rows, cols = config.patch_grid
        self.part_pool = PositionPool(rows * cols) if has_parts and config.part_pool == "positions" else None
        self.word_decoder = _word_decoder(config, vocabulary_size) if weights.mlm or weights.part_mlm else None
        self.patch_decoder = _patch_decoder(config) if weights.mim else None


def _classifier(config: ModelConfig, identities: int) -> nn.Linear:
    classifier = nn.Linear(config.towers.embedding_dim, identities)
    nn.init.normal_(classifier.weight, std=0.001)  # official code
    nn.init.zeros_(classifier.bias)
    return classifier


def _part_queries(config: ModelConfig) -> PartQueries | DetrPartDecoder:
    width = config.towers.embedding_dim
    if config.part_decoder == "detr":
        return DetrPartDecoder(width, config.heads, config.part_decoder_depth, config.part_decoder_dropout)
    return PartQueries(width, config.heads)


def _word_decoder(config: ModelConfig, vocabulary_size: int) -> WordDecoder:
    return WordDecoder(config.towers.embedding_dim, config.heads, config.word_decoder_depth, vocabulary_size)


def _patch_decoder(config: ModelConfig) -> PatchDecoder | BlackPatchDecoder:
    rows, cols = config.patch_grid
    kind = PatchDecoder if config.masked_patches == "drop" else BlackPatchDecoder
    return kind(
        config.towers.embedding_dim,
        config.heads,
        config.patch_decoder_head_width,
        config.patch_decoder_depth,
        patches=rows * cols,
        pixels=3 * config.towers.patch_size**2,
    )
