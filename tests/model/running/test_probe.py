from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pfcvr.config import ProbeConfig
from pfcvr.errors import BackendError
from pfcvr.model import probe as probing
from pfcvr.model.probe import largest_that_fits, probe


@given(st.integers(0, 5000))
def test_the_largest_batch_is_found_to_three_percent_and_never_exceeded(limit: int) -> None:
    found = largest_that_fits(lambda pairs: pairs <= limit)
    assert found <= limit
    assert found >= min(limit, probing.LARGEST_TRIED) * 31 / 33


def test_on_the_cpu_the_rest_is_extrapolated_from_what_was_measured(
    painted: Path, small_model: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """1,000 bytes, then 50 a pair, of 11,000: growth is clear at 4 pairs, and 200 fit."""
    monkeypatch.setattr(probing._Steps, "measured", lambda self, pairs: 1000 + 50 * pairs)
    monkeypatch.setattr(probing, "kernel_bytes", lambda file, name: {"VmRSS": 1000}[name])
    monkeypatch.setattr(probing, "available_bytes", lambda: 10000)
    found = probe(ProbeConfig(data=str(painted), overrides=small_model, device="cpu", threads=1))
    assert (found.largest, found.measured, found.fits) == (200, False, True)
    beyond = ProbeConfig(data=str(painted), overrides=(*small_model, "batch_size=402"), device="cpu", threads=1)
    assert probe(beyond).text().endswith("the recipe's batch of 402 does not fit on one such device")
    parts = beyond.model_copy(update={"overrides": (*beyond.overrides, "accumulation=3")})
    assert probe(parts).text().endswith("the recipe's batch of 402 in 3 parts fits")


def test_a_real_probe_takes_steps_and_says_what_they_cost(painted: Path, small_model: tuple[str, ...]) -> None:
    said: list[str] = []
    sized = (*small_model, "model.image_size=[96, 96]")
    found = probe(ProbeConfig(data=str(painted), overrides=sized, device="cpu", threads=1), said.append)
    assert found.largest > 8
    assert 0 < found.gib_at_largest <= found.gib_of_device
    assert [line.split(" pairs: ")[0] for line in said[:2]] == ["1", "2"]


def test_no_memory_at_all_is_one_sentence(
    painted: Path, small_model: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "kernel_bytes", lambda file, name: 0)
    monkeypatch.setattr(probing, "available_bytes", lambda: 0)
    monkeypatch.setattr(probing._Steps, "measured", lambda self, pairs: 1000 + 500 * pairs)
    with pytest.raises(BackendError, match=r"not even one pair fits into the 0\.0 GiB .* lower model\.image_size"):
        probe(ProbeConfig(data=str(painted), overrides=small_model, device="cpu", threads=1))


def test_on_a_gpu_batches_are_tried_until_one_does_not_fit(
    painted: Path, small_model: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, real_step: Callable[..., None]
) -> None:
    """The GPU's search, on the CPU: steps of more than 11 pairs raise what CUDA raises."""
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: type("Gpu", (), {"total_memory": 2**31}))
    monkeypatch.setattr(probing, "_on_cpu", probing._on_gpu)
    real_step(at_most=11)
    said: list[str] = []
    found = probe(ProbeConfig(data=str(painted), overrides=small_model, device="cpu", threads=1), said.append)
    assert (found.largest, found.gib_at_largest, found.gib_of_device) == (11, 1.0, 2.0)
    assert "16 pairs: too many" in said


@pytest.fixture
def real_step(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Limits how many pairs the model takes at a time."""
    from pfcvr.model.pfcvr import PfcvrModel

    honest = PfcvrModel.forward

    def limit(at_most: int) -> None:
        def forward(self: PfcvrModel, batch: object) -> dict[str, torch.Tensor]:
            if len(batch.images) > at_most:  # type: ignore[attr-defined]
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return honest(self, batch)

        monkeypatch.setattr(PfcvrModel, "forward", forward)

    return limit
