"""``pfcvr probe``: the largest batch of a recipe that the device's memory holds, found by taking steps of noise.

On a GPU batches are really tried, up to one that does not fit. On the CPU, where too large a batch would take the
machine down, ever larger batches are measured until their cost shows, and the rest is extrapolated.
"""

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pfcvr.config import ProbeConfig
from pfcvr.errors import BackendError, StageStopped
from pfcvr.model.batch import Batch
from pfcvr.model.data import open_data
from pfcvr.model.device import thread_count
from pfcvr.model.memory import available_bytes, kernel_bytes
from pfcvr.model.pfcvr import PfcvrModel, build_pfcvr
from pfcvr.model.recipes import load_recipe
from pfcvr.model.step import TrainingStep, start_processes
from pfcvr.model.tokenizer import caption_tokenizer
from pfcvr.records import PARTS

CLEAR_GROWTH = 0.1  # of the peak from one batch to one twice as large: enough to tell from noise
LARGEST_TRIED = 4096  # more pairs at a time than any recipe asks of one device
GIB = 2**30
PEAK_RESET, OWN_ACCOUNT = Path("/proc/self/clear_refs"), Path("/proc/self/status")


@dataclass(frozen=True)
class ProbeResult:
    """``largest``: pairs at a time; ``measured``: whether that batch was really tried. Memory in GiB."""

    device: str
    largest: int
    measured: bool
    batch_size: int
    accumulation: int
    gib_at_largest: float
    gib_of_device: float

    @property
    def fits(self) -> bool:
        """Whether the recipe as it stands fits on one device."""
        return -(-self.batch_size // self.accumulation) <= self.largest

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**asdict(self), "fits": self.fits}

    def text(self) -> str:
        """Two lines for people."""
        how = "tried" if self.measured else "extrapolated from small batches"
        parts = f" in {self.accumulation} parts" if self.accumulation > 1 else ""
        verdict = "fits" if self.fits else "does not fit on one such device"
        return (
            f"{self.device}: {self.largest:,} pairs at a time fit ({how}), which take {self.gib_at_largest:.1f} of "
            f"{self.gib_of_device:.1f} GiB\nthe recipe's batch of {self.batch_size:,}{parts} {verdict}"
        )


def probe(config: ProbeConfig, say: Callable[[str], None] | None = None) -> ProbeResult:
    """Find out what fits; ``say`` is given a sentence for each batch tried, by default they go to stderr.

    Raises:
        DataError, UsageError: as in training.
        BackendError: the device is absent, not even one pair fits, or the CPU's memory is not accounted as on Linux.
    """
    recipe = load_recipe(config.recipe, config.overrides, config.variant, config.method)
    train = open_data(config.data).split("train")
    torch.set_num_threads(thread_count(config))
    accelerator = start_processes(config)
    if accelerator.device.type == "cpu" and not PEAK_RESET.exists():
        raise BackendError("the memory of a step on the CPU can be measured on Linux only; probe there or on a GPU")
    tokenizer = caption_tokenizer(recipe.model, [text for texts in train.captions for text in texts])
    model = build_pfcvr(recipe.model, tokenizer, len(set(train.vehicle_ids)))
    steps = _Steps(TrainingStep(model, recipe, config, accelerator, seed=0), model, say or _print_to_stderr)
    on_gpu = accelerator.device.type == "cuda"
    largest, at_largest, of_device = _on_gpu(steps) if on_gpu else _on_cpu(steps)
    if largest == 0:
        raise BackendError(
            f"not even one pair fits into the {of_device / GIB:.1f} GiB that are free here; add "
            "--gradient-checkpointing or lower model.image_size"
        )
    return ProbeResult(
        torch.cuda.get_device_name() if on_gpu else "CPU",
        largest,
        on_gpu,
        recipe.batch_size,
        recipe.accumulation,
        at_largest / GIB,
        of_device / GIB,
    )


def noise_batch(model: PfcvrModel, pairs: int, words: int) -> Batch:
    """A batch that ``model`` takes: noise for images, captions of ``words``, a tenth of the patches for each part."""
    random, config = torch.Generator().manual_seed(0), model.config
    rows, cols = config.patch_grid
    ids = model.tokenizer.encode([" ".join(["car"] * words)] * pairs).ids
    masked, labels = model.tokenizer.mask_words(ids, config.word_mask_ratio, random)
    phrase = " ".join(["car"] * (config.part_text_length - 2))
    phrases = model.tokenizer.encode([phrase] * len(PARTS)).ids[:, : config.part_text_length]
    return Batch(
        images=torch.randn(pairs, 3, *config.image_size, generator=random),
        token_ids=ids,
        masked_token_ids=masked,
        masked_labels=labels,
        part_grids=torch.rand(pairs, len(PARTS), rows * cols, generator=random) < 0.1,
        identities=torch.randint(model.identities, (pairs,), generator=random),
        part_token_ids=phrases.expand(pairs, -1, -1) if config.part_text == "phrase" else None,
    )


def largest_that_fits(fits: Callable[[int], bool]) -> int:
    """The largest batch for which ``fits``, to 3 %, found by doubling and halving; 0 if there is none."""
    low, high = 0, 1
    while high <= LARGEST_TRIED and fits(high):
        low, high = high, 2 * high
    while high - low > max(low // 32, 1):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


class _Steps:
    """Steps of any number of pairs, as in training but on noise."""

    def __init__(self, step: TrainingStep, model: PfcvrModel, say: Callable[[str], None]) -> None:
        self._step, self._model, self.say = step, model.train(), say

    def take(self, pairs: int) -> None:
        """One step; raises StageStopped where a GPU's memory does not suffice."""
        self._step(0, [noise_batch(self._model, pairs, words=self._model.config.text_length)], [(pairs,)])

    def measured(self, pairs: int) -> int:
        """The most bytes that this process held during a step, on the CPU (Linux)."""
        PEAK_RESET.write_text("5")
        self.take(pairs)
        peak = kernel_bytes(OWN_ACCOUNT, "VmHWM")
        self.say(f"{pairs} pairs: {peak / GIB:.2f} GiB")
        return peak

    def forget(self) -> None:
        """Give back what a step that failed has left behind."""
        self._step.optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()


def _on_gpu(steps: _Steps) -> tuple[int, int, int]:
    """Largest batch, its peak memory and the memory of the device in bytes."""
    peaks: dict[int, int] = {}

    def fits(pairs: int) -> bool:
        torch.cuda.reset_peak_memory_stats()
        try:
            steps.take(pairs)
        except StageStopped:
            pass
        else:
            peaks[pairs] = torch.cuda.max_memory_reserved()
        steps.forget()
        steps.say(f"{pairs} pairs: " + (f"{peaks[pairs] / GIB:.1f} GiB" if pairs in peaks else "too many"))
        return pairs in peaks

    largest = largest_that_fits(fits)
    return largest, peaks.get(largest, 0), torch.cuda.get_device_properties().total_memory


def _on_cpu(steps: _Steps) -> tuple[int, int, int]:
    """Largest batch, the memory it would take, and what this process may have, in bytes."""
    steps.take(1)  # the optimizer's moments exist from here on
    available = kernel_bytes(OWN_ACCOUNT, "VmRSS") + available_bytes()
    few, at_few = 1, steps.measured(1)
    many, at_many = 2, steps.measured(2)
    while at_many - at_few < CLEAR_GROWTH * at_few and many < LARGEST_TRIED:
        few, at_few = many, at_many
        many, at_many = 2 * many, steps.measured(2 * many)
    of_pair = max((at_many - at_few) / (many - few), 1.0)
    largest = max(int(few + (available - at_few) / of_pair), 0)
    return largest, int(at_few + (largest - few) * of_pair), available


def _print_to_stderr(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
