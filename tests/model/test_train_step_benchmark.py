"""The benchmark of a training step counts what the towers really compute, and its ratios follow from its numbers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "train_step.py"


def encoder_flops(tokens: int, width: int, mlp: int, layers: int, embedding: int) -> int:
    """Forward and backward of one transformer: linear layers cost three forwards, attention 2 + 5 products."""
    linear = 3 * 2 * tokens * (4 * width**2 + 2 * width * mlp)
    attention = 7 * 2 * tokens**2 * width
    return layers * (linear + attention) + 3 * 2 * tokens * width * embedding


def test_the_benchmark_counts_the_operations_of_the_towers_and_divides_correctly() -> None:
    options = ["--size", "tiny", "--batch", "2", "--repeats", "1", "--variant", "paper", "--json"]
    command = [sys.executable, str(SCRIPT), *options]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    report = json.loads(run.stdout)
    assert (report["size"], report["batch"]) == ("tiny", 2)
    row = report["variants"]["paper"]
    assert row["wall_ratio"] == pytest.approx(row["step_seconds"] / row["towers_seconds"])
    assert row["flop_floor"] == pytest.approx(row["step_flops"] / row["towers_flops"])
    assert row["overhead"] == pytest.approx(row["wall_ratio"] / row["flop_floor"])
    assert row["peak_rss_gib"] > 0
    # 4 x 4 patches of 8 x 8 pixels, all of them and the 12 that stay; captions of 77 tokens, twice.
    convolution = 2 * 2 * 16 * 48 * 3 * 8 * 8  # forward and the gradient of its weights
    images = [convolution + encoder_flops(1 + patches, 48, 192, 2, 32) for patches in (16, 12)]
    texts = 2 * encoder_flops(77, 32, 128, 2, 32)
    assert row["towers_flops"] == 2 * (sum(images) + texts)
    assert row["flop_floor"] > 1
