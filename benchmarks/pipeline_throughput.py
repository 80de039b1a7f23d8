"""Images per second and peak memory of every stage, at a small and a large number of images.

    python benchmarks/pipeline_throughput.py --images 5000 [--json]

Each stage is one process of the command line, so start-up counts. Peak memory is the kernel's account of that process.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

IMAGES_PER_IDENTITY = 5
SMALL_SHARE = 5


def run_stage(arguments: list[str]) -> tuple[float, float]:
    """Wall seconds and peak MiB of ``pfcvr-data`` with ``arguments``; ends the benchmark when it fails."""
    command = [sys.executable, "-c", "from pfcvr.cli import data_main; data_main()", *arguments, "--json"]
    started = time.perf_counter()
    child = os.posix_spawn(
        command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    )
    _, status, usage = os.wait4(child, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        sys.exit(f"failed: pfcvr-data {' '.join(arguments)}")
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def measure(images: int, size: int, folder: Path) -> dict[str, dict[str, float]]:
    """Every stage over ``images`` rendered images of ``size`` pixels."""
    source, workspace = folder / "vehicles", folder / "workspace"
    identities = images // IMAGES_PER_IDENTITY
    at = ["-w", str(workspace)]
    stages = {
        "synth": [
            "synth", str(source), "--identities", str(identities),
            "--images-per-identity", str(IMAGES_PER_IDENTITY), "--size", str(size),
        ],
        "import": ["import", str(source), *at],
        "caption": ["caption", *at, "--captioner", "import", "--captions", str(source / "captions.jsonl")],
        "parts": ["parts", *at, "--annotations", str(source / "parts.coco.json"), "--grid", "24x24"],
        "split": ["split", *at],
        "check": ["check", *at],
        "export": ["export", *at, str(folder / "dataset")],
    }  # fmt: skip
    results = {}
    for stage, arguments in stages.items():
        seconds, peak = run_stage(arguments)
        results[stage] = {"images_per_second": images / seconds, "seconds": seconds, "peak_mib": peak}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000, help="images of the large run; the small one has a fifth")
    parser.add_argument("--size", type=int, default=128, help="side of the images in pixels")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    runs = {}
    for images in (options.images // SMALL_SHARE, options.images):
        with tempfile.TemporaryDirectory() as folder:
            runs[images] = measure(images, options.size, Path(folder))
    small, large = runs.values()
    for stage, values in large.items():
        values["peak_ratio"] = values["peak_mib"] / small[stage]["peak_mib"]
    if options.json:
        print(json.dumps({"size": options.size, "runs": runs}))
        return
    print(f"{'stage':<9}{'images/s':>10}{'seconds':>9}{'peak MiB':>10}  peak against {options.images // SMALL_SHARE}")
    for stage, values in large.items():
        rate, seconds, peak = values["images_per_second"], values["seconds"], values["peak_mib"]
        print(f"{stage:<9}{rate:>10,.0f}{seconds:>9.1f}{peak:>10,.0f}  x {values['peak_ratio']:.2f}")


if __name__ == "__main__":
    main()
