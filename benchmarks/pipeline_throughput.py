"""Images per second and peak memory of every stage, at a small and a large number of images.

    python benchmarks/pipeline_throughput.py --images 5000 [--json]

Each stage is one process of the command line, so start-up counts. Peak memory is the kernel's account of that process.
"""

import argparse
import json
import tempfile
from pathlib import Path

from measured import run_data_command

IMAGES_PER_IDENTITY = 5
SMALL_SHARE = 5


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
        cost = run_data_command(arguments)
        rate = images / cost.seconds
        results[stage] = {"images_per_second": rate, "seconds": cost.seconds, "peak_mib": cost.peak_mib}
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
