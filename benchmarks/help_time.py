"""Time from typing ``--help`` to its end, for both programs, beside a bare Python start.

python benchmarks/help_time.py [--json]
"""

import argparse
import json
import subprocess
import sys
import time

RUNS = 5


def best_seconds(code: str) -> float:
    """Best of five processes that run ``code``."""
    times = []
    for _ in range(RUNS):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code, "--help"], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    programs = {
        "python": "pass",
        "pfcvr-data": "from pfcvr.cli import data_main; data_main()",
        "pfcvr": "from pfcvr.cli import model_main; model_main()",
    }
    seconds = {name: best_seconds(code) for name, code in programs.items()}
    if options.json:
        print(json.dumps({"seconds": seconds}))
        return
    for name, value in seconds.items():
        print(f"{name:<11}{value:6.3f} s")


if __name__ == "__main__":
    main()
