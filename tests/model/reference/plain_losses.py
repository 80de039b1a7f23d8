"""The losses of PFCVR as sums over pairs, slow and without any trick, in the words of the equations.

``S_ij`` is the cosine of image feature i and text feature j over the temperature.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt())


def log_softmax_at(scores: list[Tensor], index: int) -> Tensor:
    return scores[index] - torch.stack([score.exp() for score in scores]).sum().log()


def sdm(images: Tensor, texts: Tensor, identities: Tensor, temperature: float) -> Tensor:
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


def info_nce(images: Tensor, texts: Tensor, temperature: float) -> Tensor:
    size, total = len(images), torch.zeros((), dtype=images.dtype)
    for queries, gallery in ((images, texts), (texts, images)):
        for i in range(size):
            scores = [cosine(queries[i], gallery[j]) / temperature for j in range(size)]
            total = total - log_softmax_at(scores, i) / (2 * size)
    return total


def contrast(visual: Tensor, queries: Tensor, negatives: Callable[[int], list[int]], tau: float) -> Tensor:
    """Equation 9 over a list of items; ``negatives`` names the items that one item is contrasted with."""
    total = torch.zeros((), dtype=visual.dtype)
    for left, right in ((visual, queries), (queries, visual)):
        for n in range(len(visual)):
            others = [n, *negatives(n)]
            total = total - log_softmax_at([cosine(left[n], right[m]) / tau for m in others], 0)
    return total / (2 * len(visual))


def part_contrast(visual: Tensor, queries: Tensor, present: Tensor, tau: float) -> Tensor:
    images = [b for b in range(len(visual)) if present[b].any()]
    losses = []
    for b in images:
        here = [n for n in range(present.shape[1]) if present[b, n]]
        v, q = visual[b, here], queries[b, here]
        losses.append(contrast(v, q, lambda n, here=here: [m for m in range(len(here)) if m != n], tau))
    return mean_or_nothing(losses, visual)


def part_across(visual: Tensor, queries: Tensor, present: Tensor, identities: Tensor, tau: float) -> Tensor:
    losses = []
    for n in range(present.shape[1]):
        here = [b for b in range(len(visual)) if present[b, n]]
        if here:
            who = identities[here].tolist()
            losses.append(
                contrast(
                    visual[here, n],
                    queries[here, n],
                    lambda i, who=who: [j for j in range(len(who)) if who[j] != who[i]],
                    tau,
                )
            )
    return mean_or_nothing(losses, visual)


def part_bce(visual: Tensor, queries: Tensor, present: Tensor, tau: float) -> Tensor:
    """The released code's part loss: every present part against every one, a pair is right if it is the same part."""
    losses = []
    for b in [b for b in range(len(visual)) if present[b].any()]:
        here = [n for n in range(present.shape[1]) if present[b, n]]
        pairs = [(cosine(visual[b, n], queries[b, m]) / tau, n == m) for n in here for m in here]
        losses.append(torch.stack([softplus(-score if same else score) for score, same in pairs]).mean())
    return mean_or_nothing(losses, visual)


def softplus(x: Tensor) -> Tensor:
    """``-log sigmoid(-x)``; written so that no exponential overflows."""
    return x.clamp(min=0) + (1 + (-x.abs()).exp()).log()


def identity(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy of one modality."""
    rows = zip(logits, labels.tolist(), strict=True)
    return torch.stack([-log_softmax_at(list(row), label) for row, label in rows]).mean()


def mean_or_nothing(losses: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(losses).mean() if losses else 0 * like.sum()
