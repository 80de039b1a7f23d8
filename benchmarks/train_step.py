"""What a training step costs over its own CLIP towers, per variant, on the CPU in float32, without data loading.

wall_ratio = time of forward, backward and fused Adam / time of the bare towers, which are the variant's image,
masked-image, text and masked-text passes, forward and backward. flop_floor = the same quotient by counted
floating-point operations. overhead = wall_ratio / flop_floor: what is lost beside arithmetic. Runs of both kinds take
turns and the best of each counts, since machines are noisy.

python benchmarks/train_step.py [--size vit-b16|tiny] [--batch 4] [--repeats 5] [--json]
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pfcvr.config import ModelConfig, OptimizerConfig, TowerSizes
from pfcvr.model.batch import Batch
from pfcvr.model.pfcvr import PfcvrModel, build_pfcvr
from pfcvr.model.rates import parameter_groups
from pfcvr.model.reconstruction import choose_removed_patches
from pfcvr.model.tokenizer import CaptionTokenizer, clip_tokenizer

VARIANTS: dict[str, dict[str, Any]] = {"paper": {}}
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


def random_batch(config: ModelConfig, tokenizer: CaptionTokenizer, size: int) -> Batch:
    """Noise for images, ordinary words for captions, a tenth of the patches for each part."""
    random = torch.Generator().manual_seed(0)
    rows, cols = config.patch_grid
    ids = tokenizer.encode([" ".join(["car"] * CAPTION_WORDS)] * size).ids
    masked, labels = tokenizer.mask_words(ids, config.word_mask_ratio, random)
    return Batch(
        images=torch.randn(size, 3, *config.image_size, generator=random),
        token_ids=ids,
        masked_token_ids=masked,
        masked_labels=labels,
        part_grids=torch.rand(size, 6, rows * cols, generator=random) < 0.1,
        identities=torch.randint(IDENTITIES, (size,), generator=random),
    )


def tower_passes(model: PfcvrModel, batch: Batch) -> list[Callable[[], Tensor]]:
    """The passes through the towers that a step of this variant cannot do without."""
    towers, config = model.towers, model.config
    kept, _ = choose_removed_patches(batch.part_grids, config.removed_patches, batch.patch_draws)
    return [
        lambda: towers.image_tokens(batch.images),
        lambda: towers.image_tokens(batch.images, kept),
        lambda: towers.text_tokens(batch.token_ids),
        lambda: towers.text_tokens(batch.masked_token_ids),
    ]


def measure(config: ModelConfig, tokenizer: CaptionTokenizer, batch_size: int, repeats: int) -> dict[str, float]:
    """Times, operations and peak memory of one variant."""
    torch.manual_seed(0)
    model = build_pfcvr(config, tokenizer, IDENTITIES)
    batch = random_batch(config, tokenizer, batch_size)
    passes = tower_passes(model, batch)
    optimizer = torch.optim.Adam(parameter_groups(model, OptimizerConfig()), eps=1e-3, fused=True)

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
    parser.add_argument("--batch", type=int, default=4, help="pairs in a batch")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs, of which the best counts")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    rows = {}
    for variant, settings in VARIANTS.items():
        config = ModelConfig(**{**SIZES[options.size], **settings})
        tokenizer = clip_tokenizer(config.text_length)
        rows[variant] = measure(config, tokenizer, options.batch, options.repeats)
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
