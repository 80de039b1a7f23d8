"""A seeded random order of vehicles, and how validation vehicles are carved from train: one rule for both halves."""

import hashlib
from collections.abc import Iterable


def draw_order(vehicle_ids: Iterable[str], seed: int) -> list[str]:
    """``vehicle_ids`` in an order that depends on ``seed`` and on each id alone.

    Neither the order of the input nor which other vehicles there are changes which of two vehicles comes first.
    """
    return sorted(set(vehicle_ids), key=lambda vehicle_id: hashlib.sha256(f"{seed}/{vehicle_id}".encode()).digest())


def carve_validation(train_ids: Iterable[str], share: float, seed: int) -> list[str]:
    """The vehicles that leave train for validation: the first ``share`` of them in drawn order.

    At least one where ``share`` is above 0, and at least one stays in train.
    """
    order = draw_order(train_ids, seed)
    if share == 0:
        return []
    return order[: min(max(round(share * len(order)), 1), max(len(order) - 1, 0))]
