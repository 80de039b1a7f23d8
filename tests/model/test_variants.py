"""Each variant equals a plain program that goes image by image, and each of its switches does what it says."""

import dataclasses
from collections.abc import Callable
from typing import Any

import plain_pfcvr
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pfcvr.config import Variant, variant_values
from pfcvr.model.batch import IGNORED_LABEL, Batch
from pfcvr.model.pfcvr import PfcvrModel

MakeModel = Callable[..., PfcvrModel]
MakeBatch = Callable[..., Batch]
VARIANTS: tuple[Variant, ...] = ("paper", "official", "extended")
WEIGHTS = {"sdm": 1.0, "id": 0.5, "part_itc": 0.2, "part_across": 0.3, "mlm": 0.7, "mim": 0.9, "itc": 0.0}


@pytest.fixture
def variant_model(tiny_model: MakeModel) -> Callable[..., PfcvrModel]:
    """A tiny model of a variant in float64 with dropout off."""

    def make(variant: Variant, **changes: Any) -> PfcvrModel:
        settings = variant_values(variant)["model"]
        across = WEIGHTS["part_across"] if settings["losses"]["part_across"] else 0.0
        settings |= {"losses": {**WEIGHTS, "part_across": across}, "part_decoder_depth": 2}
        return tiny_model(**{**settings, **changes}).double().eval()

    return make


@pytest.fixture
def exact_batch(tiny_batch: MakeBatch) -> Callable[..., Batch]:
    """A float64 batch in which one image shows no part and one only some."""

    def make(model: PfcvrModel, size: int = 4) -> Batch:
        batch = tiny_batch(model, size=size, identities=[0, 1, 0, 2][:size])
        grids = batch.part_grids.clone()
        if size > 2:
            grids[1] = False
            grids[2, [0, 3, 5]] = False
        return dataclasses.replace(batch, images=batch.images.double(), part_grids=grids)

    return make


def plain(variant: Variant, model: PfcvrModel, batch: Batch) -> dict[str, Tensor]:
    if variant == "official":
        return plain_pfcvr.official_losses(model, batch)
    losses = plain_pfcvr.paper_losses(model, batch, phrases=variant == "extended")
    return {name: loss for name, loss in losses.items() if name in WEIGHTS and getattr(model.config.losses, name)}


def edge_case(name: str, make: Callable[..., Batch], model: PfcvrModel) -> Batch:
    batch = make(model, size=1 if name == "one pair" else 4)
    everything, nothing = torch.ones_like(batch.part_grids), torch.zeros_like(batch.part_grids)
    unmasked = {
        "masked_token_ids": batch.token_ids,
        "masked_labels": torch.full_like(batch.masked_labels, IGNORED_LABEL),
        "masked_positions": torch.zeros(0, dtype=torch.long),
    }
    masked_ids, labels = model.tokenizer.mask_words(batch.token_ids, 1.0, torch.Generator().manual_seed(2))
    only_masks = torch.where(labels != IGNORED_LABEL, model.tokenizer.mask_id, masked_ids)
    changes: dict[str, dict[str, Any]] = {
        "every word masked": {
            "masked_token_ids": only_masks,
            "masked_labels": labels,
            "masked_positions": torch.nonzero(labels.flatten() != IGNORED_LABEL).squeeze(1),
        },
        "one identity": {"identities": torch.tensor([2, 2, 2, 2])},
        "all identities differ": {"identities": torch.tensor([3, 1, 0, 2])},
        "no part in the whole batch": {"part_grids": nothing},
        "every part covers the image": {"part_grids": everything},
        "no masked word": unmasked,
    }
    return dataclasses.replace(batch, **changes.get(name, {}))


@pytest.mark.parametrize(
    "case",
    [
        "an image without parts",
        "one identity",
        "all identities differ",
        "no part in the whole batch",
        "every part covers the image",
        "no masked word",
        "every word masked",
        "one pair",
    ],
)
@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_and_gradients_are_those_of_a_loop_over_images(
    variant: Variant, case: str, variant_model: MakeModel, exact_batch: MakeBatch
) -> None:
    model = variant_model(variant)
    batch = edge_case(case, exact_batch, model)
    losses, expected = model(batch), plain(variant, model, batch)
    assert losses.keys() == expected.keys()
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name], rtol=1e-7, atol=1e-9, msg=lambda text, n=name: f"{n}: {text}")
    parameters = list(model.parameters())
    gradients, plain_gradients = (
        torch.autograd.grad(sum(WEIGHTS[name] * loss for name, loss in terms.items()), parameters, allow_unused=True)
        for terms in (losses, expected)
    )
    for (name, parameter), one, other in zip(model.named_parameters(), gradients, plain_gradients, strict=True):
        zero = torch.zeros_like(parameter)
        torch.testing.assert_close(
            zero if one is None else one,
            zero if other is None else other,
            rtol=1e-6,
            atol=1e-8,
            msg=lambda text, n=name: f"{n}: {text}",
        )


def test_part_mlm_is_a_loop_over_parts_that_predicts_each_noun_from_its_patches(
    variant_model: MakeModel, exact_batch: MakeBatch
) -> None:
    for variant in VARIANTS:
        model = variant_model(variant, losses={**dict.fromkeys(WEIGHTS, 0.0), "part_mlm": 1.0})
        batch = exact_batch(model)
        losses, expected = model(batch), plain_pfcvr.part_name_loss(model, batch)
        assert list(losses) == ["part_mlm"]
        torch.testing.assert_close(losses["part_mlm"], expected, rtol=1e-9, atol=1e-9)
        parameters = [p for module in (model.heads, model.towers.image_projection) for p in module.parameters()]
        for one, other in zip(
            torch.autograd.grad(losses["part_mlm"], parameters), torch.autograd.grad(expected, parameters), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_permutation_of_the_batch_changes_no_loss(
    variant: Variant, variant_model: MakeModel, exact_batch: MakeBatch
) -> None:
    model = variant_model(variant)
    batch, order = exact_batch(model), torch.tensor([2, 0, 3, 1])
    derived = ("masked_positions", "pairs_on_processes")
    names = [field.name for field in dataclasses.fields(Batch) if field.name not in derived]
    turned = Batch(**{name: getattr(batch, name)[order] for name in names})
    with torch.no_grad():
        losses, again = model(batch), model(turned)
    for name, loss in losses.items():
        torch.testing.assert_close(again[name], loss, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_of_a_variant_learns(
    variant: Variant, variant_model: MakeModel, exact_batch: MakeBatch
) -> None:
    model = variant_model(variant, losses=dict.fromkeys([*WEIGHTS, "part_mlm"], 1.0)).train()
    batch = exact_batch(model)
    losses = model(batch)
    torch.stack(list(losses.values())).sum().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # Where DETR's decoder starts, values and biases are zero: the first self-attention can move its biases alone.
    first_layer = "heads.part_queries.layers.0.self_"
    assert [name for name in silent if not name.startswith(first_layer)] == []
    assert bool(silent) == (variant == "official")


def test_dropout_is_on_in_training_and_only_in_the_part_decoder_of_the_released_code(
    variant_model: MakeModel, exact_batch: MakeBatch
) -> None:
    for variant in VARIANTS:
        model = variant_model(variant).train()
        batch = exact_batch(model)
        with torch.no_grad():
            first, second = model(batch), model(batch)
        different = {name for name, loss in first.items() if not torch.equal(loss, second[name])}
        assert different == ({"part_itc"} if variant == "official" else set())


@pytest.mark.parametrize(
    ("variant", "passes"),
    [("paper", [(8, 24), (6, 5)]), ("official", [(4, 24), (6, 24)]), ("extended", [(8, 24), (24, 16)])],
)
def test_a_step_encodes_every_text_once_and_only_masked_words_reach_the_vocabulary(
    variant: Variant,
    passes: list[tuple[int, int]],
    variant_model: MakeModel,
    exact_batch: MakeBatch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = variant_model(variant)
    batch = exact_batch(model)
    texts: list[tuple[int, ...]] = []
    words: list[int] = []
    encode, vocabulary = model.towers.text_tokens, model.heads.word_decoder.head[3]
    monkeypatch.setattr(model.towers, "text_tokens", lambda ids: texts.append(tuple(ids.shape)) or encode(ids))
    vocabulary.register_forward_hook(lambda module, inputs, logits: words.append(len(logits)))
    with torch.no_grad():
        model(batch)
    assert texts == passes
    assert words == [int((batch.masked_labels != IGNORED_LABEL).sum())]


@pytest.mark.parametrize("variant", ["official", "extended"])
def test_bfloat16_autocast_gives_nearly_the_same_losses_and_finite_gradients(
    variant: Variant, variant_model: MakeModel, exact_batch: MakeBatch
) -> None:
    model = variant_model(variant, temperature=0.07, part_temperature=0.07)
    exact = model(exact_batch(model))
    model, batch = model.float(), exact_batch(model)
    batch = dataclasses.replace(batch, images=batch.images.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(batch)
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        assert float(loss.detach()) == pytest.approx(float(exact[name].detach()), rel=0.05, abs=0.02), name
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_small_batch_is_learned_by_heart_as_the_released_code_does(
    variant_model: MakeModel, tiny_batch: MakeBatch
) -> None:
    losses = {"sdm": 1.0, "itc": 1.0, "id": 0.5, "part_itc": 0.1, "mlm": 0.1, "mim": 0.1}
    model = variant_model("official", losses=losses, temperature=0.07, part_temperature=0.07).float().train()
    batch = tiny_batch(model, size=6)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(100):
        optimizer.zero_grad()
        model.total(model(batch)).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        images, texts = (
            F.normalize(x) for x in (model.encode_images(batch.images), model.encode_texts(batch.token_ids))
        )
    assert (texts @ images.T).argmax(dim=1).tolist() == list(range(6))
