"""What exact Rank-k, mAP and mINP cost over the bare matrix product of the features, in time and in memory.

Features are made up, with T2I-VeRW's number of images an identity, those of one identity near one another, so that
ranks are neither all 1 nor random. The bare product is the same blocked one, its scores looked at by nobody. Both take
turns and the best of each counts, since machines are noisy. Extra memory is the peak of what numpy holds beside the
features.

python benchmarks/evaluator.py [--queries 14668] [--images 14668] [--width 512] [--repeats 5] [--json]
"""

import argparse
import json
import time
import tracemalloc
from collections.abc import Callable

import numpy as np

from pfcvr.model.metrics import Labels, Scores, cosine_blocks, feature_metrics

IMAGES_PER_IDENTITY = 14668 / 1796  # T2I-VeRW
NOISE = 2.5  # of a feature around its identity's direction: mAP about that of the paper's table


def made_up(queries: int, images: int, width: int) -> tuple[Scores, Scores, Labels, Labels]:
    """Features and identities of queries and images."""
    rng = np.random.default_rng(0)
    identities = max(1, round(images / IMAGES_PER_IDENTITY))
    directions = rng.standard_normal((identities, width), dtype=np.float32)
    labels = [rng.integers(0, identities, count) for count in (queries, images)]
    found = [directions[of] + NOISE * rng.standard_normal((len(of), width), dtype=np.float32) for of in labels]
    return found[0], found[1], labels[0], labels[1]


def bare_product(queries: Scores, images: Scores) -> None:
    """Every cosine is computed, none is looked at."""
    for _ in cosine_blocks(queries, images):
        pass


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(queries: int, images: int, width: int, repeats: int) -> dict[str, float]:
    """Best seconds of evaluator and bare product, their ratio, extra MiB, and what the evaluator found."""
    features = made_up(queries, images, width)
    product, evaluator = [], []
    tracemalloc.start()
    measured = feature_metrics(*features).means()  # this run counts for memory and not for time
    _, extra = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    for _ in range(repeats):
        product.append(seconds(lambda: bare_product(features[0], features[1])))
        evaluator.append(seconds(lambda: feature_metrics(*features)))
    return {
        "queries": queries,
        "images": images,
        "width": width,
        "evaluator_seconds": min(evaluator),
        "product_seconds": min(product),
        "ratio": min(evaluator) / min(product),
        "extra_mib": extra / 2**20,
        "rank1": measured.rank1,
        "mAP": measured.mAP,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=14668)
    parser.add_argument("--images", type=int, default=14668)
    parser.add_argument("--width", type=int, default=512, help="numbers in a feature")
    parser.add_argument("--repeats", type=int, default=5, help="turns of both kinds; the best of each counts")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    found = measure(options.queries, options.images, options.width, options.repeats)
    if options.json:
        print(json.dumps(found))
        return
    print(f"{options.queries:,} queries x {options.images:,} images of {options.width} numbers")
    print(f"evaluator    {found['evaluator_seconds']:8.2f} s")
    print(f"bare product {found['product_seconds']:8.2f} s   ratio {found['ratio']:.2f}")
    print(f"extra memory {found['extra_mib']:8,.0f} MiB")
    print(f"Rank-1 {found['rank1']:.1f}, mAP {found['mAP']:.1f}")


if __name__ == "__main__":
    main()
