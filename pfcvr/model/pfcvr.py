"""PFCVR: two CLIP towers for retrieval, and heads that only training needs. Shape letters: see ``pfcvr.model.batch``.

``build_pfcvr`` turns settings into parts; ``PfcvrModel`` takes built parts and says how they work together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pfcvr.config import LossWeights, ModelConfig
from pfcvr.errors import CheckpointError, UsageError
from pfcvr.model import losses as objective
from pfcvr.model.batch import IGNORED_LABEL, Batch
from pfcvr.model.clip import ClipTowers, Pixels, normalised, pretrained_towers, random_towers
from pfcvr.model.embedding import Picture, features_of, picture_pixels
from pfcvr.model.gather import all_pairs, weighted_by_share
from pfcvr.model.heads import TrainingHeads
from pfcvr.model.metrics import unit_features
from pfcvr.model.part_decoder import DetrPartDecoder
from pfcvr.model.parts import PartQueries, masked_part_names, part_prompts, pool_parts
from pfcvr.model.pretrained import PretrainedModel
from pfcvr.model.reconstruction import (
    BlackPatchDecoder,
    PatchDecoder,
    WordDecoder,
    black_image,
    choose_removed_patches,
    patch_pixels,
)
from pfcvr.model.tokenizer import CaptionTokenizer


@dataclass(frozen=True)
class CaptionFeatures:
    """What the heads read of the captions."""

    tokens: Float[Tensor, "B L D"]
    end: Float[Tensor, "B D"]
    """The global text feature."""
    padding: Bool[Tensor, "B L"]


@dataclass(frozen=True)
class PaintedPatches:
    """Pixels for the patches at ``places``, all of them hidden, or for all patches, of which some were ``hidden``."""

    pixels: Float[Tensor, "B R pixels"]
    places: Int[Tensor, "B R"] | None = None
    hidden: Bool[Tensor, "B R"] | None = None


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
        towers.cls_position = config.cls_position
        self.prompt_ids: Tensor
        self.masked_name_ids: Tensor
        self.masked_name_labels: Tensor
        self.masked_name_positions: Tensor
        self._add_prompts()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The enabled losses of one batch by name (those of ``LossWeights``), unweighted.

        With several training processes their mean over these is the loss of all pairs (``pfcvr.model.gather``).

        Raises:
            ValueError: the part grids are not of the patches that the images have.
        """
        batch = replace(batch, images=normalised(batch.images))
        patches = self.towers.embed_patches(batch.images)
        if batch.part_grids.shape[2] != patches.shape[1]:  # most losses would go on, with some patches never hidden
            raise ValueError(f"part grids of {batch.part_grids.shape[2]} patches, the images have {patches.shape[1]}")
        image = self.towers.encode_patches(patches)
        caption, masked_text = self._captions(batch)
        losses = self._global_losses(image[:, 0], caption.end, batch)
        if self.heads.part_queries is not None:
            losses |= self._part_losses(self.heads.part_queries, image, caption, batch)
        if self.heads.word_decoder is not None:
            losses |= self._word_losses(self.heads.word_decoder, image, masked_text, caption.padding, batch)
        if self.heads.patch_decoder is not None:
            losses["mim"] = self._patch_loss(self.heads.patch_decoder, patches, caption, batch)
        return weighted_by_share(losses, self._counts(batch), batch.pairs_on_processes)

    def total(self, losses: dict[str, Tensor], weights: LossWeights | None = None) -> Float[Tensor, ""]:
        """The objective of equation 5: losses times their weights, by default the settings' own, summed."""
        weights = weights or self.config.losses
        return torch.stack([getattr(weights, name) * loss.float() for name, loss in losses.items()]).sum()

    def embed_images(self, pictures: Sequence[Picture]) -> Float[Tensor, "N D"]:
        """Unit features, on the CPU, of pictures: paths, contents of image files, or PIL images, of any size.

        Of files they are, to the bit, what ``pfcvr index`` stores of the same images in the same order. Their products
        with ``embed_texts`` are the scores of ``pfcvr search``. For a model in evaluation mode.

        Raises:
            DataError: a picture cannot be read, or the weights give features that are no finite numbers.
        """

        @torch.inference_mode()
        def encode(some: Sequence[Picture]) -> Tensor:
            pixels = [torch.from_numpy(picture_pixels(picture, self.config.image_size)) for picture in some]
            images = torch.stack(pixels).permute(0, 3, 1, 2)
            return self.encode_images(images.to(self.prompt_ids.device)).float().cpu()

        return self._embedded(encode, pictures)

    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "N D"]:
        """Unit features, on the CPU, of sentences, as ``pfcvr search`` and ``eval`` have them; see ``embed_images``.

        A sentence of more than ``config.text_length`` tokens is cut.
        """

        @torch.inference_mode()
        def encode(some: Sequence[str]) -> Tensor:
            return self.encode_texts(self.tokenizer.encode(some).ids.to(self.prompt_ids.device)).float().cpu()

        return self._embedded(encode, texts)

    def _embedded(self, encode: Callable[[Any], Tensor], items: Sequence[Any]) -> Tensor:
        if isinstance(items, str | bytes):  # a sequence, too: of letters
            raise UsageError("a single text or file was given to embed, expected a list; put it into brackets")
        if not items:
            return torch.zeros(0, self.config.towers.embedding_dim)
        return torch.from_numpy(unit_features(features_of(encode, items)))

    def encode_images(self, images: Pixels) -> Float[Tensor, "B D"]:
        """Global image features (CLS), not normalised."""
        return self.towers.image_tokens(normalised(images))[:, 0]

    def encode_texts(self, token_ids: Int[Tensor, "B L"]) -> Float[Tensor, "B D"]:
        """Global text features (end token), not normalised."""
        return self.towers.text_global(self.towers.text_tokens(token_ids), token_ids)

    @classmethod
    def untrained(cls, config: ModelConfig, tokenizer: CaptionTokenizer, identities: int) -> "PfcvrModel":
        """The model with random weights in towers of the sizes that ``config`` names; its backbone is not read."""
        towers = random_towers(
            config.towers, config.patch_grid, config.text_length, tokenizer.vocabulary_size, tokenizer.end_id
        )
        heads = TrainingHeads(config, tokenizer.vocabulary_size, identities)
        return cls(config, tokenizer, towers, heads, identities)

    def _add_prompts(self) -> None:
        """The part names as token ids; cut to the longest of them, since the text tower is causal, unless the padding
        behind them is read too."""
        prompts = self.tokenizer.encode(part_prompts()).ids
        if self.config.part_text_feature == "tokens":
            prompts = prompts[:, : int((~self.towers.padding(prompts)).sum(dim=1).max())]
        masked_ids, labels = masked_part_names(self.tokenizer)
        positions = torch.nonzero(labels.flatten() != IGNORED_LABEL).squeeze(1)
        constants = {
            "prompt_ids": prompts,
            "masked_name_ids": masked_ids,
            "masked_name_labels": labels.flatten()[positions],
            "masked_name_positions": positions,
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)

    def _captions(self, batch: Batch) -> tuple[CaptionFeatures, Float[Tensor, "B L D"] | None]:
        """The captions that all losses read, and the tokens of the masked captions if words are to be restored."""
        ids, masked_tokens = batch.token_ids, None
        if self.config.mask_caption_for_matching:
            tokens = masked_tokens = self.towers.text_tokens(batch.masked_token_ids)
        elif self.config.losses.mlm:
            tokens, masked_tokens = self.towers.text_tokens(torch.cat([ids, batch.masked_token_ids])).chunk(2)
        else:
            tokens = self.towers.text_tokens(ids)
        return self.caption_features(tokens, ids), masked_tokens

    def caption_features(self, tokens: Float[Tensor, "B L D"], token_ids: Int[Tensor, "B L"]) -> CaptionFeatures:
        """What the heads read of captions whose text tokens are ``tokens``."""
        return CaptionFeatures(tokens, self.towers.text_global(tokens, token_ids), self.towers.padding(token_ids))

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
        part_queries: PartQueries | DetrPartDecoder,
        image: Float[Tensor, "B S D"],
        caption: CaptionFeatures,
        batch: Batch,
    ) -> dict[str, Tensor]:
        weights, temperature, losses = self.config.losses, self.config.part_temperature, {}
        pool = pool_parts if self.heads.part_pool is None else self.heads.part_pool
        visual, present = pool(image[:, 1:], batch.part_grids)
        queries = part_queries(*self.part_memory(image[:, 0], caption, batch))
        if weights.part_itc:
            loss = objective.part_contrastive_loss if self.config.part_loss == "info_nce" else objective.part_bce_loss
            losses["part_itc"] = loss(visual, queries, present, temperature)
        if weights.part_across:
            own = (visual, queries, present, batch.identities)
            visual, queries, present, identities = (all_pairs(x, batch.pairs_on_processes) for x in own)
            losses["part_across"] = objective.part_across_loss(visual, queries, present, identities, temperature)
        return losses

    def part_memory(
        self, image: Float[Tensor, "B D"], caption: CaptionFeatures, batch: Batch
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the part queries look at: rows of each part and their padding, shared rows and their padding.

        The rows of an absent part are padding. Parts have their names for text where the batch says nothing of them.
        The context, caption or image, stands beside the part text or is added to it; then there are no shared rows.
        """
        config, phrases = self.config, batch.part_token_ids
        ids = self.prompt_ids[None] if config.part_text == "name" or phrases is None else phrases
        tokens = self.towers.text_tokens(ids.flatten(0, 1)).unflatten(0, ids.shape[:2])
        padding = self.towers.padding(ids.flatten(0, 1)).unflatten(0, ids.shape[:2])
        if config.part_text_feature == "mean":
            tokens = tokens.mean(dim=2, keepdim=True)
            padding = torch.zeros_like(padding[:, :, :1])
        padding = padding | ~batch.part_grids.any(dim=2, keepdim=True)
        if config.part_fusion == "add":
            added = image if config.part_context == "image" else caption.end
            nothing = tokens.new_zeros(len(image), 0, tokens.shape[-1])
            return tokens + added[:, None, None], padding, nothing, padding[:, 0, :0]
        if config.part_context == "image":
            return tokens, padding, image[:, None], torch.zeros_like(padding[:, 0, :1])
        return tokens, padding, caption.tokens, caption.padding

    def _word_losses(
        self,
        word_decoder: WordDecoder,
        image: Float[Tensor, "B S D"],
        masked_text: Float[Tensor, "B L D"] | None,
        padding: Bool[Tensor, "B L"],
        batch: Batch,
    ) -> dict[str, Tensor]:
        losses = {}
        if self.config.losses.mlm:
            skipped = padding if self.config.mask_padding else None
            logits = word_decoder(masked_text, skipped, image, batch.masked_positions)
            labels = batch.masked_labels.flatten().index_select(0, batch.masked_positions)
            losses["mlm"] = objective.mlm_loss(logits, labels)
        if self.config.losses.part_mlm:
            ids, places = self.masked_name_ids, self.masked_name_positions
            names, padding = self.towers.text_tokens(ids), self.towers.padding(ids)
            logits = word_decoder.part_names(names, padding, image[:, 1:], batch.part_grids, places)
            present = batch.part_grids.any(dim=2)[:, places // ids.shape[1]]
            labels = torch.where(present, self.masked_name_labels, IGNORED_LABEL)
            losses["part_mlm"] = objective.mlm_loss(logits.flatten(0, 1), labels.flatten())
        return losses

    def _patch_loss(
        self,
        patch_decoder: PatchDecoder | BlackPatchDecoder,
        patches: Float[Tensor, "B N E"],
        caption: CaptionFeatures,
        batch: Batch,
    ) -> Float[Tensor, ""]:
        painted = self.paint_patches(patch_decoder, patches, caption, batch)
        pixels = patch_pixels(batch.images, self.config.towers.patch_size)
        target = pixels if painted.places is None else pixels.take_along_dim(painted.places[:, :, None], dim=1)
        return objective.mim_loss(painted.pixels, target, painted.hidden)

    def paint_patches(
        self,
        patch_decoder: PatchDecoder | BlackPatchDecoder,
        patches: Float[Tensor, "B N E"],
        caption: CaptionFeatures,
        batch: Batch,
    ) -> PaintedPatches:
        """What the image branch makes of the patches it may not see."""
        if self.config.patch_guide == "end":
            guide, skipped = caption.end[:, None], None
        else:
            guide, skipped = caption.tokens, caption.padding if self.config.mask_padding else None
        if isinstance(patch_decoder, PatchDecoder):
            kept, removed = choose_removed_patches(batch.part_grids, self.config.removed_patches, batch.patch_draws)
            visible = self.towers.encode_patches(patches, kept)
            return PaintedPatches(patch_decoder(visible, kept, removed, guide, skipped), places=removed)
        hidden = self._black_patches(batch)
        seen = torch.where(hidden[:, :, None], self.towers.embed_patches(black_image(batch.images)), patches)
        return PaintedPatches(patch_decoder(self.towers.encode_patches(seen), guide, skipped), hidden=hidden)

    def _black_patches(self, batch: Batch) -> Bool[Tensor, "B N"]:
        of_part = batch.part_grids.any(dim=1)
        if self.config.masked_patch_choice == "parts":
            return of_part
        _, removed = choose_removed_patches(batch.part_grids, self.config.removed_patches, batch.patch_draws)
        return torch.zeros_like(of_part).scatter(1, removed, True)

    def _counts(self, batch: Batch) -> dict[str, int | Tensor]:
        """How many things each loss is a mean over."""
        present = batch.part_grids.any(dim=2)
        of_parts = self.config.masked_patch_choice == "parts"
        return {
            "id": len(batch.images),
            "part_itc": present.any(dim=1).sum(),
            "mlm": len(batch.masked_positions),
            "part_mlm": present[:, self.masked_name_positions // self.masked_name_ids.shape[1]].sum(),
            "mim": batch.part_grids.any(dim=1).sum() if of_parts else len(batch.images),
        }


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
    config = config.model_copy(update={"towers": sizes})
    if config.misfit is not None:
        raise CheckpointError(f"{config.backbone}: {config.misfit}; change the setting")
    heads = TrainingHeads(config, tokenizer.vocabulary_size, identities)
    return PfcvrModel(config, tokenizer, towers, heads, identities)
