import pytest
import torch

from pfcvr.config import ScheduleConfig
from pfcvr.model.schedule import rate_factor, set_rates


def test_factors_of_the_published_schedule() -> None:
    schedule = ScheduleConfig(unit="epoch", length=60, warmup=5, warmup_start=0.1)
    warm = [rate_factor(schedule, finished) for finished in range(6)]
    assert warm == pytest.approx([0.10, 0.28, 0.46, 0.64, 0.82, 1.0])
    later = {11: 0.9797, 21: 0.8274, 33: 0.514, 41: 0.292, 51: 0.079, 60: 0.0008}
    for epoch, factor in later.items():
        assert rate_factor(schedule, epoch - 1) == pytest.approx(factor, abs=5e-4)


def test_without_warmup_the_full_rate_comes_first() -> None:
    schedule = ScheduleConfig(length=4, warmup=0)
    factors = [rate_factor(schedule, finished) for finished in range(4)]
    assert factors[0] == 1
    assert factors == sorted(factors, reverse=True)
    assert factors[-1] > 0


def test_every_group_keeps_its_share_of_the_rate() -> None:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.Adam([{"params": [weights[0]], "lr": 0.1}, {"params": [weights[1]], "lr": 0.5}])
    for factor in (0.5, 0.25):
        set_rates(optimizer, factor)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1 * factor, 0.5 * factor])
