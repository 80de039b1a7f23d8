"""The evaluator's benchmark runs at a small size and says what it promises."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "evaluator.py"


def test_the_benchmark_reports_a_ratio_and_memory_that_does_not_hold_all_scores() -> None:
    arguments = ["--queries", "2000", "--images", "3000", "--width", "64", "--repeats", "1", "--json"]
    run = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=True)
    found = json.loads(run.stdout)
    assert (found["queries"], found["images"], found["width"]) == (2000, 3000, 64)
    assert found["ratio"] > 0
    assert 0 < found["extra_mib"] < 2000 * 3000 * 4 / 2**20
    assert 0 < found["mAP"] < found["rank1"] < 100
