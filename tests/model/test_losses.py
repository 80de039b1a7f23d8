"""Every loss against a slow float64 reference written from its equation, and at the edges of its domain."""

from collections.abc import Callable

import plain_losses
import pytest
import torch
from torch import Tensor

from pfcvr.model.losses import (
    id_loss,
    info_nce,
    mim_loss,
    mlm_loss,
    part_across_loss,
    part_bce_loss,
    part_contrastive_loss,
    sdm_loss,
)

IMAGES = torch.tensor([[1, 0, 0], [0, 2, 0], [1, 1, 1], [0, 0, 3]], dtype=torch.float64)
TEXTS = torch.tensor([[2, 1, 0], [0, 1, 1], [1, 0, 1], [1, 1, 2]], dtype=torch.float64)
IDENTITIES = torch.tensor([5, 9, 5, 7])


def value(loss: Tensor) -> float:
    return float(loss.detach())


def random_features(*shape: int, seed: int = 0) -> Tensor:
    features = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return features.requires_grad_()


def random_parts(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    present = torch.rand(5, 6, generator=torch.Generator().manual_seed(seed)) < 0.6
    present[3] = False  # one image without any part
    present[4] = torch.tensor([False, True, False, False, False, False])  # one with a single part
    return random_features(5, 6, 7, seed=seed), random_features(5, 6, 7, seed=seed + 1), present


def assert_same_value_and_gradients(fast: Tensor, slow: Tensor, *inputs: Tensor) -> None:
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)
    for one, other in zip(torch.autograd.grad(fast, inputs), torch.autograd.grad(slow, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (lambda: sdm_loss(IMAGES, TEXTS, IDENTITIES, 0.07), 13.24493),
        (lambda: sdm_loss(IMAGES, TEXTS, IDENTITIES, 0.02), 14.30029),
        (lambda: info_nce(IMAGES, TEXTS, 0.07), 0.874739),
        (lambda: info_nce(IMAGES, TEXTS, 0.02), 2.266766),
        (lambda: part_bce_loss(IMAGES[None], TEXTS[None], torch.ones(1, 4, dtype=torch.bool), 0.07), 5.415210),
    ],
)
def test_losses_reproduce_the_values_of_the_original_functions(loss: Callable[[], Tensor], expected: float) -> None:
    assert float(loss()) == pytest.approx(expected, rel=1e-6)


def test_sdm_of_uniform_similarities_with_64_identities_is_the_known_plateau() -> None:
    same = torch.ones(64, 3, dtype=torch.float64)
    assert float(sdm_loss(same, same, torch.arange(64), 0.02)) == pytest.approx(27.948, abs=1e-3)


@pytest.mark.parametrize("identities", [[0, 1, 2, 3, 4], [0, 0, 1, 2, 1], [3, 3, 3, 3, 3]])
@pytest.mark.parametrize("temperature", [0.02, 0.07])
def test_sdm_equals_the_sum_over_pairs(identities: list[int], temperature: float) -> None:
    images, texts = random_features(5, 4), random_features(5, 4, seed=1)
    labels = torch.tensor(identities)
    fast, slow = sdm_loss(images, texts, labels, temperature), plain_losses.sdm(images, texts, labels, temperature)
    assert_same_value_and_gradients(fast, slow, images, texts)


def test_info_nce_equals_the_sum_over_pairs() -> None:
    images, texts = random_features(6, 4), random_features(6, 4, seed=1)
    assert_same_value_and_gradients(
        info_nce(images, texts, 0.07), plain_losses.info_nce(images, texts, 0.07), images, texts
    )


def test_identity_loss_is_the_mean_of_both_cross_entropies() -> None:
    image_logits, text_logits = random_features(4, 3), random_features(4, 3, seed=1)
    labels = torch.tensor([2, 0, 0, 1])
    slow = (plain_losses.identity(image_logits, labels) + plain_losses.identity(text_logits, labels)) / 2
    assert_same_value_and_gradients(id_loss(image_logits, text_logits, labels), slow, image_logits, text_logits)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_part_contrast_equals_a_loop_over_images_and_their_parts(seed: int) -> None:
    visual, queries, present = random_parts(seed)
    fast = part_contrastive_loss(visual, queries, present, 0.07)
    assert_same_value_and_gradients(fast, plain_losses.part_contrast(visual, queries, present, 0.07), visual, queries)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pairwise_part_loss_equals_a_loop_over_images_and_pairs_of_their_parts(seed: int) -> None:
    visual, queries, present = random_parts(seed)
    fast = part_bce_loss(visual, queries, present, 0.07)
    assert_same_value_and_gradients(fast, plain_losses.part_bce(visual, queries, present, 0.07), visual, queries)


def features_with(cosines: Tensor) -> tuple[Tensor, Tensor]:
    """Visual features and queries, one image, whose cosines are ``cosines``."""
    parts = len(cosines)
    visual = torch.cat([torch.eye(parts, dtype=torch.float64), torch.zeros(parts, parts)], dim=1)
    rest = (1 - cosines.square().sum(dim=0)).clamp(min=0).sqrt()
    return visual[None], torch.cat([cosines.T, torch.diag(rest)], dim=1)[None]


@pytest.mark.parametrize(
    ("same", "other", "bce", "contrast"), [(0.0, 0.0, 0.693, 1.79), (1.0, 0.0, 0.578, 0.0), (0.2, -0.2, 0.056, 0.016)]
)
def test_part_losses_of_known_cosines_are_those_of_the_released_functions(
    same: float, other: float, bce: float, contrast: float
) -> None:
    cosines = torch.full((6, 6), other, dtype=torch.float64).fill_diagonal_(same)
    visual, queries = features_with(cosines)
    present = torch.ones(1, 6, dtype=torch.bool)
    assert value(part_bce_loss(visual, queries, present, 0.07)) == pytest.approx(bce, abs=6e-4)
    assert value(part_contrastive_loss(visual, queries, present, 0.07)) == pytest.approx(contrast, abs=6e-3)


def test_pairwise_part_loss_of_nearly_equal_parts_is_the_known_value() -> None:
    # Cosines of .9 between all parts: visual features share a direction.
    shared = torch.cat([torch.full((6, 1), 0.9**0.5), 0.1**0.5 * torch.eye(6)], dim=1).double()[None]
    present = torch.ones(1, 6, dtype=torch.bool)
    assert value(part_bce_loss(shared, shared, present, 0.07)) == pytest.approx(10.7, abs=0.05)
    assert value(part_contrastive_loss(shared, shared, present, 0.07)) == pytest.approx(0.79, abs=0.01)


def test_pairwise_part_loss_of_a_single_part_asks_for_a_positive_cosine() -> None:
    visual, queries = random_features(1, 6, 4), random_features(1, 6, 4, seed=1)
    present = torch.tensor([[False, False, True, False, False, False]])
    cosine = plain_losses.cosine(visual[0, 2], queries[0, 2]).detach()
    expected = torch.log1p((-cosine / 0.07).exp())
    assert value(part_bce_loss(visual, queries, present, 0.07)) == pytest.approx(float(expected))
    assert value(part_contrastive_loss(visual, queries, present, 0.07)) == 0


@pytest.mark.parametrize("identities", [[0, 1, 2, 3, 4], [0, 0, 1, 2, 1]])
def test_contrast_across_images_equals_a_loop_over_parts_and_spares_the_same_vehicle(identities: list[int]) -> None:
    visual, queries, present = random_parts(3)
    labels = torch.tensor(identities)
    fast = part_across_loss(visual, queries, present, labels, 0.07)
    assert_same_value_and_gradients(
        fast, plain_losses.part_across(visual, queries, present, labels, 0.07), visual, queries
    )


def test_word_loss_is_the_mean_negative_log_likelihood_of_the_masked_words() -> None:
    logits = random_features(3, 5)
    labels = torch.tensor([4, 0, 2])
    slow = plain_losses.identity(logits, labels)
    assert_same_value_and_gradients(mlm_loss(logits, labels), slow, logits)


def test_patch_loss_is_the_mean_squared_error_of_the_removed_patches() -> None:
    predicted, target = random_features(2, 3, 4), random_features(2, 3, 4, seed=1).detach()
    slow = sum((predicted[b, r, c] - target[b, r, c]) ** 2 for b in range(2) for r in range(3) for c in range(4)) / 24
    assert_same_value_and_gradients(mim_loss(predicted, target), slow, predicted)


def test_patches_that_are_not_removed_and_words_that_are_not_masked_do_not_count() -> None:
    predicted, target = random_features(2, 3, 4), random_features(2, 3, 4, seed=1).detach()
    removed = torch.tensor([[True, False, True], [False, True, False]])
    expected = mim_loss(predicted[removed][None], target[removed][None])
    assert_same_value_and_gradients(mim_loss(predicted, target, removed), expected, predicted)
    assert value(mim_loss(predicted, target, torch.zeros_like(removed))) == 0
    logits, labels = random_features(4, 5), torch.tensor([3, -100, 0, -100])
    assert_same_value_and_gradients(mlm_loss(logits, labels), mlm_loss(logits[[0, 2]], labels[[0, 2]]), logits)


def test_an_absent_part_contributes_nothing_whatever_its_features_are() -> None:
    visual, queries, present = random_parts(0)
    labels = torch.arange(5)
    for loss in (
        lambda v, q: part_contrastive_loss(v, q, present, 0.02),
        lambda v, q: part_bce_loss(v, q, present, 0.02),
        lambda v, q: part_across_loss(v, q, present, labels, 0.02),
    ):
        absent = ~present[:, :, None]
        other = loss(visual.masked_fill(absent, 1e6), queries.masked_fill(absent, -1e6))
        assert value(loss(visual, queries)) == value(other)
        for gradient in torch.autograd.grad(loss(visual.masked_fill(absent, 0), queries), (visual, queries)):
            assert gradient.isfinite().all()
            assert (gradient[~present] == 0).all()
            assert (gradient[present] != 0).any()


def test_losses_over_nothing_are_zero_with_zero_gradients() -> None:
    visual, queries = random_features(3, 6, 4), random_features(3, 6, 4, seed=1)
    nothing = torch.zeros(3, 6, dtype=torch.bool)
    logits, pixels = torch.zeros(0, 9, requires_grad=True), torch.zeros(2, 0, 12, requires_grad=True)
    for loss, inputs in (
        (part_contrastive_loss(visual, queries, nothing, 0.02), (visual, queries)),
        (part_bce_loss(visual, queries, nothing, 0.02), (visual, queries)),
        (part_across_loss(visual, queries, nothing, torch.arange(3), 0.02), (visual, queries)),
        (mlm_loss(logits, torch.zeros(0, dtype=torch.long)), (logits,)),
        (mim_loss(pixels, pixels.detach()), (pixels,)),
    ):
        assert value(loss) == 0
        assert all((gradient == 0).all() for gradient in torch.autograd.grad(loss, inputs))


def test_a_single_pair_has_nothing_to_be_told_apart_from() -> None:
    image, text = random_features(1, 4), random_features(1, 4, seed=1)
    assert value(sdm_loss(image, text, torch.tensor([0]), 0.02)) == pytest.approx(0, abs=1e-7)
    assert value(info_nce(image, text, 0.02)) == 0


def test_the_order_of_the_batch_does_not_matter() -> None:
    visual, queries, present = random_parts(1)
    images, texts, labels = visual[:, 0], queries[:, 0], torch.tensor([0, 1, 0, 2, 1])
    order = torch.tensor([3, 0, 4, 2, 1])
    for loss in (
        lambda o: sdm_loss(images[o], texts[o], labels[o], 0.02),
        lambda o: info_nce(images[o], texts[o], 0.02),
        lambda o: part_contrastive_loss(visual[o], queries[o], present[o], 0.02),
        lambda o: part_bce_loss(visual[o], queries[o], present[o], 0.02),
        lambda o: part_across_loss(visual[o], queries[o], present[o], labels[o], 0.02),
    ):
        assert value(loss(order)) == pytest.approx(value(loss(torch.arange(5))), rel=1e-12)


def test_half_precision_features_are_widened_even_under_autocast() -> None:
    images, texts = IMAGES.to(torch.bfloat16), TEXTS.to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = sdm_loss(images, texts, IDENTITIES, 0.02)
    assert narrow.dtype == torch.float32
    assert value(narrow) == pytest.approx(14.30029, rel=1e-5)
