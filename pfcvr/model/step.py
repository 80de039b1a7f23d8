"""One step of the optimizer: the parts of a batch through the model, on one process or on many.

The batch of a recipe is that of all processes and parts together, so that a recipe means the same on one GPU and on
eight: ``pfcvr.model.loading.Division`` gives each its share. Random draws inside the model (dropout) follow from (seed,
step, part, rank), so a continued run needs no random state, and may be continued by another number of processes.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pfcvr.config import ComputeSettings, OptimizerConfig, Recipe
from pfcvr.errors import BackendError, StageStopped
from pfcvr.model.batch import Batch
from pfcvr.model.device import full_gpu_stops, is_out_of_memory, torch_device
from pfcvr.model.gather import mean_over_processes
from pfcvr.model.pfcvr import PfcvrModel
from pfcvr.model.rates import parameter_groups

DROPOUT_STREAM = 2  # keeps these draws apart from those of items and orders (``pfcvr.model.loading``)
LONGEST_WAIT = timedelta(hours=1)  # of the other processes for the first, which evaluates


@dataclass(frozen=True)
class BatchLosses:
    """Losses of a batch, averaged over its parts; those of several processes are still to be averaged over them."""

    total: Tensor
    terms: dict[str, Tensor]


class TrainingStep:
    """Model, optimizer and the processes they run on; the caller sets the rates of ``optimizer``."""

    def __init__(
        self, model: PfcvrModel, recipe: Recipe, settings: ComputeSettings, accelerator: Accelerator, seed: int
    ) -> None:
        self._checkpoints = settings.gradient_checkpointing
        if self._checkpoints:
            _checkpoint_gradients(model.towers)
        self._compile_errors = _compile_layers(model.towers) if settings.compile else ()
        self._model, self._recipe, self._accelerator, self._seed = model, recipe, accelerator, seed
        with full_gpu_stops("the model"):
            self._prepared, self.optimizer = accelerator.prepare(model, optimizer_of(model, recipe.optimizer))

    def __call__(self, step: int, batches: Iterable[Batch], pairs: Sequence[tuple[int, ...]]) -> BatchLosses:
        """Move the weights once, by the batch whose parts are ``batches``; ``pairs`` is how many of each part each has.

        A part counts by its share of the pairs, so a mean over pairs is the mean over the whole batch. A loss that
        compares pairs with each other compares those of one part.

        Raises:
            StageStopped: the GPU's memory does not suffice.
            BackendError: the layers cannot be compiled.
        """
        totals, terms = [], defaultdict(list)
        in_batch = sum(map(sum, pairs))
        try:
            for part, (batch, on_processes) in enumerate(zip(batches, pairs, strict=True)):
                self._seed_dropout(step, part)
                last = part + 1 == len(pairs)
                with nullcontext() if last else self._accelerator.no_sync(self._prepared):
                    losses = self._losses(batch, on_processes)
                    share = sum(on_processes) / in_batch
                    total = self._model.total(losses) * share
                    self._accelerator.backward(total)
                totals.append(total.detach())
                for name, loss in losses.items():
                    terms[name].append(loss.detach() * share)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        except self._compile_errors as error:
            reason = str(error).strip().splitlines()[0].rstrip(".")
            raise BackendError(
                f"torch.compile failed at step {step + 1} ({reason}); it needs a C++ compiler on the CPU and Triton on "
                "a GPU: run the same command without --compile to continue"
            ) from None
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise StageStopped(_what_to_lower(self._recipe, self._checkpoints, step, max(pairs[0]))) from None
        return BatchLosses(torch.stack(totals).sum(), {name: torch.stack(parts).sum() for name, parts in terms.items()})

    def _losses(self, batch: Batch, pairs: tuple[int, ...]) -> dict[str, Tensor]:
        device = self._accelerator.device
        batch = replace(batch.to(device, non_blocking=True), pairs_on_processes=pairs if len(pairs) > 1 else ())
        with torch.autocast(device.type, torch.bfloat16, enabled=self._recipe.precision == "bf16"):
            losses: dict[str, Tensor] = self._prepared(batch)
        return losses

    def _seed_dropout(self, step: int, part: int) -> None:
        key = (self._seed, DROPOUT_STREAM, step, part, self._accelerator.process_index)
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))


def start_processes(settings: ComputeSettings) -> Accelerator:
    """This process among those that ``torchrun`` or ``accelerate launch`` started, or the only one.

    Raises:
        BackendError: the device that was asked for is absent.
    """
    return Accelerator(
        cpu=torch_device(settings) == "cpu",
        mixed_precision="no",  # accelerate keeps it for the life of the process; ``TrainingStep`` casts by itself
        kwargs_handlers=[
            DistributedDataParallelKwargs(gradient_as_bucket_view=True),
            InitProcessGroupKwargs(timeout=LONGEST_WAIT),
        ],
    )


def read_losses(losses: Sequence[BatchLosses]) -> list[tuple[float, dict[str, float]]]:
    """Total and terms of each, averaged over the processes; makes the device wait once for all of them."""
    values = torch.stack([torch.stack([batch.total, *batch.terms.values()]) for batch in losses])
    rows = mean_over_processes(values).tolist()
    return [(row[0], dict(zip(batch.terms, row[1:], strict=True))) for batch, row in zip(losses, rows, strict=True)]


def optimizer_of(model: PfcvrModel, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Fused Adam over the parameter groups of ``model``."""
    kind = torch.optim.AdamW if config.kind == "adamw" else torch.optim.Adam
    return kind(parameter_groups(model, config), lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def _layers(towers: nn.Module) -> Iterator[Any]:
    from transformers.modeling_layers import GradientCheckpointingLayer

    return (module for module in towers.modules() if isinstance(module, GradientCheckpointingLayer))


def _checkpoint_gradients(towers: nn.Module) -> None:
    """As Transformers' ``gradient_checkpointing_enable``, which needs its own model class around the towers."""
    for layer in _layers(towers):
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)


def _compile_layers(towers: nn.Module) -> tuple[type[Exception], ...]:
    """Have the layers compiled when they are first used; what may be raised then."""
    from torch._dynamo.exc import TorchDynamoException  # takes seconds to import

    for layer in _layers(towers):
        layer.compile()
    return (TorchDynamoException,)


def _what_to_lower(recipe: Recipe, checkpoints: bool, step: int, pairs: int) -> str:
    """The sentence for a step that the GPU has no room for: what of its settings can still be lowered."""
    rows, cols = recipe.model.image_size
    one = "a pair" if pairs == 1 else f"{pairs} pairs"
    ways = [] if checkpoints else ["run the same command with --gradient-checkpointing to continue"]
    if pairs > 1:
        batch, accumulation = recipe.batch_size // 2, min(2 * recipe.accumulation, recipe.batch_size)
        ways.append(
            f"train in a new folder with a lower --set batch_size={batch}, --set accumulation={accumulation}, or with "
            "a smaller model.image_size; pfcvr probe finds the largest batch that fits"
        )
    else:
        ways.append("train in a new folder with a smaller model.image_size, or on a GPU with more memory")
    return (
        f"the GPU ran out of memory at step {step + 1}, with {one} at a time at {rows} x {cols} pixels; "
        f"{', or '.join(ways)}"
    )
