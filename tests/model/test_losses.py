"""Every loss against a slow float64 reference written from its equation, and at the edges of its domain."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pfcvr.model.losses import (
    id_loss,
    info_nce,
    mim_loss,
    mlm_loss,
    part_across_loss,
    part_contrastive_loss,
    sdm_loss,
)

IMAGES = torch.tensor([[1, 0, 0], [0, 2, 0], [1, 1, 1], [0, 0, 3]], dtype=torch.float64)
TEXTS = torch.tensor([[2, 1, 0], [0, 1, 1], [1, 0, 1], [1, 1, 2]], dtype=torch.float64)
IDENTITIES = torch.tensor([5, 9, 5, 7])


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt())


def log_softmax_at(scores: list[Tensor], index: int) -> Tensor:
    return scores[index] - torch.stack([score.exp() for score in scores]).sum().log()


def slow_sdm(images: Tensor, texts: Tensor, identities: Tensor, temperature: float) -> Tensor:
    size, total = len(images), torch.zeros((), dtype=images.dtype)
    for queries, gallery in ((images, texts), (texts, images)):
        for i in range(size):
            scores = [cosine(queries[i], gallery[j]) / temperature for j in range(size)]
            matches = sum(int(identities[i] == identities[k]) for k in range(size))
            for j in range(size):
                log_p = log_softmax_at(scores, j)
                q = int(identities[i] == identities[j]) / matches
                total = total + log_p.exp() * (log_p - math.log(q + 1e-8)) / size
    return total


def slow_info_nce(images: Tensor, texts: Tensor, temperature: float) -> Tensor:
    size, total = len(images), torch.zeros((), dtype=images.dtype)
    for queries, gallery in ((images, texts), (texts, images)):
        for i in range(size):
            scores = [cosine(queries[i], gallery[j]) / temperature for j in range(size)]
            total = total - log_softmax_at(scores, i) / (2 * size)
    return total


def slow_contrast(visual: Tensor, queries: Tensor, negatives: Callable[[int], list[int]], tau: float) -> Tensor:
    """Equation 9 over a list of items; ``negatives`` names the items that one item is contrasted with."""
    total = torch.zeros((), dtype=visual.dtype)
    for left, right in ((visual, queries), (queries, visual)):
        for n in range(len(visual)):
            others = [n, *negatives(n)]
            total = total - log_softmax_at([cosine(left[n], right[m]) / tau for m in others], 0)
    return total / (2 * len(visual))


def slow_part_contrast(visual: Tensor, queries: Tensor, present: Tensor, tau: float) -> Tensor:
    images = [b for b in range(len(visual)) if present[b].any()]
    losses = []
    for b in images:
        here = [n for n in range(present.shape[1]) if present[b, n]]
        v, q = visual[b, here], queries[b, here]
        losses.append(slow_contrast(v, q, lambda n, here=here: [m for m in range(len(here)) if m != n], tau))
    return torch.stack(losses).mean()


def slow_part_across(visual: Tensor, queries: Tensor, present: Tensor, identities: Tensor, tau: float) -> Tensor:
    losses = []
    for n in range(present.shape[1]):
        here = [b for b in range(len(visual)) if present[b, n]]
        if here:
            who = identities[here].tolist()
            losses.append(
                slow_contrast(
                    visual[here, n],
                    queries[here, n],
                    lambda i, who=who: [j for j in range(len(who)) if who[j] != who[i]],
                    tau,
                )
            )
    return torch.stack(losses).mean()


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
    fast, slow = sdm_loss(images, texts, labels, temperature), slow_sdm(images, texts, labels, temperature)
    assert_same_value_and_gradients(fast, slow, images, texts)


def test_info_nce_equals_the_sum_over_pairs() -> None:
    images, texts = random_features(6, 4), random_features(6, 4, seed=1)
    assert_same_value_and_gradients(info_nce(images, texts, 0.07), slow_info_nce(images, texts, 0.07), images, texts)


def test_identity_loss_is_the_mean_of_both_cross_entropies() -> None:
    image_logits, text_logits = random_features(4, 3), random_features(4, 3, seed=1)
    labels = torch.tensor([2, 0, 0, 1])
    slow = torch.stack(
        [
            -log_softmax_at(list(row), int(identity))
            for logits in (image_logits, text_logits)
            for row, identity in zip(logits, labels, strict=True)
        ]
    ).mean()
    assert_same_value_and_gradients(id_loss(image_logits, text_logits, labels), slow, image_logits, text_logits)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_part_contrast_equals_a_loop_over_images_and_their_parts(seed: int) -> None:
    visual, queries, present = random_parts(seed)
    fast = part_contrastive_loss(visual, queries, present, 0.07)
    assert_same_value_and_gradients(fast, slow_part_contrast(visual, queries, present, 0.07), visual, queries)


@pytest.mark.parametrize("identities", [[0, 1, 2, 3, 4], [0, 0, 1, 2, 1]])
def test_contrast_across_images_equals_a_loop_over_parts_and_spares_the_same_vehicle(identities: list[int]) -> None:
    visual, queries, present = random_parts(3)
    labels = torch.tensor(identities)
    fast = part_across_loss(visual, queries, present, labels, 0.07)
    assert_same_value_and_gradients(fast, slow_part_across(visual, queries, present, labels, 0.07), visual, queries)


def test_word_loss_is_the_mean_negative_log_likelihood_of_the_masked_words() -> None:
    logits = random_features(3, 5)
    labels = torch.tensor([4, 0, 2])
    rows = zip(logits, labels.tolist(), strict=True)
    slow = torch.stack([-log_softmax_at(list(row), label) for row, label in rows]).mean()
    assert_same_value_and_gradients(mlm_loss(logits, labels), slow, logits)


def test_patch_loss_is_the_mean_squared_error_of_the_removed_patches() -> None:
    predicted, target = random_features(2, 3, 4), random_features(2, 3, 4, seed=1).detach()
    slow = sum((predicted[b, r, c] - target[b, r, c]) ** 2 for b in range(2) for r in range(3) for c in range(4)) / 24
    assert_same_value_and_gradients(mim_loss(predicted, target), slow, predicted)


def test_an_absent_part_contributes_nothing_whatever_its_features_are() -> None:
    visual, queries, present = random_parts(0)
    labels = torch.arange(5)
    for loss in (
        lambda v, q: part_contrastive_loss(v, q, present, 0.02),
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
        lambda o: part_across_loss(visual[o], queries[o], present[o], labels[o], 0.02),
    ):
        assert value(loss(order)) == pytest.approx(value(loss(torch.arange(5))), rel=1e-12)


def test_half_precision_features_are_widened_even_under_autocast() -> None:
    images, texts = IMAGES.to(torch.bfloat16), TEXTS.to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = sdm_loss(images, texts, IDENTITIES, 0.02)
    assert narrow.dtype == torch.float32
    assert value(narrow) == pytest.approx(14.30029, rel=1e-5)
