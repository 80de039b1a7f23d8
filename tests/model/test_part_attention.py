"""What a part query is said to attend to is what its features really depend on."""

import pytest
import torch
from torch import nn

from pfcvr.model.part_decoder import DetrPartDecoder
from pfcvr.model.parts import PartQueries

WIDTH, PAIRS, PARTS, ROWS, CONTEXT = 16, 2, 6, 3, 5


def modules() -> list[nn.Module]:
    torch.manual_seed(0)
    return [PartQueries(WIDTH, 4).eval(), DetrPartDecoder(WIDTH, 4, depth=2, dropout=0.1).eval()]


def memory(context: int = CONTEXT) -> tuple[torch.Tensor, ...]:
    random = torch.Generator().manual_seed(1)
    part_padding = torch.zeros(PAIRS, PARTS, ROWS, dtype=torch.bool)
    part_padding[:, :, -1] = True
    part_padding[1, 2] = True  # an absent part
    context_padding = torch.zeros(PAIRS, context, dtype=torch.bool)
    context_padding[0, 3:] = True
    text, shared = (torch.randn(PAIRS, *shape, WIDTH, generator=random) for shape in ((PARTS, ROWS), (context,)))
    return text, part_padding, shared, context_padding


@torch.no_grad()
@pytest.mark.parametrize("module", modules(), ids=["cross_attention", "detr"])
def test_attention_sums_to_one_and_padding_gets_none(module: nn.Module) -> None:
    for context in (CONTEXT, 0):
        text, part_padding, shared, context_padding = memory(context)
        on_parts, on_context = module.attention(text, part_padding, shared, context_padding)
        assert on_parts.shape == (PAIRS, PARTS, PARTS, ROWS)
        assert on_context.shape == (PAIRS, PARTS, context)
        present = ~part_padding.all(dim=2) if context == 0 else torch.ones(PAIRS, PARTS, dtype=torch.bool)
        total = on_parts.sum(dim=(2, 3)) + on_context.sum(dim=2)
        torch.testing.assert_close(total[present], torch.ones_like(total[present]))
        if context:
            assert (on_context[0, :, 3:] == 0).all()
            assert (on_parts[:, :, :, -1] == 0).all()
            assert (on_parts[1, :, 2] == 0).all()


@torch.no_grad()
@pytest.mark.parametrize("module", modules(), ids=["cross_attention", "detr"])
def test_a_row_without_attention_changes_no_query_and_one_with_attention_does(module: nn.Module) -> None:
    text, part_padding, shared, context_padding = memory()
    on_parts, on_context = module.attention(text, part_padding, shared, context_padding)
    features = module(text, part_padding, shared, context_padding)
    for part in range(PARTS):
        for row in range(ROWS):
            changed = text.clone()
            changed[:, part, row] += 1
            moved = (module(changed, part_padding, shared, context_padding) - features).abs().amax(dim=2) > 1e-5
            assert torch.equal(moved, on_parts[:, :, part, row] > 0)
    for row in range(CONTEXT):
        changed = shared.clone()
        changed[:, row] += 1
        moved = (module(text, part_padding, changed, context_padding) - features).abs().amax(dim=2) > 1e-5
        assert torch.equal(moved, on_context[:, :, row] > 0)


@torch.no_grad()
def test_a_cross_attending_query_reads_no_other_parts_text() -> None:
    on_parts, _ = modules()[0].attention(*memory())
    others = ~torch.eye(PARTS, dtype=torch.bool)
    assert (on_parts[:, others] == 0).all()
