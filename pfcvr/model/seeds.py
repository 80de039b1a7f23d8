"""The same training from several seeds: one run folder a seed, and what they reached together."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState

from pfcvr.config import TrainConfig
from pfcvr.errors import CheckpointError, TrainingDiverged
from pfcvr.files import write_json
from pfcvr.model.run_folder import RunFolder, seed_folder
from pfcvr.model.statistics import mean_and_deviation
from pfcvr.model.text_table import markdown_table, measured
from pfcvr.model.train import TrainResult, train

SHOWN = {"rank1": "Rank-1", "rank5": "Rank-5", "rank10": "Rank-10", "mAP": "mAP", "mINP": "mINP"}


@dataclass(frozen=True)
class SeedsResult:
    """Finished runs of several seeds; ``metrics`` holds their mean and deviation in percent on split ``selection``.

    ``diverged`` says of each seed that came to no end why; it is left out of the rest.
    """

    out: Path
    runs: tuple[TrainResult, ...]
    selection: str
    metrics: dict[str, dict[str, float | None]]
    diverged: dict[int, str]

    def as_dict(self) -> dict[str, Any]:
        """For ``--json`` and ``summary.json``."""
        return {**asdict(self), "out": str(self.out), "runs": [run.as_dict() for run in self.runs]}

    def text(self) -> str:
        """A table for people, one row a seed."""
        rows = [[f"seed {run.seed}", *(measured(run.metrics[name]) for name in SHOWN)] for run in self.runs]
        mean = ["mean ± deviation"]
        mean += [measured(float(found["mean"] or 0), found["deviation"]) for found in self.metrics.values()]
        chance = ["chance", *(self._chance(name) for name in SHOWN)]
        count = f"{len(self.runs)} {'seeds' if len(self.runs) > 1 else 'seed'}"
        head = f"{self.out}: {count}, best weights of each on {self.selection}"
        failures = [f"seed {seed} diverged and is left out: {why}" for seed, why in self.diverged.items()]
        return "\n".join([head, markdown_table(["", *SHOWN.values()], [*rows, mean, chance]), *failures])

    def _chance(self, name: str) -> str:
        """Its mean, since where val is carved from train each seed is measured on other images."""
        values = [run.metrics[f"chance_{name}"] for run in self.runs if f"chance_{name}" in run.metrics]
        return measured(mean_and_deviation(values)[0]) if values else ""


def train_seeds(
    config: TrainConfig, seeds: Sequence[int], quiet: bool = False, say: Callable[[str], None] | None = None
) -> SeedsResult:
    """Train with each of ``seeds`` in a folder of its own below ``config.out``; finished ones are not trained again.

    A seed that diverges does not keep the others from being trained.

    Raises what ``train`` raises, TrainingDiverged where every seed does, and CheckpointError where ``config.out`` is a
    single run.
    """
    if RunFolder(config.out).is_run:
        raise CheckpointError(f"{config.out}: is one training run; give another folder with --out for several seeds")
    runs, diverged = [], {}
    for seed in seeds:
        settings = config.model_copy(update={"seed": seed, "out": seed_folder(config.out, seed)})
        try:
            runs.append(train(settings, quiet, say))
        except TrainingDiverged as error:
            diverged[seed] = str(error)
    if not runs:
        raise TrainingDiverged(f"{config.out}: no seed came to its end; the last: {diverged[seeds[-1]]}")
    metrics = {}
    for name in SHOWN:
        mean, deviation = mean_and_deviation([run.metrics[name] for run in runs])
        metrics[name] = {"mean": mean, "deviation": deviation}
    result = SeedsResult(config.out, tuple(runs), runs[0].selection, metrics, diverged)
    if PartialState().is_main_process:
        write_json(config.out / "summary.json", result.as_dict())
    return result
