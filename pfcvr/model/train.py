"""``pfcvr train``: the whole loop, to be read from top to bottom.

Run the same training again and it continues where it was stopped, in mid-epoch too, and ends in the same weights as an
undisturbed run. Several processes (``torchrun``, ``accelerate launch``) share every batch; the first of them also
evaluates and writes, while the others wait.

The best weights are those with the highest Rank-1 on the selection images (mAP decides between equals, then the earlier
step); ``protocol`` says which images those are. Where they show one vehicle alone, the last weights are kept.
"""

import math
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from pfcvr.config import Recipe, TrainConfig
from pfcvr.errors import CheckpointError, DataError, TrainingDiverged
from pfcvr.files import disk_full_stops, sync_folder
from pfcvr.model.batch import Batch
from pfcvr.model.checkpoint import load_checkpoint, plain_disk_errors, save_checkpoint
from pfcvr.model.data import TrainSplits, VehicleData, open_data, training_splits
from pfcvr.model.device import ON_CPU, thread_count, worker_count
from pfcvr.model.encode import encode_split
from pfcvr.model.gather import from_first
from pfcvr.model.loading import Division, EpochBatches, TrainPairs, full_memory_stops, train_loader
from pfcvr.model.pfcvr import PfcvrModel, build_pfcvr
from pfcvr.model.recipes import load_recipe, recipe_text
from pfcvr.model.retrievers.pfcvr import PfcvrRetriever
from pfcvr.model.run_folder import RunFolder, RunIdentity
from pfcvr.model.run_log import RunLog, StepLosses, all_finite, draw_curves
from pfcvr.model.run_telemetry import note_end, note_start
from pfcvr.model.schedule import rate_factor, set_rates
from pfcvr.model.step import BatchLosses, TrainingStep, read_losses, start_processes
from pfcvr.model.tokenizer import caption_tokenizer
from pfcvr.model.trained_on import NAME as TRAINED_ON
from pfcvr.model.trained_on import write_trained_on
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
        BackendError: the device that was asked for is absent, or the layers cannot be compiled here.
        TrainingDiverged: a loss or a weight is no longer a finite number.
        StageStopped: the GPU's memory does not suffice or the disk is full.
    """
    accelerator = start_processes(config)
    with accelerator.main_process_first():  # what is wrong is then said once
        recipe = load_recipe(config.recipe, config.overrides, config.variant, config.method)
        data = open_data(config.data)
        splits = training_splits(data, config.protocol, recipe.val_share, config.seed)
        check_parts(data.source, recipe, splits)
    identity = RunIdentity(
        recipe.method, recipe.variant, config.protocol, config.seed, data.fingerprint, recipe_text(recipe)
    )
    folder, device = RunFolder(config.out), accelerator.device
    is_first = accelerator.is_main_process
    with folder.claimed() if is_first else nullcontext(), disk_full_stops(f"{config.out}: training"):
        manifest = from_first(folder.begin(identity) if is_first else None, device)
        if is_first and manifest is not None and not (config.out / TRAINED_ON).is_file():
            write_trained_on(config.out, splits.train)  # a run of an earlier version
        if manifest is not None:
            return _result(config.out, manifest, already_done=True)
        training = _Training(config, recipe, data, splits, accelerator)
        for note in training.notes if is_first else ():
            (say or _print_to_stderr)(note)
        facts = training.run(folder, quiet or not is_first)
        return _result(config.out, from_first(folder.finish(identity, facts) if is_first else None, device))


class _Training:
    """One process's part of a run: builds everything, then ``run`` goes through the steps that are left."""

    def __init__(
        self, config: TrainConfig, recipe: Recipe, data: VehicleData, splits: TrainSplits, accelerator: Accelerator
    ) -> None:
        torch.set_num_threads(thread_count(config))
        self.config, self.recipe, self.data, self.splits = config, recipe, data, splits
        self.accelerator = accelerator
        self.workers = worker_count(config)

        torch.manual_seed(config.seed)
        tokenizer = caption_tokenizer(recipe.model, [text for texts in splits.train.captions for text in texts])
        self.model = build_pfcvr(recipe.model, tokenizer, len(set(splits.train.vehicle_ids)))
        built = recipe.model_copy(update={"model": self.model.config})  # a backbone brings a patch grid of its own
        self.pairs = TrainPairs(splits.train, tokenizer, built, data.coverage, config.seed)
        self.take_step = TrainingStep(self.model, recipe, config, accelerator, config.seed)

        schedule = recipe.schedule
        self.steps_per_epoch = -(-len(self.pairs) // recipe.batch_size)
        self.steps_per_unit = self.steps_per_epoch if schedule.unit == "epoch" else 1
        self.steps = schedule.length * self.steps_per_unit

    def run(self, folder: RunFolder, quiet: bool) -> dict[str, Any]:
        """Train from the checkpoint, if any, to the last step; returns the facts of the manifest."""
        self.folder = folder
        self.state = load_checkpoint(folder.checkpoint, self.model, self.take_step.optimizer)
        self._check_same_start()
        is_first = self.accelerator.is_main_process
        log = RunLog(folder, self.state.metrics_bytes, self.state.step) if is_first else None
        if is_first:
            note_start(folder.root, self.state.step, self.accelerator.device, self.accelerator.num_processes)
        batches = self._batches_left()
        with (
            log or nullcontext(),
            Progress("train", self.steps, done=self.state.step, quiet=quiet, unit="step") as progress,
            full_memory_stops(str(folder.root)),
            closing(train_loader(self.pairs, batches, self.workers)) as parts,
        ):
            self._train_steps(log, progress, batches, parts)
        if log is None:
            return {}
        draw_curves(folder)
        write_trained_on(folder.root, self.splits.train)
        note_end(folder.root, self.steps)
        return self._facts()

    def _check_same_start(self) -> None:
        own = [self.data.fingerprint, self.state.step]
        first = from_first(own, self.accelerator.device)
        if own != first:
            raise CheckpointError(
                f"{self.folder.root}: process {self.accelerator.process_index} would start after step {own[1]} and the "
                f"first one after step {first[1]}, or their data differ; give --data and --out that all machines see"
            )

    def _batches_left(self) -> EpochBatches:
        division = Division(self.recipe.accumulation, self.accelerator.num_processes, self.accelerator.process_index)
        return EpochBatches(
            len(self.pairs), self.recipe.batch_size, self.steps, self.config.seed, self.state.step, division
        )

    def _train_steps(
        self, log: RunLog | None, progress: Progress, batches: EpochBatches, parts: Iterator[Batch]
    ) -> None:
        evaluate_every = self.recipe.schedule.evaluate_every * self.steps_per_unit
        unwritten: dict[int, BatchLosses] = {}
        self.model.train()
        for step in range(self.state.step, self.steps):
            set_rates(self.take_step.optimizer, self._rate_factor(step))
            pairs = batches.parts(step)
            unwritten[step] = self.take_step(step, islice(parts, len(pairs)), pairs)
            self.state.step = step + 1
            evaluates = (step + 1) % evaluate_every == 0 or step + 1 == self.steps
            saves = evaluates or (step + 1) % self.recipe.checkpoint_every == 0
            if saves or len(unwritten) >= LOSSES_PER_WRITE:
                self._write_losses(log, unwritten)
                unwritten = {}
            if saves:
                self._check_weights(log)
            if evaluates and not from_first(log is not None and self._evaluate(log), self.accelerator.device):
                self._stop(log, f"the weights after step {step + 1} give features that are no finite numbers")
            if log is not None and saves:
                self._save(log)
            progress.advance()

    def _rate_factor(self, step: int) -> float:
        return rate_factor(self.recipe.schedule, step // self.steps_per_unit)

    def _write_losses(self, log: RunLog | None, unwritten: dict[int, BatchLosses]) -> None:
        rows = []
        for step, (total, terms) in zip(unwritten, read_losses(list(unwritten.values())), strict=True):
            rate = self.recipe.optimizer.lr * self._rate_factor(step)
            rows.append(StepLosses(step + 1, step // self.steps_per_epoch, rate, total, terms))
        finite = list(takewhile(lambda row: math.isfinite(row.total), rows))
        if log is not None:
            log.losses(finite)
        if len(finite) < len(rows):
            bad = rows[len(finite)]
            found = ", ".join(f"{name} {loss:g}" for name, loss in bad.terms.items())
            self._stop(log, f"the loss is {bad.total:g} at step {bad.step} ({found})")

    def _evaluate(self, log: RunLog) -> bool:
        """Measure the weights on the selection images and keep them in ``model/`` if they are the best so far.

        Returns whether they could be measured: finite weights may still give infinite features.
        """
        self.model.eval()
        retriever = PfcvrRetriever(self.model, self.accelerator.device)
        encoded = encode_split(retriever, self.splits.selection, self.workers, quiet=True)
        self.model.train()
        if not encoded.is_finite:
            return False
        metrics = {name: round(value, 4) for name, value in asdict(encoded.metrics()).items()}
        log.selection(self.state.step, self.splits.selection_name, metrics)
        best = self.state.best
        is_best = best is None or (metrics["rank1"], metrics["mAP"]) > (best["rank1"], best["mAP"])
        if is_best or not self.splits.can_choose:
            self.state.best = {"step": self.state.step, **metrics}
            _replace_model(self.folder.model, self.model)
        draw_curves(self.folder)
        return True

    def _check_weights(self, log: RunLog | None) -> None:
        if not all_finite(self.model):
            self._stop(log, f"a weight is no longer a finite number after step {self.state.step}")

    def _save(self, log: RunLog) -> None:
        log.flush()
        self.state.metrics_bytes = log.offset
        save_checkpoint(self.folder.checkpoint, self.model, self.take_step.optimizer, self.state)

    def _stop(self, log: RunLog | None, what: str) -> None:
        """All processes stop here alike, so that those who train several runs go on to the next one together."""
        if log is not None:
            log.flush()
        kept = "the last good checkpoint is kept" if self.folder.checkpoint.is_file() else "there is no checkpoint yet"
        raise TrainingDiverged(
            f"{self.folder.root}: {what}; {kept}; train in a new folder with a lower rate, for example "
            f"--set optimizer.lr={self.recipe.optimizer.lr / 3:.1g}"
        )

    @property
    def notes(self) -> list[str]:
        """What a reader of the result should know beside the settings."""
        notes = [self.splits.note]
        if self.accelerator.device.type == "cpu" and self.config.device == "auto":
            notes.append(ON_CPU)
        if self.pairs.truncated:
            length = self.recipe.model.text_length
            notes.append(f"{self.pairs.truncated} of {self.pairs.pairs} train captions were cut to {length} tokens")
        if self.pairs.truncated_phrases:
            length = min(self.recipe.model.part_text_length, self.recipe.model.text_length)
            notes.append(f"{self.pairs.truncated_phrases} of the phrases for parts were cut to {length} tokens")
        if self.pairs.lacks_phrases:
            notes.append("the data set has no phrases for parts: every part is called by its name")
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


def check_parts(source: str, recipe: Recipe, splits: TrainSplits) -> None:
    """Raise DataError where ``recipe`` has part losses and no train image shows a part."""
    losses = recipe.model.losses
    if (losses.part_itc or losses.part_across or losses.part_mlm) and not splits.train.has_parts():
        raise DataError(
            f"{source}: no train image shows a part, which the part losses need; run pfcvr-data parts and export "
            "again, or train with --set model.losses.part_itc=0 --set model.losses.part_across=0 "
            "--set model.losses.part_mlm=0"
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
