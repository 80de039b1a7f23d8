"""Part queries equal plain multi-head attention over the concatenated texts; parts are pooled patch by patch."""

import pytest
import torch
from torch import Tensor, nn

from pfcvr.model.parts import PartQueries, part_prompts, pool_parts
from pfcvr.records import PARTS


def plain_part_queries(
    module: PartQueries, part_text: Tensor, part_padding: Tensor, caption: Tensor, caption_padding: Tensor
) -> Tensor:
    """Equation 1 image by image and part by part with torch's own attention."""
    width = module.queries.shape[1]
    attention = nn.MultiheadAttention(width, module.heads, batch_first=True, dtype=caption.dtype)
    projections = (module.query, module.key, module.value)
    attention.in_proj_weight.data = torch.cat([projection.weight for projection in projections])
    attention.in_proj_bias.data = torch.cat([projection.bias for projection in projections])
    attention.out_proj = module.out
    rows = []
    for image in range(len(caption)):
        for part in range(len(PARTS)):
            texts = part_text[image if len(part_text) > 1 else 0, part], caption[image]
            paddings = part_padding[image if len(part_padding) > 1 else 0, part], caption_padding[image]
            context, padding = torch.cat(texts)[None], torch.cat(paddings)[None]
            mixed = attention(module.queries[None, part : part + 1], context, context, key_padding_mask=padding)[0]
            rows.append(module.norm(module.queries[part] + mixed[0, 0]))
    return torch.stack(rows).view(len(caption), len(PARTS), width)


@pytest.mark.parametrize("texts", [1, 3])
def test_part_queries_equal_attention_over_part_text_and_caption(texts: int) -> None:
    torch.manual_seed(0)
    module = PartQueries(16, 4).double()
    part_text, caption = torch.randn(texts, 6, 3, 16).double(), torch.randn(3, 5, 16).double()
    part_padding, caption_padding = torch.zeros(texts, 6, 3).bool(), torch.zeros(3, 5).bool()
    part_padding[0, 2, 2] = caption_padding[0, 3:] = caption_padding[2, 1:] = True
    inputs = (part_text, part_padding, caption, caption_padding)
    torch.testing.assert_close(module(*inputs), plain_part_queries(module, *inputs), rtol=1e-10, atol=1e-10)


def test_padding_does_not_reach_the_part_queries() -> None:
    torch.manual_seed(0)
    module = PartQueries(16, 4)
    part_text, caption = torch.randn(1, 6, 3, 16), torch.randn(2, 5, 16)
    part_padding, caption_padding = torch.zeros(1, 6, 3).bool(), torch.zeros(2, 5).bool()
    part_padding[0, 1, 1:] = caption_padding[0, 2:] = True
    clean = module(part_text, part_padding, caption, caption_padding)
    noisy_parts = part_text.masked_fill(part_padding[..., None], 50.0)
    noisy_caption = caption.masked_fill(caption_padding[..., None], -50.0)
    assert torch.equal(module(noisy_parts, part_padding, noisy_caption, caption_padding), clean)
    assert not torch.equal(module(part_text, part_padding, caption + 0.1, caption_padding), clean)


def test_each_part_is_the_mean_of_its_own_patches() -> None:
    torch.manual_seed(0)
    patches, grids = torch.randn(3, 8, 4).double(), torch.rand(3, 6, 8) < 0.4
    grids[1] = False
    grids[0, 2] = False
    visual, present = pool_parts(patches, grids)
    for image in range(3):
        for part in range(6):
            covered = [patches[image, n] for n in range(8) if grids[image, part, n]]
            assert bool(present[image, part]) == bool(covered)
            expected = torch.stack(covered).mean(dim=0) if covered else torch.zeros(4).double()
            torch.testing.assert_close(visual[image, part], expected)


def test_prompts_name_the_parts_in_grid_order() -> None:
    assert part_prompts() == ["car windows", "car wheels", "car doors", "car mirrors", "car lights", "car roof"]
