"""The learning rate over a run: linear warm-up, then cosine to 0 (paper, section V-B; IRRA's schedule)."""

import math

import torch

from pfcvr.config import ScheduleConfig


def rate_factor(schedule: ScheduleConfig, finished: int) -> float:
    """Factor on the learning rate after ``finished`` units (epochs or steps) of ``schedule``.

    With ``W`` units of warm-up from factor ``a``: ``a (1 - e/W) + e/W`` while ``e < W``, then
    ``(1 + cos(pi (e - W) / (E - W))) / 2``. The last unit still runs at a little more than 0.
    """
    warmup = schedule.warmup
    if finished < warmup:
        return schedule.warmup_start * (1 - finished / warmup) + finished / warmup
    return 0.5 * (1 + math.cos(math.pi * (finished - warmup) / (schedule.length - warmup)))


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Give every parameter group ``factor`` times the rate it was built with.

    Rates follow from the step alone, so a resumed run needs no scheduler state.
    """
    for group in optimizer.param_groups:
        base = group.setdefault("initial_lr", group["lr"])
        group["lr"] = base * factor
