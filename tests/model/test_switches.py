"""Each switch of the variants, flipped alone, changes what it names and nothing else."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pfcvr.config import SWITCHES, ModelConfig, OptimizerConfig, Variant, parse, variant_values
from pfcvr.errors import UsageError
from pfcvr.model.batch import Batch
from pfcvr.model.clip import IMAGE_MEAN, IMAGE_STD
from pfcvr.model.part_decoder import DetrPartDecoder
from pfcvr.model.parts import PositionPool, masked_part_names, pool_parts
from pfcvr.model.pfcvr import PfcvrModel
from pfcvr.model.rates import parameter_groups
from pfcvr.model.recipes import load_recipe

MakeModel = Callable[..., PfcvrModel]
MakeBatch = Callable[..., Batch]
PLFA = {"part_itc", "part_across"}
EVERYTHING = {"sdm", "itc", "id", "part_itc", "part_across", "part_mlm", "mlm", "mim"}
FLIPS: dict[str, tuple[Any, set[str], dict[str, Any]]] = {
    "masked_patches": ("zero", {"mim"}, {}),
    "patch_mask_ratio_means": ("kept", {"mim"}, {}),
    "masked_patch_choice": ("parts", {"mim"}, {"masked_patches": "zero"}),
    "patch_guide": ("end", {"mim"}, {}),
    "mask_padding": (False, {"mim", "mlm"}, {}),
    "word_decoder_depth": (4, {"mlm", "part_mlm"}, {}),
    "part_context": ("image", PLFA, {}),
    "part_fusion": ("add", PLFA, {}),
    "part_text_feature": ("mean", PLFA, {}),
    "part_text": ("phrase", PLFA, {}),
    "part_decoder": ("detr", PLFA, {}),
    "part_pool": ("positions", PLFA, {}),
    "part_loss": ("bce", {"part_itc"}, {}),
    "part_temperature": (0.07, PLFA, {}),
    "temperature": (0.07, {"sdm", "itc"}, {}),
    "cls_position": (1, EVERYTHING, {}),
    "mask_caption_for_matching": (True, EVERYTHING - {"mlm", "part_mlm"}, {}),
}
"""Switch: its other value, the losses it changes, and what else must be set for it to have any meaning."""


def with_weights_of(other: PfcvrModel, model: PfcvrModel) -> PfcvrModel:
    """``model`` with every weight that ``other`` has too, so that two models differ in nothing but a switch."""
    known, own = other.state_dict(), model.state_dict()
    model.load_state_dict({**own, **{key: known[key] for key in own.keys() & known.keys()}})
    return model.eval()


def test_the_flips_below_are_all_switches_of_the_model() -> None:
    switches = {switch.key.removeprefix("model.") for switch in SWITCHES if switch.key.startswith("model.")}
    assert switches - {"losses.part_across"} == set(FLIPS)


@pytest.mark.parametrize("switch", FLIPS)
def test_a_switch_changes_the_losses_it_names_and_no_other(
    switch: str, tiny_model: MakeModel, tiny_batch: MakeBatch
) -> None:
    value, named, needed = FLIPS[switch]
    base = tiny_model(**needed).double().eval()
    assert getattr(base.config, switch) != value
    flipped = with_weights_of(base, tiny_model(**needed, **{switch: value}).double())
    batch = tiny_batch(base, identities=[0, 1, 0, 2, 3, 4, 5, 5])
    batch = dataclasses.replace(batch, images=batch.images.double())
    with torch.no_grad():
        losses, others = base(batch), flipped(batch)
    assert losses.keys() == others.keys() == EVERYTHING
    changed = {name for name, loss in losses.items() if not torch.allclose(loss, others[name], rtol=1e-9, atol=1e-9)}
    assert changed == named


def variant_switches(variant: Variant) -> dict[str, Any]:
    recipe = load_recipe("tiny", variant=variant).model_dump()
    found = {}
    for switch in SWITCHES:
        value: Any = recipe
        for key in switch.key.split("."):
            value = value[key]
        found[switch.key] = value
    return found


@pytest.mark.parametrize("variant", ["paper", "official", "extended"])
def test_a_variant_sets_every_switch_that_the_recipe_leaves_open(variant: Variant) -> None:
    said_by_tiny = {"model.temperature", "model.part_temperature", "model.losses.part_across"}
    found = variant_switches(variant)
    for switch in SWITCHES:
        if switch.key not in said_by_tiny:
            assert found[switch.key] == getattr(switch, variant), switch.key
    assert found["model.temperature"] == 0.07  # the recipe's own, in every variant


def test_overrides_win_over_the_variant() -> None:
    recipe = load_recipe("tiny", ["model.part_decoder=cross_attention"], variant="official")
    assert recipe.model.part_decoder == "cross_attention"
    assert recipe.model.part_loss == "bce"


def test_the_paper_is_what_the_settings_are_by_default() -> None:
    assert ModelConfig.model_validate(variant_values("paper")["model"]) == ModelConfig()
    assert OptimizerConfig.model_validate(variant_values("paper")["optimizer"]) == OptimizerConfig()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"part_decoder": "qformer"}, "'part_decoder': input should be 'cross_attention' or 'detr' (got 'qformer')"),
        ({"cls_position": 2}, "'cls_position': input should be 0 or 1 (got 2)"),
        ({"masked_patch_choice": "parts"}, "masked_patch_choice = parts needs masked_patches = zero"),
    ],
)
def test_values_that_a_switch_does_not_know_are_refused_with_a_sentence(
    settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UsageError) as refusal:
        parse(ModelConfig, settings, "recipe.toml")
    assert sentence in str(refusal.value)


def test_cls_reads_the_row_of_the_position_table_that_is_named(tiny_model: MakeModel, tiny_batch: MakeBatch) -> None:
    for row in (0, 1):
        model = tiny_model(cls_position=row)
        images = tiny_batch(model).images
        without_patches = torch.zeros(len(images), 0, dtype=torch.long)
        tokens = model.towers.image_tokens(images, without_patches)
        gradient = torch.autograd.grad(tokens.square().sum(), model.towers.image_positions)[0]
        assert gradient.any(dim=1).nonzero().flatten().tolist() == [row]


def test_retrieval_reads_the_same_row_as_training(tiny_model: MakeModel, tiny_batch: MakeBatch) -> None:
    model = tiny_model()
    images = tiny_batch(model).images
    official = with_weights_of(model, tiny_model(cls_position=1))
    with torch.no_grad():
        assert not torch.allclose(model.encode_images(images), official.encode_images(images))
        model.towers.image_positions[0] = model.towers.image_positions[1]
        torch.testing.assert_close(model.encode_images(images), official.encode_images(images))


def test_zeroed_patches_are_black_pixels_of_the_whole_image(
    tiny_model: MakeModel, tiny_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(masked_patches="zero", masked_patch_choice="parts").eval()
    batch = tiny_batch(model)
    seen = []
    encode = model.towers.encode_patches
    monkeypatch.setattr(model.towers, "encode_patches", lambda *args: seen.append(args) or encode(*args))
    with torch.no_grad():
        model(batch)
    black = (torch.zeros(3) - torch.tensor(IMAGE_MEAN)) / torch.tensor(IMAGE_STD)
    images, size = batch.images.clone(), model.config.towers.patch_size
    cols = model.config.patch_grid[1]
    for i, grids in enumerate(batch.part_grids):
        for patch in grids.any(dim=0).nonzero().flatten().tolist():
            top, left = patch // cols * size, patch % cols * size
            images[i, :, top : top + size, left : left + size] = black[:, None, None]
    torch.testing.assert_close(seen[1][0], model.towers.embed_patches(images))


def test_only_the_patches_of_parts_are_scored_when_only_they_are_removed(
    tiny_model: MakeModel, tiny_batch: MakeBatch
) -> None:
    model = tiny_model(masked_patches="zero", masked_patch_choice="parts").eval()
    batch = tiny_batch(model)
    nothing = dataclasses.replace(batch, part_grids=torch.zeros_like(batch.part_grids))
    with torch.no_grad():
        assert float(model(batch)["mim"]) > 0
        assert float(model(nothing)["mim"]) == 0


@pytest.mark.parametrize(
    ("loss", "settings"),
    [
        ("part_itc", {**variant_values("official")["model"], "part_decoder_depth": 2}),
        ("part_itc", {"part_text": "phrase", "part_context": "image"}),
        ("part_mlm", {"word_decoder_depth": 4}),
        ("mim", {"masked_patches": "zero", "masked_patch_choice": "parts"}),
        ("mim", {"patch_guide": "end", "patch_mask_ratio_means": "kept"}),
    ],
)
def test_a_loss_decreases_alone_in_the_ways_of_the_other_variants(
    loss: str, settings: dict[str, Any], tiny_model: MakeModel, tiny_batch: MakeBatch
) -> None:
    model = tiny_model(**{**settings, "losses": {**dict.fromkeys(EVERYTHING, 0.0), loss: 1.0}})
    batch, seen = tiny_batch(model), []
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(25):
        losses = model(batch)
        optimizer.zero_grad()
        losses[loss].backward()
        optimizer.step()
        seen.append(float(losses[loss].detach()))
    assert sum(seen[-5:]) < 0.95 * sum(seen[:5])


def test_each_image_is_pooled_from_its_own_patches_and_masks_that_do_not_overlap_do_not_mix() -> None:
    torch.manual_seed(0)
    patches = torch.randn(2, 12, 5, requires_grad=True)
    grids = torch.zeros(2, 6, 12, dtype=torch.bool)
    for part in range(5):
        grids[:, part, 2 * part : 2 * part + 2] = True
    for pool in (pool_parts, PositionPool(12)):
        visual, present = pool(patches, grids)
        assert present.tolist() == [[True] * 5 + [False]] * 2
        for image in range(2):
            for part in range(6):
                gradient = torch.autograd.grad(visual[image, part].sum(), patches, retain_graph=True)[0]
                reached = gradient.any(dim=2).nonzero().tolist()
                assert reached == [[image, n] for n in grids[image, part].nonzero().flatten().tolist()]


def test_pooling_over_positions_is_the_released_codes_convolution() -> None:
    torch.manual_seed(0)
    pool, patches, grids = PositionPool(12), torch.randn(3, 12, 5), torch.rand(3, 6, 12) < 0.4
    convolution = nn.Conv1d(12, 1, 1)
    with torch.no_grad():
        convolution.weight.copy_(pool.weights[None, :, None])
        convolution.bias.copy_(pool.bias[None])
        expected = torch.stack(
            [convolution(grid[:, :, None] * x)[:, 0] for grid, x in zip(grids, patches, strict=True)]
        )
        torch.testing.assert_close(pool(patches, grids)[0], expected)
    assert sum(parameter.numel() for parameter in PositionPool(576).parameters()) == 577


def decoder_inputs(rows: int = 6) -> tuple[DetrPartDecoder, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    decoder = DetrPartDecoder(16, 4, depth=3, dropout=0.1).double().eval()
    padding = torch.zeros(2, rows, 1, dtype=torch.bool)
    padding[1, 2:] = True
    return decoder, torch.randn(2, rows, 1, 16).double(), padding, torch.zeros(2, 0, 16).double()


@torch.no_grad()
def test_the_part_decoder_looks_at_a_set_and_not_at_padding() -> None:
    decoder, rows, padding, nothing = decoder_inputs()
    none = padding[:, 0, :0]
    queries = decoder(rows, padding, nothing, none)
    order = torch.tensor([4, 1, 5, 0, 3, 2])
    torch.testing.assert_close(decoder(rows[:, order], padding[:, order], nothing, none), queries)
    torch.testing.assert_close(decoder(rows.masked_fill(padding[..., None], 9.0), padding, nothing, none), queries)
    only_present = decoder(rows[1:, :, :0], padding[1:, :, :0], rows[1:, :2, 0], padding[1:, :2, 0])
    torch.testing.assert_close(only_present, queries[1:])
    assert not torch.allclose(decoder(rows + 1, padding, nothing, none), queries)


def test_an_image_without_parts_gives_finite_queries_and_gradients_in_the_part_decoder() -> None:
    decoder, rows, padding, nothing = decoder_inputs()
    padding[0] = True
    queries = decoder(rows.requires_grad_(), padding, nothing, padding[:, 0, :0])
    gradients = torch.autograd.grad(queries[1].sum(), [rows, *decoder.parameters()], allow_unused=True)
    assert queries.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients if gradient is not None)
    assert not gradients[0][0].any()


def test_the_part_decoder_has_the_published_number_of_parameters() -> None:
    decoder = DetrPartDecoder(512, 8, depth=6, dropout=0.1)
    assert sum(parameter.numel() for parameter in decoder.parameters()) / 1e6 == pytest.approx(25.2, abs=0.05)


def test_the_nouns_of_the_part_prompts_are_masked_and_nothing_else(tiny_model: MakeModel) -> None:
    tokenizer = tiny_model().tokenizer
    ids, labels = masked_part_names(tokenizer)
    for row, (masked, label) in enumerate(zip(ids, labels, strict=True)):
        restored = torch.where(label >= 0, label, masked)
        name = ("windows", "wheels", "doors", "mirrors", "lights", "roof")[row]
        assert tokenizer.decode(restored) == f"car {name}"
        noun = [int(token) for token in label if token >= 0]
        assert tokenizer.decode(torch.tensor(noun)) == name
        assert (masked[label >= 0] == tokenizer.mask_id).all()


def test_the_released_codes_rates_are_large_for_the_word_branch_and_double_for_biases(tiny_model: MakeModel) -> None:
    switches = variant_values("official")
    model = tiny_model(**{**switches["model"], "losses": {"mlm": 0.5, "mim": 0.5}, "part_decoder_depth": 1})
    groups = parameter_groups(model, OptimizerConfig(lr=1.0, weight_decay=0.1, **switches["optimizer"]))
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {names[p]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert found.keys() == set(names.values())
    expected = {
        "towers.image_positions": (1, 0.1),
        "towers.patch_embedding.weight": (1, 0.1),
        "towers.image_pre_norm.weight": (1, 0.1),
        "towers.image_pre_norm.bias": (2, 0),
        "heads.classifier.weight": (5, 0.1),
        "heads.classifier.bias": (5, 0),
        "heads.word_decoder.cross_attention.query.weight": (5, 0.1),
        "heads.word_decoder.cross_attention.query.bias": (2, 0),
        "heads.word_decoder.blocks.3.feed_forward.fall.weight": (5, 0.1),
        "heads.word_decoder.blocks.3.feed_forward_norm.weight": (5, 0.1),
        "heads.word_decoder.text_norm.weight": (1, 0.1),
        "heads.word_decoder.head.0.weight": (5, 0.1),
        "heads.word_decoder.head.3.bias": (5, 0),
        "heads.part_queries.queries": (1, 0.1),
        "heads.part_queries.layers.0.cross_attention.in_proj_weight": (1, 0.1),
        "heads.part_queries.layers.0.cross_attention.in_proj_bias": (2, 0),
        "heads.part_pool.weights": (1, 0.1),
        "heads.part_pool.bias": (2, 0),
        "heads.patch_decoder.mask_token": (1, 0.1),
        "heads.patch_decoder.blocks.0.cross_attention.query.weight": (1, 0.1),
        "heads.patch_decoder.head.weight": (1, 0.1),
    }
    assert {name: found[name] for name in expected} == expected


def documented_switches() -> dict[str, list[str]]:
    """Switch: its values in paper, official and extended, from the first table of docs/deviations.md."""
    page = (Path(__file__).parents[2] / "docs" / "deviations.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]
    found = {}
    for row in (row for row in rows if len(row) == 8):
        values = [re.sub(r"[*⁰-⁹¹²³ ]", "", cell) for cell in row[5:]]
        found |= dict.fromkeys(re.findall(r"`([\w.]+)`", row[4]), values)
    return found


def test_the_page_about_the_variants_says_what_they_set() -> None:
    documented = documented_switches()
    for switch in SWITCHES:
        name = switch.key.removeprefix("model.")
        if name not in ("part_text", "losses.part_across"):  # improvements: they have a table of their own
            values = [str(value).lower() for value in (switch.paper, switch.official, switch.extended)]
            assert documented[name] == [value.removeprefix("0") or "0" for value in values], name
