"""PFCVR image by image, written from the paper's equations and from what the released code does, as two plain programs.

Nothing is batched, padded or masked: what does not exist is not there. Weights are taken from a model under test, its
towers are called for one sentence or for one list of patches at a time; everything behind them is written out.
Attention, normalisation and activations are formulas. ``paper_losses`` and ``official_losses`` are meant to be read
beside ``docs/deviations.md``.
"""

import math
from collections.abc import Sequence

import plain_losses
import torch
from torch import Tensor, nn

from pfcvr.model.batch import Batch
from pfcvr.model.pfcvr import PfcvrModel

Losses = dict[str, Tensor]
IGNORED = -100


# Formulas


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x @ weight.T + (0 if bias is None else bias)


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias


def quick_gelu(x: Tensor) -> Tensor:
    return x / (1 + (-1.702 * x).exp())


def gelu(x: Tensor) -> Tensor:
    return x * (1 + (x / math.sqrt(2)).erf()) / 2


def heads_attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Rows of ``query`` over rows of ``key`` and ``value``, head by head."""
    width = query.shape[1] // heads
    mixed = []
    for head in range(heads):
        here = slice(head * width, (head + 1) * width)
        scores = (query[:, here] @ key[:, here].T / math.sqrt(width)).exp()
        mixed.append(scores / scores.sum(dim=1, keepdim=True) @ value[:, here])
    return torch.cat(mixed, dim=1)


def attention(module: nn.Module, query: Tensor, context: Tensor) -> Tensor:
    """A module with ``query``, ``key``, ``value`` and ``out`` projections."""
    q, k, v = (
        linear(x, layer.weight, layer.bias)
        for x, layer in ((query, module.query), (context, module.key), (context, module.value))
    )
    return linear(heads_attention(q, k, v, module.heads), module.out.weight, module.out.bias)


def torch_attention(module: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    weights, biases = module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3)
    q, k, v = (linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))
    return linear(heads_attention(q, k, v, module.num_heads), module.out_proj.weight, module.out_proj.bias)


# Towers, for one image and one sentence


def patch_tokens(model: PfcvrModel, image: Tensor) -> Tensor:
    """Patch embeddings with their positions, [N, E]; rows are read left to right, top to bottom."""
    size = model.config.towers.patch_size
    weight = model.towers.patch_embedding.weight.flatten(1)
    tokens = []
    for top in range(0, image.shape[1], size):
        for left in range(0, image.shape[2], size):
            tile = image[:, top : top + size, left : left + size].flatten()
            tokens.append(weight @ tile + model.towers.image_positions[1 + len(tokens)])
    return torch.stack(tokens)


def encode_image(model: PfcvrModel, patches: Tensor, cls_position: int) -> Tensor:
    """Projected tokens of CLS and of the given patches, [1 + number, D]."""
    towers = model.towers
    cls = towers.class_embedding + towers.image_positions[cls_position]
    x = layer_norm(torch.cat([cls[None], patches]), towers.image_pre_norm)
    x = towers.image_encoder(inputs_embeds=x[None]).last_hidden_state[0]
    return linear(layer_norm(x, towers.image_post_norm), towers.image_projection.weight, None)


def text(model: PfcvrModel, ids: Tensor) -> Tensor:
    return model.towers.text_tokens(ids[None])[0]


def end_of(model: PfcvrModel, ids: Tensor) -> int:
    return ids.tolist().index(model.tokenizer.end_id)


def prompt_ids(model: PfcvrModel, part: str) -> Tensor:
    return model.tokenizer.encode([f"car {part}"]).ids[0]


def pixels_of_patches(model: PfcvrModel, image: Tensor) -> Tensor:
    """[N, pixels], each patch row by row, channel last."""
    size = model.config.towers.patch_size
    return torch.stack(
        [
            image[:, top : top + size, left : left + size].permute(1, 2, 0).flatten()
            for top in range(0, image.shape[1], size)
            for left in range(0, image.shape[2], size)
        ]
    )


# Parts

PARTS = ("windows", "wheels", "doors", "mirrors", "lights", "roof")


def present_parts(grids: Tensor) -> list[int]:
    return [part for part in range(len(PARTS)) if grids[part].any()]


def detr_decoder(module: nn.Module, memory: Tensor) -> Tensor:
    """All six queries over a set of rows, layer by layer, post-norm."""
    queries = module.queries
    x = torch.zeros_like(queries)
    for layer in module.layers:
        x = layer_norm(
            x + torch_attention(layer.self_attention, x + queries, x + queries, x),
            layer.self_norm,
        )
        x = layer_norm(x + torch_attention(layer.cross_attention, x + queries, memory, memory), layer.cross_norm)
        rise, fall = layer.feed_forward[0], layer.feed_forward[3]
        inner = linear(x, rise.weight, rise.bias).clamp(min=0)
        x = layer_norm(x + linear(inner, fall.weight, fall.bias), layer.feed_forward_norm)
    return layer_norm(x, module.norm)


def on_six_rows(rows: Sequence[Tensor], parts: Sequence[int], width: int) -> Tensor:
    """Features of the present parts, put on the rows the losses expect; the others are zero."""
    full = torch.zeros(len(PARTS), width, dtype=torch.float64)
    return torch.stack([rows[parts.index(n)] if n in parts else full[n] for n in range(len(PARTS))])


# Recovery


def word_logits(decoder: nn.Module, hidden: Tensor, position: int) -> Tensor:
    """Self-attention blocks over one sentence, then the vocabulary head at one position."""
    for block in decoder.blocks:
        normed = layer_norm(hidden, block.attention_norm)
        hidden = hidden + attention(block.attention, normed, normed)
        normed, feed = layer_norm(hidden, block.feed_forward_norm), block.feed_forward
        inner = quick_gelu(linear(normed, feed.rise.weight, feed.rise.bias))
        hidden = hidden + linear(inner, feed.fall.weight, feed.fall.bias)
    dense, _, norm, vocabulary = decoder.head
    x = layer_norm(hidden[position], decoder.out_norm)
    x = layer_norm(quick_gelu(linear(x, dense.weight, dense.bias)), norm)
    return linear(x, vocabulary.weight, vocabulary.bias)


def words_from_image(decoder: nn.Module, sentence: Tensor, image: Tensor, position: int) -> Tensor:
    mixed = attention(
        decoder.cross_attention, layer_norm(sentence, decoder.text_norm), layer_norm(image, decoder.image_norm)
    )
    return word_logits(decoder, mixed, position)


def removed_patches(grids: Tensor, draws: Tensor, number: int) -> list[int]:
    """Patches of parts first, then others; among equals those with the larger draw."""
    of_part = grids.any(dim=0).tolist()
    order = sorted(range(len(draws)), key=lambda patch: (of_part[patch], float(draws[patch])), reverse=True)
    return sorted(order[:number])


def pixel_blocks(decoder: nn.Module, x: Tensor, guide: Tensor) -> Tensor:
    for block in decoder.blocks:
        normed = layer_norm(x, block.self_norm)
        x = x + attention(block.self_attention, normed, normed)
        x = x + attention(block.cross_attention, layer_norm(x, block.cross_norm), guide)
        feed = block.feed_forward
        value, gate = linear(layer_norm(x, block.feed_forward_norm), feed.rise.weight, feed.rise.bias).chunk(2, dim=1)
        x = x + linear(value * gelu(gate), feed.fall.weight, feed.fall.bias)
    return x


def restored_patches(decoder: nn.Module, visible: Tensor, kept: list[int], guide: Tensor) -> Tensor:
    """Mask tokens put in the places of the removed patches, everything in the original order, then the blocks."""
    rows = [visible[0]]
    for patch in range(len(decoder.positions) - 1):
        rows.append(visible[1 + kept.index(patch)] if patch in kept else decoder.mask_token)
    x = pixel_blocks(decoder, torch.stack(rows) + decoder.positions, guide)
    return linear(x, decoder.head.weight, decoder.head.bias)[1:]


def mean_of(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean() if values else torch.zeros((), dtype=torch.float64)


# The two variants


def paper_losses(model: PfcvrModel, batch: Batch, tau: float = 0.02, phrases: bool = False) -> Losses:
    """The paper's equations, with our readings where it is silent; ``phrases``: the batch says what parts are like."""
    heads, number = model.heads, int(batch.part_grids.shape[2] * 0.25)
    images, texts, part_visual, part_queries, words, pixels = [], [], [], [], [], []
    for i in range(len(batch.images)):
        grids = batch.part_grids[i]
        patches = patch_tokens(model, batch.images[i])
        image = encode_image(model, patches, cls_position=0)
        end = end_of(model, batch.token_ids[i])
        sentence = text(model, batch.token_ids[i])[: end + 1]
        images.append(image[0])
        texts.append(sentence[end])

        # Equation 1, one part after the other; equation 2 with the mean.
        present, queries, visual = present_parts(grids), [], []
        for n in present:
            ids = batch.part_token_ids[i, n] if phrases else prompt_ids(model, PARTS[n])
            own = text(model, ids)[: end_of(model, ids) + 1]
            module = heads.part_queries
            found = attention(module, module.queries[n][None], torch.cat([own, sentence]))[0]
            queries.append(layer_norm(module.queries[n] + found, module.norm))
            visual.append(image[1:][grids[n]].mean(dim=0))
        part_queries.append(on_six_rows(queries, present, image.shape[1]))
        part_visual.append(on_six_rows(visual, present, image.shape[1]))

        # Equations 3 and 10.
        masked = text(model, batch.masked_token_ids[i])[: end + 1]
        for position, label in enumerate(batch.masked_labels[i].tolist()):
            if label != IGNORED:
                logits = words_from_image(heads.word_decoder, masked, image, position)
                words.append(-plain_losses.log_softmax_at(list(logits), label))

        # Equations 4 and 11.
        removed = removed_patches(grids, batch.patch_draws[i], number)
        kept = [patch for patch in range(len(patches)) if patch not in removed]
        visible = encode_image(model, patches[kept], cls_position=0)
        restored = restored_patches(heads.patch_decoder, visible, kept, sentence)
        target = pixels_of_patches(model, batch.images[i])
        pixels += [(restored[patch] - target[patch]).square().mean() for patch in removed]

    image_features, text_features = torch.stack(images), torch.stack(texts)
    visual, queries = torch.stack(part_visual), torch.stack(part_queries)
    shown = batch.part_grids.any(dim=2)
    return {
        "sdm": plain_losses.sdm(image_features, text_features, batch.identities, tau),
        "id": identity_loss(model, image_features, text_features, batch.identities),
        "part_itc": plain_losses.part_contrast(visual, queries, shown, tau),
        "part_across": plain_losses.part_across(visual, queries, shown, batch.identities, tau),
        "mlm": mean_of(words),
        "mim": mean_of(pixels),
    }


def official_losses(model: PfcvrModel, batch: Batch, tau: float = 0.07) -> Losses:
    """What the released code does, its readings of the masked caption and of padding included."""
    heads, number = model.heads, int(batch.part_grids.shape[2] * (1 - 0.25))
    images, texts, part_losses, words, pixels = [], [], [], [], []
    for i in range(len(batch.images)):
        grids = batch.part_grids[i]
        patches = patch_tokens(model, batch.images[i])
        image = encode_image(model, patches, cls_position=1)
        sentence = text(model, batch.masked_token_ids[i])
        images.append(image[0])
        texts.append(sentence[end_of(model, batch.masked_token_ids[i])])

        # Part branch: what is there of this image, and only that.
        present = present_parts(grids)
        if present:
            means = torch.stack([text(model, prompt_ids(model, PARTS[n])).mean(dim=0) for n in present])
            decoded = detr_decoder(heads.part_queries, image[0] + means)[present]
            weights, bias = heads.part_pool.weights, heads.part_pool.bias
            shown = [grids[n][:, None] * image[1:] for n in present]
            visual = torch.stack([(weights[:, None] * x).sum(dim=0) + bias for x in shown])
            there = torch.ones(1, len(present), dtype=torch.bool)
            part_losses.append(plain_losses.part_bce(visual[None], decoded[None], there, tau))

        # Words: all positions, padding too.
        for position, label in enumerate(batch.masked_labels[i].tolist()):
            if label != IGNORED:
                logits = words_from_image(heads.word_decoder, sentence, image, position)
                words.append(-plain_losses.log_softmax_at(list(logits), label))

        # Pixels: a quarter is visible.
        removed = removed_patches(grids, batch.patch_draws[i], number)
        kept = [patch for patch in range(len(patches)) if patch not in removed]
        visible = encode_image(model, patches[kept], cls_position=1)
        restored = restored_patches(heads.patch_decoder, visible, kept, sentence)
        target = pixels_of_patches(model, batch.images[i])
        pixels += [(restored[patch] - target[patch]).square().mean() for patch in removed]

    image_features, text_features = torch.stack(images), torch.stack(texts)
    return {
        "sdm": plain_losses.sdm(image_features, text_features, batch.identities, tau),
        "id": identity_loss(model, image_features, text_features, batch.identities),
        "part_itc": mean_of(part_losses),
        "mlm": mean_of(words),
        "mim": mean_of(pixels),
    }


def identity_loss(model: PfcvrModel, images: Tensor, texts: Tensor, identities: Tensor) -> Tensor:
    weight, bias = model.heads.classifier.weight, model.heads.classifier.bias
    image_loss, text_loss = (plain_losses.identity(linear(x, weight, bias), identities) for x in (images, texts))
    return (image_loss + text_loss) / 2


def part_name_loss(model: PfcvrModel, batch: Batch) -> Tensor:
    """Part MLM: "car roof" with its noun masked, predicted from the patches of the roof."""
    words, mask = [], model.tokenizer.mask_id
    for i in range(len(batch.images)):
        image = encode_image(model, patch_tokens(model, batch.images[i]), model.config.cls_position)
        for n in present_parts(batch.part_grids[i]):
            ids = prompt_ids(model, PARTS[n])
            end = end_of(model, ids)
            nouns = range(end_of(model, model.tokenizer.encode(["car"]).ids[0]), end)
            masked = ids.clone()
            masked[list(nouns)] = mask
            sentence = text(model, masked)[: end + 1]
            shown = image[1:][batch.part_grids[i, n]]
            for position in nouns:
                logits = words_from_image(model.heads.word_decoder, sentence, shown, position)
                words.append(-plain_losses.log_softmax_at(list(logits), int(ids[position])))
    return mean_of(words)
