"""What training processes tell each other within a step, so that together they compute the losses one would.

Each process sees its own pairs of a batch. Losses that compare pairs are computed by all of them from the features of
all pairs (``all_pairs``); losses that are means over something are weighted so that their mean over the processes is
the mean over all (``weighted_by_share``). Gradients are then to be averaged over the processes, which is what torch's
DistributedDataParallel does. ``pairs`` is ``Batch.pairs_on_processes``; where it is empty nothing is exchanged.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable


def all_pairs(own: Shaped[Tensor, "b *rest"], pairs: Sequence[int]) -> Shaped[Tensor, "B *rest"]:
    """Rows of all processes in rank order, with gradients; half precision is widened.

    Every process must compute the same loss from the result: that loss then has the same gradient everywhere, so
    nothing need be exchanged on the way back. A process with 0 ``pairs`` contributes nothing, whatever it holds.
    """
    if not pairs:
        return own
    if not own.is_floating_point():
        return _exchange(own, pairs)
    gathered: Tensor = _AllPairs.apply(own.float() if own.dtype in (torch.float16, torch.bfloat16) else own, pairs)
    return gathered


def weighted_by_share(
    losses: Mapping[str, Tensor], counts: Mapping[str, int | Tensor], pairs: Sequence[int]
) -> dict[str, Tensor]:
    """``losses``, means over ``counts`` things of this process, such that the mean over the processes is that over all.

    Each is multiplied by processes x own count / count of all. A loss without a count is left as it is.
    """
    counted = [name for name in losses if name in counts]
    if not pairs or not counted:
        return dict(losses)
    device = next(iter(losses.values())).device
    has_pairs = pairs[dist.get_rank()] > 0
    own = torch.stack([torch.as_tensor(counts[name], device=device).double() for name in counted]) * has_pairs
    total = own.clone()
    dist.all_reduce(total)
    shares = len(pairs) * own / total.clamp(min=1)
    weighted = {name: losses[name] * share.to(losses[name].dtype) for name, share in zip(counted, shares, strict=True)}
    return {**losses, **weighted}


def mean_over_processes(values: Tensor) -> Tensor:
    """The mean of ``values`` over the processes; ``values`` itself where there is one."""
    if not dist.is_initialized():
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def from_first(value: Any, device: torch.device) -> Any:
    """What the first process has for ``value``, which JSON can hold; the others wait for it and give None."""
    if not dist.is_initialized():
        return value
    text = json.dumps(value).encode()
    length = torch.tensor(len(text), device=device)
    dist.broadcast(length, 0)
    content = torch.zeros(int(length), dtype=torch.uint8, device=device)
    if dist.get_rank() == 0:
        content.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
    dist.broadcast(content, 0)
    return json.loads(content.cpu().numpy().tobytes())


class _AllPairs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, own: Tensor, pairs: Sequence[int]) -> Tensor:
        rank = dist.get_rank()
        ctx.pairs, ctx.held, ctx.first = pairs, len(own), sum(pairs[:rank])  # type: ignore[attr-defined]
        return _exchange(own, pairs)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        pairs, held, first = ctx.pairs, ctx.held, ctx.first  # type: ignore[attr-defined]
        own = gradient.new_zeros(held, *gradient.shape[1:])
        counted = pairs[dist.get_rank()]
        # Averaging over the processes will divide by their number, but only this one holds these rows.
        own[:counted] = gradient[first : first + counted] * len(pairs)
        return own, None


def _exchange(own: Tensor, pairs: Sequence[int]) -> Tensor:
    most = max(pairs)
    padded = own.new_zeros(most, *own.shape[1:])
    counted = pairs[dist.get_rank()]
    padded[:counted] = own[:counted]
    gathered = [torch.empty_like(padded) for _ in pairs]
    dist.all_gather(gathered, padded)
    return torch.cat([rows[:count] for rows, count in zip(gathered, pairs, strict=True)])
