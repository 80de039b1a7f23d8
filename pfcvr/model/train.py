"""``pfcvr train``: the whole loop, to be read from top to bottom.

Run the same training again and it continues where it was stopped, in mid-epoch too, and ends in the same weights as an
undisturbed run. The best weights are those with the highest Rank-1 on the selection images (mAP decides between
equals, then the earlier step); ``protocol`` says which images those are.
"""

import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from pfcvr.config import OptimizerConfig, Recipe, TrainConfig
from pfcvr.errors import DataError, StageStopped, UsageError
from pfcvr.files import disk_full_stops, sync_folder
from pfcvr.model.checkpoint import load_checkpoint, plain_disk_errors, save_checkpoint
from pfcvr.model.data import TrainSplits, VehicleData, open_data, training_splits
from pfcvr.model.device import check_device, cores, worker_count
from pfcvr.model.encode import encode_split
from pfcvr.model.loading import EpochBatches, TrainPairs, train_loader
from pfcvr.model.pfcvr import PfcvrModel, build_pfcvr
from pfcvr.model.rates import parameter_groups
from pfcvr.model.recipes import load_recipe, recipe_text
from pfcvr.model.retrievers.pfcvr import PfcvrRetriever
from pfcvr.model.run_folder import RunFolder, RunIdentity
from pfcvr.model.run_log import RunLog, StepLosses, all_finite, draw_curves
from pfcvr.model.schedule import rate_factor, set_rates
from pfcvr.model.tokenizer import caption_tokenizer
from pfcvr.progress import Progress

LOSSES_PER_WRITE = 10  # reading a loss makes the device wait, so losses are read together


@dataclass(frozen=True)
class TrainResult:
    """A finished run. ``metrics`` are percent on split ``selection`` after ``best_step`` steps, chance beside them."""

    run: Path
    method: str
    variant: str
    protocol: str
    seed: int
    steps: int
    best_step: int
    selection: str
    metrics: dict[str, float]
    notes: tuple[str, ...]
    already_done: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**asdict(self), "run": str(self.run), "notes": list(self.notes)}

    def text(self) -> str:
        """Two lines for people."""
        done = " (already done)" if self.already_done else ""
        reached = {name: f"{value:.1f}" for name, value in self.metrics.items()}
        return (
            f"{self.run}: {self.steps:,} steps{done}, best after step {self.best_step:,} on {self.selection}: "
            "Rank-1 {rank1} (chance {chance_rank1}), mAP {mAP} (chance {chance_mAP})".format(**reached)
            + f"\nmethod {self.method}, variant {self.variant}, protocol {self.protocol}, seed {self.seed}"
        )


def train(config: TrainConfig, quiet: bool = False, say: Callable[[str], None] | None = None) -> TrainResult:
    """Train to the end of the recipe, from wherever an earlier call stopped, and return what was reached.

    ``say`` is given sentences a user should see; by default they go to stderr.

    Raises:
        DataError: the data set cannot be trained on.
        UsageError: the recipe does not exist or has unknown keys.
        SealedError, CheckpointError: ``config.out`` holds another run, or something that is no run.
        LockedError: another process trains there.
        StageStopped: the loss became NaN or the disk is full.
    """
    recipe = load_recipe(config.recipe, config.overrides, config.variant, config.method)
    data = open_data(config.data)
    splits = training_splits(data, config.protocol, recipe.val_share, config.seed)
    identity = RunIdentity(
        recipe.method, recipe.variant, config.protocol, config.seed, data.fingerprint, recipe_text(recipe)
    )
    folder = RunFolder(config.out)
    with folder.claimed(), disk_full_stops(f"{config.out}: training"):
        manifest = folder.begin(identity)
        if manifest is not None:
            return _result(config.out, manifest, already_done=True)
        training = _Training(config, recipe, data, splits, folder)
        for note in training.notes:
            (say or _print_to_stderr)(note)
        facts = training.run(quiet)
        return _result(config.out, folder.finish(identity, facts))


class _Training:
    """One process's part of a run: builds everything, then ``run`` goes through the steps that are left."""

    def __init__(
        self, config: TrainConfig, recipe: Recipe, data: VehicleData, splits: TrainSplits, folder: RunFolder
    ) -> None:
        torch.set_num_threads(config.threads or cores())
        self.config, self.recipe, self.data, self.splits, self.folder = config, recipe, data, splits, folder
        self.workers = worker_count(config)
        self.accelerator = _accelerator(config.device, recipe.precision)

        torch.manual_seed(config.seed)
        tokenizer = caption_tokenizer(recipe.model, [text for texts in splits.train.captions for text in texts])
        self.pairs = TrainPairs(splits.train, tokenizer, recipe, data.coverage, config.seed)
        self.model = build_pfcvr(recipe.model, tokenizer, len(set(splits.train.vehicle_ids)))
        optimizer = _optimizer(self.model, recipe.optimizer)
        self.prepared_model, self.optimizer = self.accelerator.prepare(self.model, optimizer)

        schedule = recipe.schedule
        self.steps_per_epoch = -(-len(self.pairs) // recipe.batch_size)
        self.steps_per_unit = self.steps_per_epoch if schedule.unit == "epoch" else 1
        self.steps = schedule.length * self.steps_per_unit

    def run(self, quiet: bool) -> dict[str, Any]:
        """Train from the checkpoint, if any, to the last step; returns the facts of the manifest."""
        _check_parts(self.data.source, self.recipe, self.splits)
        self.state = load_checkpoint(self.folder.checkpoint, self.model, self.optimizer)
        self.log = RunLog(self.folder, self.state.metrics_bytes, self.state.step)
        batches = EpochBatches(
            len(self.pairs), self.recipe.batch_size, self.steps, self.config.seed, first=self.state.step
        )
        try:
            with Progress("train", self.steps, done=self.state.step, quiet=quiet, unit="step") as progress:
                self._train_steps(batches, progress)
        finally:
            self.log.close()
        draw_curves(self.folder)
        return self._facts()

    def _train_steps(self, batches: EpochBatches, progress: Progress) -> None:
        unwritten: list[StepLosses] = []
        evaluate_every = self.recipe.schedule.evaluate_every * self.steps_per_unit
        self.prepared_model.train()
        for batch in train_loader(self.pairs, batches, self.workers):
            step = self.state.step
            factor = rate_factor(self.recipe.schedule, step // self.steps_per_unit)
            set_rates(self.optimizer, factor)

            losses = self.prepared_model(batch.to(self.accelerator.device, non_blocking=True))
            total = self.model.total(losses)
            self.accelerator.backward(total)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

            self.state.step = step + 1
            rate = self.recipe.optimizer.lr * factor
            terms = {name: loss.detach() for name, loss in losses.items()}
            unwritten.append(StepLosses(step + 1, step // self.steps_per_epoch, rate, total.detach(), terms))
            evaluates = (step + 1) % evaluate_every == 0 or step + 1 == self.steps
            saves = evaluates or (step + 1) % self.recipe.checkpoint_every == 0
            if saves or len(unwritten) >= LOSSES_PER_WRITE:
                self._write_losses(unwritten)
                unwritten = []
            if evaluates:
                self._evaluate()
            if saves:
                self._save()
            progress.advance()

    def _write_losses(self, rows: list[StepLosses]) -> None:
        bad = self.log.losses(rows)
        if bad is not None:
            terms = ", ".join(f"{name} {float(loss):g}" for name, loss in bad.terms.items())
            self._stop(f"the loss is {float(bad.total):g} at step {bad.step} ({terms})")

    def _evaluate(self) -> None:
        """Measure the weights on the selection images and keep them in ``model/`` if they are the best so far."""
        self.model.eval()
        retriever = PfcvrRetriever(self.model, self.accelerator.device)
        measured = encode_split(retriever, self.splits.selection, self.workers, quiet=True).metrics()
        self.model.train()
        metrics = {name: round(value, 4) for name, value in asdict(measured).items()}
        self.log.selection(self.state.step, self.splits.selection_name, metrics)
        best = self.state.best
        if best is None or (metrics["rank1"], metrics["mAP"]) > (best["rank1"], best["mAP"]):
            self.state.best = {"step": self.state.step, **metrics}
            _replace_model(self.folder.model, self.model)
        draw_curves(self.folder)

    def _save(self) -> None:
        if not all_finite(self.model):
            self._stop(f"a weight is no longer a finite number after step {self.state.step}")
        self.log.flush()
        self.state.metrics_bytes = self.log.offset
        save_checkpoint(self.folder.checkpoint, self.model, self.optimizer, self.state)

    def _stop(self, what: str) -> None:
        self.log.flush()
        kept = "the last good checkpoint is kept" if self.folder.checkpoint.is_file() else "there is no checkpoint yet"
        raise StageStopped(
            f"{self.folder.root}: {what}; {kept}; train in a new folder with a lower rate, for example "
            f"--set optimizer.lr={self.recipe.optimizer.lr / 3:.1g}"
        )

    @property
    def notes(self) -> list[str]:
        """What a reader of the result should know beside the settings."""
        notes = [self.splits.note]
        if self.accelerator.device.type == "cpu" and self.config.device == "auto":
            notes.append("no CUDA device here: training on the CPU")
        if self.pairs.truncated:
            length = self.recipe.model.text_length
            notes.append(f"{self.pairs.truncated} of {self.pairs.pairs} train captions were cut to {length} tokens")
        return notes

    def _facts(self) -> dict[str, Any]:
        assert self.state.best is not None
        best_step = int(self.state.best["step"])
        return {
            "data_source": self.data.source,
            "steps": self.steps,
            "best_step": best_step,
            "selection": self.splits.selection_name,
            "metrics": {name: value for name, value in self.state.best.items() if name != "step"},
            "train": {
                "images": len(self.splits.train),
                "identities": self.model.identities,
                "pairs": self.pairs.pairs,
                "truncated_captions": self.pairs.truncated,
            },
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "notes": self.notes,
        }


def _accelerator(device: str, precision: str) -> Accelerator:
    check_device(device)
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision="bf16" if precision == "bf16" else "no")
    if accelerator.num_processes > 1:
        raise UsageError("several training processes at once are not supported; start one without a launcher")
    return accelerator


def _optimizer(model: PfcvrModel, config: OptimizerConfig) -> torch.optim.Optimizer:
    groups = parameter_groups(model, config)
    kind = torch.optim.AdamW if config.kind == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def _check_parts(source: str, recipe: Recipe, splits: TrainSplits) -> None:
    losses = recipe.model.losses
    if (losses.part_itc or losses.part_across) and not splits.train.has_parts():
        raise DataError(
            f"{source}: no train image shows a part, which the part losses need; run pfcvr-data parts and export "
            "again, or train with --set model.losses.part_itc=0 --set model.losses.part_across=0"
        )


def _replace_model(folder: Path, model: PfcvrModel) -> None:
    """``model`` in ``folder``. A kill on the way leaves no folder at worst; the checkpoint then leads here again."""
    beside = folder.with_name(".model.partial")
    shutil.rmtree(beside, ignore_errors=True)
    with plain_disk_errors():
        model.save_pretrained(beside)
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)
    sync_folder(folder.parent)


def _result(run: Path, manifest: dict[str, Any], already_done: bool = False) -> TrainResult:
    names = ("method", "variant", "protocol", "seed", "steps", "best_step", "selection", "metrics")
    return TrainResult(
        run, **{name: manifest[name] for name in names}, notes=tuple(manifest["notes"]), already_done=already_done
    )


def _print_to_stderr(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
