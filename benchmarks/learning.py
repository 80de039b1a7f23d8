"""Whether each part of the method teaches anything, on rendered vehicles: a table of methods, several seeds each.

Renders vehicles, builds a data set of them, and trains CLIP fine-tuned, the IRRA-style baseline, + PLFA, + BMRIA,
+ augmentation, and ours (variant extended), all by recipe ``tiny`` from random weights with both reconstruction
branches on. Only ours contrasts parts across images, which is no part of PLFA; all have InfoNCE, without which SDM from
random weights hardly moves. Hours of work: run the same command again and it continues where it was stopped. ``--cost``
only measures what processor time a step of each row takes here.

python benchmarks/learning.py OUT [--steps 400] [--identities 1200] [--seeds 1,2,3] [--threads 1] [--cost] [--json]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pfcvr.config import AblateConfig, parse
from pfcvr.model.ablation import ablate
from pfcvr.model.text_table import markdown_table

IMAGES_PER_IDENTITY, SIZE, DATA_SEED = 4, 96, 7
BUILD = f"""\
workspace = "workspace"
[import]
source = "vehicles"
[select]
min_images = 2
[caption]
captioner = "import"
captions = "vehicles/captions.jsonl"
[parts]
annotations = "vehicles/parts.coco.json"
grid = {{ rows = 8, cols = 8 }}
[split]
ratio = 0.85
val = 0.05
seed = {DATA_SEED}
[export]
out = "dataset"
"""
LOSSES = ("model.losses.mlm=0.1", "model.losses.mim=0.1", "model.losses.part_across=0")
COST_IDENTITIES, COST_STEPS = 80, (3, 13)


def data_command(*arguments: str) -> None:
    """One command of ``pfcvr-data``; finished work is not done again."""
    program = [sys.executable, "-c", "from pfcvr.cli import data_main; data_main()"]
    subprocess.run([*program, *arguments], check=True, stdout=subprocess.DEVNULL)


def rendered_data(folder: Path, identities: int) -> Path:
    """A data set of rendered vehicles below ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = ["--identities", str(identities), "--images-per-identity", str(IMAGES_PER_IDENTITY)]
    vehicles = str(folder / "vehicles")
    data_command("synth", vehicles, *counts, "--size", str(SIZE), "--seed", str(DATA_SEED))
    (folder / "build.toml").write_text(BUILD)
    data_command("run", str(folder / "build.toml"))
    return folder / "dataset"


def study(options: argparse.Namespace, data: Path, steps: int) -> AblateConfig:
    """The table as settings; runs of another length lie in a folder of their own."""
    lengths = (f"schedule.length={steps}", f"schedule.warmup={steps // 10}", f"schedule.evaluate_every={steps}")
    values: dict[str, Any] = {"data": str(data), "out": data.parent / f"steps-{steps}", "table": options.table}
    values |= {"overrides": (*LOSSES, *lengths), "seeds": options.seeds, "threads": options.threads}
    return parse(AblateConfig, {**values, "workers": 0, "device": options.device}, "learning")


def step_costs(options: argparse.Namespace, data: Path) -> dict[str, float]:
    """Seconds of processor time a step of each row, from a longer and a shorter training of it."""
    seconds = []
    for steps in COST_STEPS:
        started: list[float] = []

        def note(sentence: str, started: list[float] = started) -> None:
            if sentence.startswith("table "):
                started.append(time.process_time())

        config = study(options, data, steps).model_copy(update={"seeds": (1,)})
        report = ablate(config, quiet=True, say=note)
        started.append(time.process_time())
        seconds.append([after - before for before, after in zip(started, started[1:], strict=False)])
    labels = [row["label"] for row in report.rows]
    more = COST_STEPS[1] - COST_STEPS[0]
    return {label: (long - short) / more for label, short, long in zip(labels, *seconds, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the data set, the runs and the table")
    parser.add_argument("--table", choices=("methods", "extended", "5", "6", "7", "8"), default="methods")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--identities", type=int, default=1200)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="cpu")
    parser.add_argument("--cost", action="store_true", help="measure what a step of each row costs, and nothing else")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.cost:
        with tempfile.TemporaryDirectory() as folder:
            costs = step_costs(options, rendered_data(Path(folder), COST_IDENTITIES))
        if options.json:
            print(json.dumps({"threads": options.threads, "cpu_seconds_per_step": costs}))
        else:
            rows = [[label, f"{cost:.2f}", f"{cost * options.steps / 60:.1f}"] for label, cost in costs.items()]
            print(markdown_table(["row", "CPU seconds a step", f"CPU minutes of {options.steps} steps"], rows))
        return
    data = rendered_data(options.out / f"identities-{options.identities}", options.identities)
    report = ablate(study(options, data, options.steps))
    print(json.dumps(report.as_dict()) if options.json else report.text())


if __name__ == "__main__":
    main()
