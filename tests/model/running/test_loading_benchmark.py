"""The loading benchmark runs and says what its page says; figures are not looked at, they depend on the hour."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def test_it_compares_with_plain_loaders_on_a_few_small_images() -> None:
    sizes = ["--images", "8", "--size", "64", "--workers", "1", "--repeats", "1"]
    command = [sys.executable, str(ROOT / "benchmarks" / "loading.py"), *sizes, "--json"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert (found["images"], found["size"], found["workers"]) == (8, 64, 1)
    for name in ("plain", "pillow"):
        assert found[f"{name}_ratio"] == pytest.approx(found["ours_per_second"] / found[f"{name}_per_second"])
        assert found[f"{name}_cpu_ratio"] > 0
    assert found["parts_ms_per_image"] > 0
