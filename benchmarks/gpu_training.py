"""Training on a GPU with noise for data: samples a second, share of the card's matrix rate, memory.

For each batch, with and without torch.compile: whole steps as ``pfcvr train`` takes them (bf16 autocast, forward,
backward, fused Adam), best of some rounds. The matrix rate is measured in the same run by products of large square
matrices. The share is counted floating-point operations a second over that rate. Hours are those of all epochs of the
recipe t2i-verw (10,265 train images) that follow, without loading and evaluation.

python benchmarks/gpu_training.py [--device cuda|cpu] [--variant paper] [--size vit-b16|tiny] [--batch 20]... [--json]
"""

import argparse
import gc
import json
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from accelerate import Accelerator
from train_step import CAPTION_WORDS, IDENTITIES, SIZES, VARIANTS, flop_counter, recipe_of

from pfcvr.config import ComputeSettings, Recipe
from pfcvr.errors import StageStopped
from pfcvr.model.augment import LOOKS
from pfcvr.model.pfcvr import build_pfcvr
from pfcvr.model.probe import noise_batch
from pfcvr.model.recipes import load_recipe
from pfcvr.model.step import TrainingStep, start_processes
from pfcvr.model.tokenizer import clip_tokenizer

BATCHES = (20, 40, 80, 128, 192, 256)
TRAIN_IMAGES = 10_265  # of T2I-VeRW
MATRIX_SIDE = {"cuda": 8192, "cpu": 1024}
WARM_UP, STEPS = 3, 5
GIB = 2**30


@dataclass(frozen=True)
class Row:
    """One batch. ``samples`` and ``matrix_tflops`` are rates a second; ``share`` is of the matrix rate."""

    batch: int
    compiled: bool
    gradient_checkpointing: bool
    samples: float
    matrix_tflops: float
    share: float
    peak_gib: float
    hours: float


def wait(device: torch.device) -> None:
    """Until the device has done everything it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second in products of square matrices, best of five."""
    side = MATRIX_SIDE[device.type]
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        wait(device)
        started = time.perf_counter()
        for _ in range(5):
            left @ right
        wait(device)
        best = min(best, (time.perf_counter() - started) / 5)
    return 2 * side**3 / best


def measure(recipe: Recipe, settings: ComputeSettings, accelerator: Accelerator, batch: int, rounds: int) -> Row:
    """Rates and memory of one batch; raises StageStopped when it does not fit."""
    device = accelerator.device
    torch.compiler.reset()
    torch.manual_seed(0)
    model = build_pfcvr(recipe.model, clip_tokenizer(recipe.model.text_length), IDENTITIES).train()
    step = TrainingStep(model, recipe, settings, accelerator, seed=0)
    noise = noise_batch(model, batch, CAPTION_WORDS).to(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for number in range(WARM_UP):
        step(number, [noise], [(batch,)])
    rate = matrix_rate(device, torch.bfloat16 if recipe.precision == "bf16" else torch.float32)
    best = float("inf")
    for _ in range(rounds):
        wait(device)
        started = time.perf_counter()
        for number in range(STEPS):
            step(number, [noise], [(batch,)])
        wait(device)
        best = min(best, (time.perf_counter() - started) / STEPS)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    flops = counted_operations(recipe, accelerator, batch)
    verw = load_recipe("t2i-verw")
    items = TRAIN_IMAGES * (len(LOOKS) if verw.augment.expand else 1)
    hours = verw.schedule.length * items / batch * best / 3600
    return Row(
        batch,
        settings.compile,
        settings.gradient_checkpointing,
        batch / best,
        rate / 1e12,
        flops / best / rate,
        peak / GIB,
        hours,
    )


def counted_operations(recipe: Recipe, accelerator: Accelerator, batch: int) -> float:
    """Floating-point operations of a step of ``batch`` without recomputation, from steps of two and four pairs."""
    model = build_pfcvr(recipe.model, clip_tokenizer(recipe.model.text_length), IDENTITIES).train()
    step = TrainingStep(model, recipe, ComputeSettings(), accelerator, seed=0)
    counts = []
    for pairs in (2, 4):
        with flop_counter() as counter:
            step(0, [noise_batch(model, pairs, CAPTION_WORDS)], [(pairs,)])
        counts.append(counter.get_total_flops())
    of_pair = (counts[1] - counts[0]) / 2
    return float(counts[0] + of_pair * (batch - 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--variant", choices=VARIANTS, default="paper")
    parser.add_argument("--size", choices=SIZES, default="vit-b16")
    parser.add_argument("--batch", type=int, action="append", help=f"repeatable; default: {BATCHES}")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds, of which the best counts")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--compile", choices=("both", "on", "off"), default="both")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    recipe = recipe_of(options.variant, options.size, precision="bf16")
    rows: list[Row] = []
    too_large: list[int] = []
    for compiled in {"both": (False, True), "on": (True,), "off": (False,)}[options.compile]:
        settings = ComputeSettings(
            device=options.device, compile=compiled, gradient_checkpointing=options.gradient_checkpointing
        )
        accelerator = start_processes(settings)
        for batch in options.batch or BATCHES:
            try:
                rows.append(measure(recipe, settings, accelerator, batch, options.rounds))
            except StageStopped:
                too_large.append(batch)
            accelerator.free_memory()
            gc.collect()
            torch.cuda.empty_cache()
    name = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    report(
        {"device": name, "variant": options.variant, "size": options.size, "too_large": too_large}, rows, options.json
    )


def report(facts: dict[str, Any], rows: list[Row], as_json: bool) -> None:
    """One JSON object, or a table."""
    if as_json:
        print(json.dumps({**facts, "rows": [asdict(row) for row in rows]}))
        return
    print(f"{facts['device']}, variant {facts['variant']}, {facts['size']}, bf16")
    print(f"{'batch':>6}{'compile':>9}{'samples/s':>11}{'TFLOP/s':>9}{'share':>8}{'peak GiB':>10}{'t2i-verw h':>13}")
    for row in rows:
        speed = f"{row.batch:>6}{'on' if row.compiled else 'off':>9}{row.samples:>11.1f}{row.matrix_tflops:>9.0f}"
        print(f"{speed}{row.share:>8.3f}{row.peak_gib:>10.1f}{row.hours:>13.2f}")
    for batch in facts["too_large"]:
        print(f"{batch:>6} pairs do not fit")


if __name__ == "__main__":
    main()
