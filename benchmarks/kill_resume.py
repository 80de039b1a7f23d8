"""Kill ``pfcvr-data run`` at random moments, rerun it, and compare the exported data set with an undisturbed one.

python benchmarks/kill_resume.py --kills 20 [--json]
"""

import argparse
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BUILD = """
workspace = "workspace"
[import]
source = "../vehicles"
[select]
min_images = 2
[caption]
captioner = "import"
captions = "../vehicles/captions.jsonl"
[parts]
annotations = "../vehicles/parts.coco.json"
[split]
seed = 1
[check]
[export]
out = "dataset"
"""


def data_command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from pfcvr.cli import data_main; data_main()", *arguments]


def start_build(folder: Path) -> "subprocess.Popen[bytes]":
    """``pfcvr-data run`` in ``folder``, silent."""
    folder.mkdir(exist_ok=True)
    (folder / "build.toml").write_text(BUILD)
    command = data_command("run", str(folder / "build.toml"), "--json")
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def tree_digest(folder: Path) -> str:
    """SHA-256 over names and bytes of all files below ``folder``."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def measure(kills: int, images: int, seed: int, folder: Path) -> dict[str, int | float]:
    """Undisturbed once, then builds stopped at a random moment and rerun, until ``kills`` were still at work."""
    identities = str(images // 4)
    synth = data_command("synth", str(folder / "vehicles"), "--identities", identities, "--size", "96", "--json")
    subprocess.run(synth, check=True, stdout=subprocess.DEVNULL)
    started = time.perf_counter()
    if start_build(folder / "undisturbed").wait() != 0:
        sys.exit("the undisturbed build failed")
    seconds = time.perf_counter() - started
    expected = tree_digest(folder / "undisturbed" / "dataset")
    moments = random.Random(seed)
    builds = killed = identical = 0
    while killed < kills:
        build = folder / f"build-{builds}"
        first = start_build(build)
        try:
            first.wait(moments.uniform(0.02, 1.0) * seconds)
        except subprocess.TimeoutExpired:
            first.kill()
            first.wait()
            killed += 1
        if start_build(build).wait() != 0:
            sys.exit(f"rerun {builds} failed; look at {build}")
        builds += 1
        identical += tree_digest(build / "dataset") == expected
        shutil.rmtree(build)
    return {"builds": builds, "killed": killed, "identical": identical, "undisturbed_seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options.kills, options.images, options.seed, Path(folder))
    if options.json:
        print(json.dumps(result))
    else:
        print("{builds} builds, {killed} killed midway, {identical} byte-identical exports".format(**result))
    sys.exit(0 if result["identical"] == result["builds"] else 1)


if __name__ == "__main__":
    main()
