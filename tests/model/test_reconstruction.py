"""Which patches are removed, in which order pixels lie, and that only what is masked is restored."""

import pytest
import torch
from torch import nn

from pfcvr.config import ModelConfig
from pfcvr.model.layers import Attention
from pfcvr.model.reconstruction import (
    PatchDecoder,
    WordDecoder,
    choose_removed_patches,
    patch_pixels,
)


@pytest.mark.parametrize(
    ("visible", "removed"),
    [
        (0.10, 518),
        (0.15, 489),
        (0.20, 460),
        (0.25, 432),
        (0.30, 403),
        (0.35, 374),
        (0.40, 345),
        (0.45, 316),
        (0.50, 288),
        (0.55, 259),
    ],
)
def test_counts_of_removed_patches_are_those_of_table_seven_when_the_ratio_is_what_stays(
    visible: float, removed: int
) -> None:
    assert ModelConfig(patch_mask_ratio=visible, patch_mask_ratio_means="kept").removed_patches == removed


def test_the_papers_ratio_removes_a_quarter_rounded_down() -> None:
    assert ModelConfig().removed_patches == 144
    assert ModelConfig(image_size=(32, 80)).removed_patches == 2


@pytest.mark.parametrize("part_patches", [0, 100, 144, 300, 432, 500, 576])
@pytest.mark.parametrize("removed", [144, 432])
def test_patches_of_parts_are_removed_first_and_every_patch_is_accounted_for(part_patches: int, removed: int) -> None:
    torch.manual_seed(part_patches)
    grids = torch.zeros(4, 6, 576, dtype=torch.bool)
    for image in range(4):
        grids[image, image % 6, torch.randperm(576)[:part_patches]] = True
    kept, gone = choose_removed_patches(grids, removed, torch.rand(4, 576))
    assert gone.shape == (4, removed)
    for image in range(4):
        assert sorted(kept[image].tolist() + gone[image].tolist()) == list(range(576))
        assert int(grids[image].any(dim=0)[gone[image]].sum()) == min(part_patches, removed)


def test_patches_are_drawn_anew_each_time_and_equally_often() -> None:
    torch.manual_seed(0)
    grids = torch.zeros(2000, 6, 8, dtype=torch.bool)
    grids[:, 0, :2] = True
    _, gone = choose_removed_patches(grids, 5, torch.rand(2000, 8))
    share = torch.bincount(gone.flatten(), minlength=8) / 2000
    torch.testing.assert_close(share, torch.tensor([1.0, 1.0, *[0.5] * 6]), atol=0.05, rtol=0)


def test_pixels_of_a_patch_lie_row_by_row_with_the_channel_last() -> None:
    images = torch.arange(2 * 3 * 6 * 4).view(2, 3, 6, 4).float()
    patches = patch_pixels(images, 2)
    assert patches.shape == (2, 6, 12)
    for image in range(2):
        for n in range(6):
            row, col = divmod(n, 2)
            tile = images[image, :, row * 2 : row * 2 + 2, col * 2 : col * 2 + 2]
            expected = [tile[channel, r, c] for r in range(2) for c in range(2) for channel in range(3)]
            assert patches[image, n].tolist() == expected


@torch.no_grad()
def test_attention_equals_torchs_own() -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(12, 3, depth=1), nn.MultiheadAttention(12, 3, batch_first=True)
    theirs.in_proj_weight.copy_(torch.cat([p.weight for p in (ours.query, ours.key, ours.value)]))
    theirs.in_proj_bias.copy_(torch.cat([p.bias for p in (ours.query, ours.key, ours.value)]))
    theirs.out_proj = ours.out
    queries, context = torch.randn(2, 4, 12), torch.randn(2, 5, 12)
    padding = torch.tensor([[False, False, True, True, True], [False] * 5])
    expected = theirs(queries, context, context, key_padding_mask=padding)[0]
    torch.testing.assert_close(ours(queries, context, padding), expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_restored_patches_do_not_depend_on_the_order_of_the_sequence() -> None:
    torch.manual_seed(0)
    decoder = PatchDecoder(16, 2, 12, 2, patches=6, pixels=27)
    visible, text, padding = torch.randn(2, 5, 16), torch.randn(2, 3, 16), torch.zeros(2, 3).bool()
    kept, removed = torch.tensor([[4, 1, 0, 3], [5, 2, 0, 1]]), torch.tensor([[2, 5], [3, 4]])
    restored = decoder(visible, kept, removed, text, padding)
    assert restored.shape == (2, 2, 27)
    turn = torch.tensor([2, 0, 3, 1])
    turned = torch.cat([visible[:, :1], visible[:, 1:][:, turn]], dim=1)
    torch.testing.assert_close(decoder(turned, kept[:, turn], removed, text, padding), restored, rtol=1e-4, atol=1e-5)
    swapped = decoder(visible, kept, removed.flip(1), text, padding)
    torch.testing.assert_close(swapped, restored.flip(1), rtol=1e-4, atol=1e-5)
    elsewhere = decoder(visible, removed[:, [0, 1, 0, 1]], removed, text, padding)
    assert not torch.allclose(elsewhere, restored, atol=1e-4)


@torch.no_grad()
def test_restored_patches_listen_to_the_caption_but_not_to_its_padding() -> None:
    torch.manual_seed(0)
    decoder = PatchDecoder(16, 2, 12, 2, patches=6, pixels=27)
    visible, text = torch.randn(1, 5, 16), torch.randn(1, 4, 16)
    kept, removed = torch.tensor([[4, 1, 0, 3]]), torch.tensor([[2, 5]])
    padding = torch.tensor([[False, False, True, True]])
    restored = decoder(visible, kept, removed, text, padding)
    noisy = text.masked_fill(padding[..., None], 50.0)
    assert torch.equal(decoder(visible, kept, removed, noisy, padding), restored)
    other_words = text + ~padding[..., None]
    assert not torch.allclose(decoder(visible, kept, removed, other_words, padding), restored)


@torch.no_grad()
@pytest.mark.parametrize("depth", [1, 4])
def test_word_logits_at_the_masked_places_are_those_of_the_whole_caption(depth: int) -> None:
    torch.manual_seed(0)
    decoder = WordDecoder(16, 2, depth, vocabulary_size=30)
    text, image = torch.randn(2, 5, 16), torch.randn(2, 7, 16)
    padding = torch.tensor([[False, False, False, True, True], [False] * 5])
    everywhere = decoder(text, padding, image, torch.arange(10))
    positions = torch.tensor([1, 2, 8])
    torch.testing.assert_close(decoder(text, padding, image, positions), everywhere[positions])
    noisy = text.masked_fill(padding[..., None], 50.0)
    torch.testing.assert_close(decoder(noisy, padding, image, positions), everywhere[positions])
    assert not torch.allclose(decoder(text, padding, image + torch.randn(7, 16), positions), everywhere[positions])
    assert decoder(text, padding, image, torch.zeros(0, dtype=torch.long)).shape == (0, 30)


def test_modules_have_the_published_numbers_of_parameters() -> None:
    def millions(module: nn.Module) -> float:
        return sum(parameter.numel() for parameter in module.parameters()) / 1e6

    words = WordDecoder(512, 8, 4, vocabulary_size=49408)
    assert millions(words.cross_attention) == pytest.approx(1.05, abs=0.005)
    assert millions(words.blocks) == pytest.approx(12.6, abs=0.05)
    assert millions(words.head) == pytest.approx(25.6, abs=0.05)
    pixels = PatchDecoder(512, 8, 96, 4, patches=576, pixels=768)
    assert millions(pixels.blocks) == pytest.approx(25.2, abs=0.05)
    assert millions(pixels.head) == pytest.approx(0.39, abs=0.005)
