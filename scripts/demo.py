"""The whole of pfcvr on rendered vehicles, and the data half and search on a small real set where it is at hand.

Every line that starts with ``$`` is a command you can type yourself. Run it again and it continues where it stopped.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "demo"
IDENTITIES, IMAGES_PER_IDENTITY, SIZE, SEED = 1200, 4, 96, 7
REAL_SENTENCE = "A white car with a black sunroof and dark rear window seen from above and behind."

BUILD = """\
# Every stage of the data half, in the order they are run. Paths are meant from the folder of this file.
workspace = "{name}-workspace"

[import]
source = "{source}"

[select]
min_images = 2

[caption]
captioner = "import"
captions = "{source}/captions.jsonl"

[parts]
annotations = "{source}/parts.coco.json"
grid = {{ rows = {grid}, cols = {grid} }}

[split]
ratio = {ratio}
val = {val}
seed = {seed}

[check]

[show]
out = "{name}-parts.png"
sample = 24

[export]
out = "{name}-dataset"
"""


def say(text: str) -> None:
    print(text, flush=True)


def run(program: str, *arguments: str) -> None:
    """Show and run one command inside demo/; what it prints is what you would see."""
    shown = " ".join(f'"{argument}"' if " " in argument else argument for argument in arguments)
    say(f"\n$ {program} {shown}")
    command = [str(Path(sys.executable).with_name(program)), *arguments]
    code = subprocess.run(command, cwd=DEMO, check=False).returncode
    if code != 0:
        sys.exit(code)


def build_data_set(name: str, source: str, **settings: object) -> None:
    """Import to export by one build file."""
    (DEMO / f"{name}.toml").write_text(BUILD.format(name=name, source=source, seed=SEED, **settings))
    run("pfcvr-data", "run", f"{name}.toml")


def find_real_set() -> Path | None:
    """The small real set: where PFCVR_REAL_MINI says, or in a folder ``shared`` beside the clone."""
    named = os.environ.get("PFCVR_REAL_MINI")
    folder = Path(named) if named else ROOT.parent / "shared" / "data" / "real_mini"
    return folder.resolve() if (folder / "captions.jsonl").is_file() else None


def rendered_vehicles() -> dict[str, Any]:
    """Render, build, train, evaluate and search; returns the evaluation."""
    counts = ["--identities", str(IDENTITIES), "--images-per-identity", str(IMAGES_PER_IDENTITY)]
    run("pfcvr-data", "synth", "vehicles", *counts, "--size", str(SIZE), "--seed", str(SEED))
    build_data_set("rendered", "vehicles", grid=8, ratio=0.85, val=0.05)
    run("pfcvr-data", "stats", "-w", "rendered-workspace")
    run("pfcvr", "train", "--data", "rendered-dataset", "--out", "run", "--recipe", "tiny")
    run(
        "pfcvr", "eval", "run", "--data", "rendered-dataset", "--split", "test", "--truth", "vehicles/truth.jsonl",
        "--figures", "figures",
    )  # fmt: skip
    sentence = "A red pickup truck with black wheels, seen from the front left."
    run("pfcvr", "search", "run", sentence, "--data", "rendered-dataset", "-k", "10", "--out", "search.png")
    evaluation: dict[str, Any] = json.loads((DEMO / "run" / "eval-test.json").read_text())
    return evaluation


def real_vehicles(folder: Path) -> None:
    """The data half on real photographs, and a search among them with the model trained on rendered ones."""
    say(f"\nReal photographs: {folder}")
    build_data_set("real", str(folder), grid=24, ratio=0.7, val=0)
    run("pfcvr", "search", "run", REAL_SENTENCE, "--data", "real-dataset", "--split", "all", "--out", "real-search.png")
    say("  The model has seen rendered vehicles only: the panel shows that search runs, not that it is right.")


def summary(evaluation: dict[str, Any], minutes: float) -> None:
    """What was reached, beside what a model that knows nothing would reach."""
    metrics, chance, permuted = evaluation["metrics"], evaluation["chance"], evaluation["permuted"]
    say(f"\nHeld-out rendered vehicles: {evaluation['queries']} captions, {evaluation['gallery']} images")
    say(f"{'':<12}{'Rank-1':>8}{'Rank-5':>8}{'Rank-10':>9}{'mAP':>8}")
    say("{:<12}{rank1:>8.1f}{rank5:>8.1f}{rank10:>9.1f}{mAP:>8.1f}".format("model", **metrics))
    say("{:<12}{rank1:>8.1f}{rank5:>8.1f}{rank10:>9.1f}{mAP:>8.1f}".format("chance", **chance))
    say("{:<12}{rank1:>8.1f}{rank5:>8.1f}{rank10:>9.1f}{mAP:>8.1f}".format("permuted", **permuted))
    family = evaluation["family"]
    say(f"Rank-1 inside a family of near-twins: {family['rank1']:.1f} (chance {family['chance_rank1']:.1f})")
    say(f"Method {evaluation['method']}, variant {evaluation['variant']}, protocol {evaluation['protocol']}, "
        f"seed {evaluation['seed']}; one run, single-seed differences of a few points mean little.")  # fmt: skip
    say(f"\nPictures, in {DEMO}:")
    for picture in sorted([*DEMO.glob("*.png"), *DEMO.glob("run/*.png"), *DEMO.glob("figures/*.png")]):
        say(f"  {picture.relative_to(DEMO)}")
    say(f"\nDone in {minutes:.1f} minutes.")


def main() -> None:
    started = time.monotonic()
    DEMO.mkdir(exist_ok=True)
    evaluation = rendered_vehicles()
    real = find_real_set()
    if real is None:
        say("\nNOTICE: no real photographs here. Set PFCVR_REAL_MINI to a folder in VERI-Wild layout with")
        say("        captions.jsonl and parts.coco.json to run the data half and search on them. All else ran.")
    else:
        real_vehicles(real)
    summary(evaluation, (time.monotonic() - started) / 60)


if __name__ == "__main__":
    main()
