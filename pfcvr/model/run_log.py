"""What a run leaves to look at: ``metrics.jsonl``, TensorBoard events and a picture of the curves.

``metrics.jsonl`` holds no clock times, so a continued run leaves the same bytes as an undisturbed one.
"""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from pfcvr.errors import CheckpointError
from pfcvr.files import canonical_json
from pfcvr.model.colours import COLOURS
from pfcvr.model.run_folder import RunFolder

METRICS = {"rank1": "Rank-1", "rank5": "Rank-5", "rank10": "Rank-10", "mAP": "mAP"}
MOST_TICKS = 6
SMOOTHING = 0.9  # of the loss curves in the picture: exponential average


@dataclass(frozen=True)
class StepLosses:
    """Losses of one step; ``step`` counts finished steps."""

    step: int
    epoch: int
    rate: float
    total: float
    terms: dict[str, float]


class RunLog:
    """Appends to the files of ``folder`` from byte ``offset`` of ``metrics.jsonl`` on; what follows it is dropped.

    Raises:
        CheckpointError: ``metrics.jsonl`` is shorter than that.
    """

    def __init__(self, folder: RunFolder, offset: int, step: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        found = folder.metrics.stat().st_size if folder.metrics.is_file() else 0
        if found < offset:
            raise CheckpointError(
                f"{folder.metrics}: {found:,} bytes, expected the {offset:,} that it had when the checkpoint was made; "
                "restore the file, or train again in a new folder"
            )
        self._file = folder.metrics.open("ab")
        self._file.truncate(offset)
        self._board = SummaryWriter(str(folder.tensorboard), purge_step=step + 1)

    @property
    def offset(self) -> int:
        """Length of ``metrics.jsonl`` in bytes."""
        return self._file.tell()

    def losses(self, rows: Iterable[StepLosses]) -> None:
        """Write the rows, whose totals are finite numbers."""
        for row in rows:
            terms = {name: round(loss, 6) for name, loss in row.terms.items()}
            self._write(
                {"step": row.step, "epoch": row.epoch, "lr": row.rate, "loss": round(row.total, 6), "losses": terms}
            )
            for name, value in {"total": row.total, **terms}.items():
                self._board.add_scalar(f"loss/{name}", value, row.step)
            self._board.add_scalar("lr", row.rate, row.step)

    def selection(self, step: int, split: str, metrics: dict[str, float]) -> None:
        """Write the metrics of the weights after ``step`` steps on the images that the best are chosen on."""
        self._write({"step": step, "split": split, "metrics": metrics})
        for name, value in metrics.items():
            self._board.add_scalar(f"{split}/{name}", value, step)

    def flush(self) -> None:
        """Have everything on disk, before a checkpoint says how much that is."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._board.flush()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._board.close()

    def _write(self, row: dict[str, Any]) -> None:
        self._file.write(canonical_json(row).encode() + b"\n")


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a ``metrics.jsonl``, in order."""
    with path.open("rb") as file:
        for line in file:
            yield json.loads(line)


def all_finite(model: torch.nn.Module) -> bool:
    """Whether every weight is a finite number."""
    return all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


def draw_curves(folder: RunFolder) -> None:
    """``curves.png``: the losses (smoothed) and the metrics of the selection images over the steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    rows = list(read_metrics(folder.metrics))
    trained, measured = [row for row in rows if "losses" in row], [row for row in rows if "metrics" in row]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.6), layout="constrained", sharex=True)
    for axes in (left, right):
        axes.set_prop_cycle(color=COLOURS)
    for name in trained[0]["losses"] if trained else ():
        left.plot([row["step"] for row in trained], _smoothed([row["losses"][name] for row in trained]), label=name)
    left.set(xlabel="step", ylabel="loss, unweighted, smoothed", yscale="log")
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    left.yaxis.set_minor_formatter(NullFormatter())
    steps = [row["step"] for row in measured]
    for name, title in METRICS.items():
        right.plot(steps, [row["metrics"][name] for row in measured], "o-", ms=3, label=title)
    for name, style in (("rank1", ":"), ("mAP", "--")):
        if measured:  # over the curves, which may lie on them
            chance = measured[-1]["metrics"][f"chance_{name}"]
            right.axhline(chance, color="black", ls=style, lw=1, zorder=3, label=f"chance {METRICS[name]}")
    right.set(xlabel="step", ylabel=f"percent, on {measured[-1]['split'] if measured else 'val'}", ylim=(0, None))
    left.set_xlim(0, rows[-1]["step"] * 1.02 if rows else 1)
    if 0 < len(steps) <= MOST_TICKS:
        left.set_xticks([0, *steps])
    else:
        left.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    figure.savefig(folder.curves, dpi=110)
    pyplot.close(figure)


def _smoothed(values: list[float]) -> list[float]:
    smooth: list[float] = []
    for value in values:
        smooth.append(value if not smooth else SMOOTHING * smooth[-1] + (1 - SMOOTHING) * value)
    return smooth
