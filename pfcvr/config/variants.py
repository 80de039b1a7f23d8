"""The named variants of PFCVR: one row a switch, one column a variant. ``docs/deviations.md`` explains each row.

A variant is a layer of settings under a recipe: what the recipe or ``--set`` says about a switch wins.
"""

from typing import Any, Literal, NamedTuple

Variant = Literal["paper", "official", "extended"]


MASKED_CAPTIONS = "model.mask_caption_for_matching"


class Switch(NamedTuple):
    """A key of the recipe, the rows of ``docs/deviations.md`` it stands for, and its value in each variant."""

    key: str
    rows: tuple[str, ...]
    paper: Any
    official: Any
    extended: Any


SWITCHES = (
    Switch("model.masked_patches", ("1",), "drop", "drop", "drop"),
    Switch("model.patch_mask_ratio_means", ("2",), "removed", "kept", "removed"),
    Switch("model.masked_patch_choice", ("3",), "parts_first", "parts_first", "parts_first"),
    Switch("model.part_context", ("4",), "caption", "image", "caption"),
    Switch("model.part_fusion", ("5",), "concatenate", "add", "concatenate"),
    Switch("model.part_text_feature", ("6",), "tokens", "mean", "tokens"),
    Switch("model.part_decoder", ("7",), "cross_attention", "detr", "cross_attention"),
    Switch("model.part_loss", ("8",), "info_nce", "bce", "info_nce"),
    Switch("model.part_pool", ("9",), "mean", "positions", "mean"),
    Switch("model.word_decoder_depth", ("10",), 1, 4, 1),
    Switch("model.temperature", ("11",), 0.02, 0.07, 0.02),
    Switch("model.part_temperature", ("11",), 0.02, 0.07, 0.02),
    Switch("optimizer.rate_groups", ("14",), "new_modules", "official", "new_modules"),
    Switch("model.patch_guide", ("19",), "tokens", "tokens", "tokens"),
    Switch("model.mask_padding", ("19",), True, False, True),
    Switch(MASKED_CAPTIONS, ("20",), False, True, False),
    Switch("model.cls_position", ("21",), 0, 1, 0),
    Switch("augment.sync_masks", ("23", "E1"), True, False, True),
    Switch("model.part_text", ("E2",), "name", "name", "phrase"),
    Switch("model.losses.part_across", ("E3",), 0.0, 0.0, 0.2),
)
"""Row 18 has no switch: ``model.losses.mlm`` and ``model.losses.mim`` are two numbers; the paper has them equal."""


def variant_values(variant: Variant, copies: bool = True) -> dict[str, Any]:
    """Nested tables of a recipe that hold the switches of ``variant`` and nothing else.

    Without ``copies`` of the images no variant masks the captions: the released code does it where it reads copies, and
    nowhere else (row 20).
    """
    values: dict[str, Any] = {}
    for switch in SWITCHES:
        *tables, last = switch.key.split(".")
        table = values
        for name in tables:
            table = table.setdefault(name, {})
        table[last] = False if switch.key == MASKED_CAPTIONS and not copies else getattr(switch, variant)
    return values
