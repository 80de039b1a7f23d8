"""What a training step costs over its own CLIP towers, per variant, on the CPU in float32, without data loading.

wall_ratio = time of forward, backward and fused Adam / time of the bare towers, which are the variant's image,
masked-image, text and masked-text passes, forward and backward. flop_floor = the same quotient by counted
floating-point operations. overhead = wall_ratio / flop_floor: what is lost beside arithmetic. Runs of both kinds take
turns and the best of each counts, since machines are noisy.

python benchmarks/train_step.py [--variant paper|official|extended]... [--size vit-b16|tiny] [--batch 4] [--repeats 5]
[--json]
"""

import argparse
import json
import multiprocessing
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, get_args

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pfcvr.config import Recipe, TowerSizes, Variant, parse, variant_values
from pfcvr.model.batch import Batch
from pfcvr.model.pfcvr import PfcvrModel, build_pfcvr
from pfcvr.model.probe import noise_batch
from pfcvr.model.reconstruction import choose_removed_patches
from pfcvr.model.step import optimizer_of
from pfcvr.model.tokenizer import clip_tokenizer

VARIANTS: tuple[Variant, ...] = get_args(Variant)
TINY = TowerSizes(
    patch_size=8,
    embedding_dim=32,
    vision_width=48,
    vision_mlp=192,
    vision_layers=2,
    vision_heads=4,
    text_width=32,
    text_mlp=128,
    text_layers=2,
    text_heads=4,
)
SIZES: dict[str, dict[str, Any]] = {
    "vit-b16": {},
    "tiny": {"towers": TINY, "image_size": (32, 32), "heads": 4, "patch_decoder_head_width": 12},
}
IDENTITIES = 1251  # T2I-VeRW's train split
CAPTION_WORDS = 50  # T2I-VeRW's mean


def attention_flops(query: list[int], key: list[int], value: list[int], *_: object, **__: object) -> int:
    """Two matrix products, queries with keys and weights with values; arguments are shapes."""
    batch, heads, queries, width = query
    return 2 * batch * heads * queries * key[2] * (width + value[3])


def attention_backward_flops(
    _: list[int], query: list[int], key: list[int], value: list[int], *__: object, **___: object
) -> int:
    """Five matrix products: the scores again, and the gradients of weights, values, queries and keys."""
    batch, heads, queries, width = query
    return 2 * batch * heads * queries * key[2] * (3 * width + 2 * value[3])


def flop_counter() -> FlopCounterMode:
    """torch's counter, taught the fused attention of the CPU, which it does not know."""
    aten = torch.ops.aten
    return FlopCounterMode(
        display=False,
        custom_mapping={
            aten._scaled_dot_product_flash_attention_for_cpu: attention_flops,
            aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward_flops,
        },
    )


def recipe_of(variant: Variant, size: str, **values: Any) -> Recipe:
    """The variant with towers of ``size``, and everything else as the paper has it or as ``values`` say."""
    settings = variant_values(variant)
    return parse(Recipe, {**settings, "model": {**settings["model"], **SIZES[size]}, **values}, f"variant {variant}")


def tower_passes(model: PfcvrModel, batch: Batch) -> list[Callable[[], Tensor]]:
    """The passes of images and captions through the towers that a step of this variant cannot do without."""
    towers, config = model.towers, model.config
    kept, _ = choose_removed_patches(batch.part_grids, config.removed_patches, batch.patch_draws)
    captions = [] if config.mask_caption_for_matching else [lambda: towers.text_tokens(batch.token_ids)]
    return [
        lambda: towers.image_tokens(batch.images),
        lambda: towers.image_tokens(batch.images, kept),
        *captions,
        lambda: towers.text_tokens(batch.masked_token_ids),
    ]


def measure(recipe: Recipe, batch_size: int, repeats: int) -> dict[str, float]:
    """Times, operations and peak memory of one variant; the peak is that of this process."""
    torch.manual_seed(0)
    model = build_pfcvr(recipe.model, clip_tokenizer(recipe.model.text_length), IDENTITIES)
    batch = noise_batch(model, batch_size, CAPTION_WORDS)
    passes = tower_passes(model, batch)
    optimizer = optimizer_of(model, recipe.optimizer)

    def towers() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(torch.stack([tokens().sum() for tokens in passes]).sum())

    def step() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(model.total(model(batch)))
        optimizer.step()

    flops, seconds = {}, {"towers": float("inf"), "step": float("inf")}
    for name, run in (("towers", towers), ("step", step)):  # warms up as well: Adam's moments exist from here on
        with flop_counter() as counter:
            run()
        flops[name] = counter.get_total_flops()
    for _ in range(repeats):
        for name, run in (("towers", towers), ("step", step)):
            started = time.perf_counter()
            run()
            seconds[name] = min(seconds[name], time.perf_counter() - started)
    wall_ratio, flop_floor = seconds["step"] / seconds["towers"], flops["step"] / flops["towers"]
    return {
        "wall_ratio": wall_ratio,
        "flop_floor": flop_floor,
        "overhead": wall_ratio / flop_floor,
        "step_seconds": seconds["step"],
        "towers_seconds": seconds["towers"],
        "step_flops": flops["step"],
        "towers_flops": flops["towers"],
        "peak_rss_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="vit-b16")
    parser.add_argument("--variant", choices=VARIANTS, action="append", help="which of them; repeatable; default: all")
    parser.add_argument("--batch", type=int, default=4, help="pairs in a batch")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs, of which the best counts")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    rows = {}
    own_process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1)
    with own_process as processes:
        for variant in options.variant or VARIANTS:
            recipe = recipe_of(variant, options.size)
            rows[variant] = processes.submit(measure, recipe, options.batch, options.repeats).result()
    if options.json:
        threads = torch.get_num_threads()
        print(json.dumps({"size": options.size, "batch": options.batch, "threads": threads, "variants": rows}))
        return
    titles = f"{'wall_ratio':>11}{'flop_floor':>11}{'overhead':>10}{'step s':>9}{'towers s':>10}{'peak GiB':>10}"
    print(f"{'variant':<10}{titles}")
    for variant, row in rows.items():
        numbers = f"{row['wall_ratio']:>11.3f}{row['flop_floor']:>11.3f}{row['overhead']:>10.3f}"
        costs = f"{row['step_seconds']:>9.2f}{row['towers_seconds']:>10.2f}{row['peak_rss_gib']:>10.2f}"
        print(f"{variant:<10}{numbers}{costs}")


if __name__ == "__main__":
    main()
