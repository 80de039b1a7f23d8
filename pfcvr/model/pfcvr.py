"""PFCVR: two CLIP towers for retrieval, and heads that only training needs. Shape letters: see ``pfcvr.model.batch``.

``build_pfcvr`` turns settings into parts; ``PfcvrModel`` takes built parts and says how they work together.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pfcvr.config import LossWeights, ModelConfig
from pfcvr.errors import CheckpointError
from pfcvr.model import losses as objective
from pfcvr.model.batch import Batch
from pfcvr.model.clip import ClipTowers, pretrained_towers, random_towers
from pfcvr.model.gather import all_pairs, weighted_by_share
from pfcvr.model.parts import PartQueries, part_prompts, pool_parts
from pfcvr.model.pretrained import PretrainedModel
from pfcvr.model.reconstruction import (
    PatchDecoder,
    WordDecoder,
    choose_removed_patches,
    patch_pixels,
)
from pfcvr.model.tokenizer import CaptionTokenizer


class TrainingHeads(nn.Module):
    """What sits on the towers during training; a head whose losses all weigh 0 is none. All start from chance."""

    def __init__(
        self,
        classifier: nn.Linear | None,
        part_queries: PartQueries | None,
        word_decoder: WordDecoder | None,
        patch_decoder: PatchDecoder | None,
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.part_queries = part_queries
        self.word_decoder = word_decoder
        self.patch_decoder = patch_decoder


class PfcvrModel(PretrainedModel):
    """Part-level fine-grained cross-modal vehicle retrieval (paper section III).

    Args:
        config: settings whose tower sizes are those of ``towers``.
        tokenizer: turns captions into the ids that ``towers`` know.
        towers: the image and text encoder; retrieval needs nothing else.
        heads: the training-only parts.
        identities: number of train identities, K.
    """

    def __init__(
        self,
        config: ModelConfig,
        tokenizer: CaptionTokenizer,
        towers: ClipTowers,
        heads: TrainingHeads,
        identities: int,
    ) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.towers = towers
        self.heads = heads
        self.identities = identities
        # The prompts are constants: cut to the longest of them, since the text tower is causal.
        prompts = tokenizer.encode(part_prompts()).ids
        prompts = prompts[:, : int((~towers.padding(prompts)).sum(dim=1).max())]
        self.prompt_ids: Tensor
        self.register_buffer("prompt_ids", prompts, persistent=False)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The enabled losses of one batch by name, unweighted: sdm, itc, id, part_itc, part_across, mlm, mim.

        With several training processes their mean over these is the loss of all pairs (``pfcvr.model.gather``).
        """
        patches = self.towers.embed_patches(batch.images)
        image = self.towers.encode_patches(patches)
        text, masked_text = self._text_tokens(batch)
        padding = self.towers.padding(batch.token_ids)
        losses = self._global_losses(image[:, 0], self.towers.text_global(text, batch.token_ids), batch)
        if self.heads.part_queries is not None:
            losses |= self._part_losses(self.heads.part_queries, image[:, 1:], text, padding, batch)
        if self.heads.word_decoder is not None:
            logits = self.heads.word_decoder(masked_text, padding, image, batch.masked_positions)
            labels = batch.masked_labels.flatten().index_select(0, batch.masked_positions)
            losses["mlm"] = objective.mlm_loss(logits, labels)
        if self.heads.patch_decoder is not None:
            losses["mim"] = self._patch_loss(self.heads.patch_decoder, patches, text, padding, batch)
        counts: dict[str, int | Tensor] = {
            "id": len(batch.images),
            "part_itc": batch.part_grids.any(dim=2).any(dim=1).sum(),
            "mlm": len(batch.masked_positions),
            "mim": len(batch.images),
        }
        return weighted_by_share(losses, counts, batch.pairs_on_processes)

    def total(self, losses: dict[str, Tensor], weights: LossWeights | None = None) -> Float[Tensor, ""]:
        """The objective of equation 5: losses times their weights, by default the settings' own, summed."""
        weights = weights or self.config.losses
        return torch.stack([getattr(weights, name) * loss.float() for name, loss in losses.items()]).sum()

    def encode_images(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Global image features (CLS), not normalised."""
        return self.towers.image_tokens(images)[:, 0]

    def encode_texts(self, token_ids: Int[Tensor, "B L"]) -> Float[Tensor, "B D"]:
        """Global text features (end token), not normalised."""
        return self.towers.text_global(self.towers.text_tokens(token_ids), token_ids)

    def parameter_groups(self, lr: float, new_module_factor: float, weight_decay: float) -> list[dict[str, Any]]:
        """Optimizer groups: towers at ``lr``, heads at ``lr * new_module_factor`` (paper section V-B, larger for new
        modules), vectors (biases, norms, single tokens) without decay."""
        groups = []
        for name, module, rate in (("towers", self.towers, lr), ("heads", self.heads, lr * new_module_factor)):
            for kind, decay in (("matrices", weight_decay), ("vectors", 0.0)):
                members = [p for p in module.parameters() if (p.ndim > 1) == (kind == "matrices")]
                if members:
                    groups.append({"name": f"{name}.{kind}", "params": members, "lr": rate, "weight_decay": decay})
        return groups

    @classmethod
    def untrained(cls, config: ModelConfig, tokenizer: CaptionTokenizer, identities: int) -> "PfcvrModel":
        """The model with random weights in towers of the sizes that ``config`` names; its backbone is not read."""
        towers = random_towers(
            config.towers, config.patch_grid, config.text_length, tokenizer.vocabulary_size, tokenizer.end_id
        )
        return cls(config, tokenizer, towers, _build_heads(config, tokenizer, identities), identities)

    def _text_tokens(self, batch: Batch) -> tuple[Float[Tensor, "B L D"], Float[Tensor, "B L D"] | None]:
        """Tokens of the captions and, if words are to be restored, of the masked captions, in one pass."""
        if self.heads.word_decoder is None:
            return self.towers.text_tokens(batch.token_ids), None
        text, masked_text = self.towers.text_tokens(torch.cat([batch.token_ids, batch.masked_token_ids])).chunk(2)
        return text, masked_text

    def _global_losses(
        self, image: Float[Tensor, "B D"], text: Float[Tensor, "B D"], batch: Batch
    ) -> dict[str, Tensor]:
        weights, temperature, losses = self.config.losses, self.config.temperature, {}
        images, texts, identities = (all_pairs(x, batch.pairs_on_processes) for x in (image, text, batch.identities))
        if weights.sdm:
            losses["sdm"] = objective.sdm_loss(images, texts, identities, temperature)
        if weights.itc:
            losses["itc"] = objective.info_nce(images, texts, temperature)
        if self.heads.classifier is not None:
            classify = self.heads.classifier
            losses["id"] = objective.id_loss(classify(image), classify(text), batch.identities)
        return losses

    def _part_losses(
        self,
        part_queries: PartQueries,
        patches: Float[Tensor, "B N D"],
        text: Float[Tensor, "B L D"],
        padding: Bool[Tensor, "B L"],
        batch: Batch,
    ) -> dict[str, Tensor]:
        weights, temperature, losses = self.config.losses, self.config.part_temperature, {}
        visual, present = pool_parts(patches, batch.part_grids)
        prompts = self.towers.text_tokens(self.prompt_ids)
        queries = part_queries(prompts[None], self.towers.padding(self.prompt_ids)[None], text, padding)
        if weights.part_itc:
            losses["part_itc"] = objective.part_contrastive_loss(visual, queries, present, temperature)
        if weights.part_across:
            pairs = batch.pairs_on_processes
            visual, queries, present = (all_pairs(x, pairs) for x in (visual, queries, present))
            identities = all_pairs(batch.identities, pairs)
            losses["part_across"] = objective.part_across_loss(visual, queries, present, identities, temperature)
        return losses

    def _patch_loss(
        self,
        patch_decoder: PatchDecoder,
        patches: Float[Tensor, "B N E"],
        text: Float[Tensor, "B L D"],
        padding: Bool[Tensor, "B L"],
        batch: Batch,
    ) -> Float[Tensor, ""]:
        kept, removed = choose_removed_patches(batch.part_grids, self.config.removed_patches, batch.patch_draws)
        visible = self.towers.encode_patches(patches, kept)
        predicted = patch_decoder(visible, kept, removed, text, padding)
        pixels = patch_pixels(batch.images, self.config.towers.patch_size)
        return objective.mim_loss(predicted, pixels.take_along_dim(removed[:, :, None], dim=1))


def build_pfcvr(config: ModelConfig, tokenizer: CaptionTokenizer, identities: int) -> PfcvrModel:
    """The model that ``config`` describes, for ``identities`` train identities.

    ``model.config`` holds the tower sizes that were really built: a backbone's own replace those of ``config``.

    Raises:
        CheckpointError: the backbone cannot be read or does not fit the settings.
    """
    if config.backbone is None:
        return PfcvrModel.untrained(config, tokenizer, identities)
    towers, sizes = pretrained_towers(
        config.backbone, config.image_size, config.text_length, tokenizer.vocabulary_size, tokenizer.end_id
    )
    if sizes.embedding_dim % config.heads:
        raise CheckpointError(
            f"{config.backbone}: its embedding of {sizes.embedding_dim} cannot be split into {config.heads} heads; "
            "change heads"
        )
    config = config.model_copy(update={"towers": sizes})
    return PfcvrModel(config, tokenizer, towers, _build_heads(config, tokenizer, identities), identities)


def _build_heads(config: ModelConfig, tokenizer: CaptionTokenizer, identities: int) -> TrainingHeads:
    weights, width, heads = config.losses, config.towers.embedding_dim, config.heads
    classifier = part_queries = word_decoder = patch_decoder = None
    if weights.id:
        classifier = nn.Linear(width, identities)
        nn.init.normal_(classifier.weight, std=0.001)  # official code
        nn.init.zeros_(classifier.bias)
    if weights.part_itc or weights.part_across:
        part_queries = PartQueries(width, heads)
    if weights.mlm:
        word_decoder = WordDecoder(width, heads, config.word_decoder_depth, tokenizer.vocabulary_size)
    if weights.mim:
        rows, cols = config.patch_grid
        patch_decoder = PatchDecoder(
            width,
            heads,
            config.patch_decoder_head_width,
            config.patch_decoder_depth,
            patches=rows * cols,
            pixels=3 * config.towers.patch_size**2,
        )
    return TrainingHeads(classifier, part_queries, word_decoder, patch_decoder)
