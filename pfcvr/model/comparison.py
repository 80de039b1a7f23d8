"""``pfcvr compare``: finished runs side by side on the same queries, with intervals and a test against the first.

Intervals and tests draw whole identities, because the queries of one vehicle are not independent of each other
(``pfcvr.model.statistics``); ``unit = "queries"`` draws single queries. A folder of seeds is one entry: each query
counts with its mean over the seeds, and the deviation over the seeds stands beside the interval, which knows nothing of
seeds.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pfcvr.config import CompareConfig, EvalConfig
from pfcvr.errors import CheckpointError, DataError, UsageError
from pfcvr.files import atomic_write
from pfcvr.model.comparison_report import ComparisonReport
from pfcvr.model.data import open_data
from pfcvr.model.evaluate import evaluate
from pfcvr.model.evaluations import data_title, evaluations_by_query, notes_on_data, notes_on_run
from pfcvr.model.hub_run import is_on_hub, open_facts
from pfcvr.model.published import published_methods
from pfcvr.model.query_results import REACHED, QueryResults, read_query_results
from pfcvr.model.run_folder import RunFolder, seed_runs
from pfcvr.model.statistics import UnitSums, bootstrap_interval, mean_and_deviation, paired_test, unit_sums
from pfcvr.model.trained_on import trained_on_sentence


@dataclass(frozen=True)
class _Measured:
    """A run with an evaluation of it and what each query reached."""

    run: Path
    evaluation: dict[str, Any]
    results: QueryResults

    @property
    def data(self) -> str:
        """Fingerprint of the data set."""
        return str(self.evaluation["data_fingerprint"])

    @property
    def asked(self) -> tuple[str, int]:
        """What must be equal for two runs to be comparable: the list of queries and the size of the gallery."""
        return self.results.fingerprint, int(self.evaluation["gallery"])


@dataclass(frozen=True)
class _Entry:
    """One run, or several that differ in their seed alone."""

    path: Path
    runs: tuple[_Measured, ...]

    def common(self, name: str) -> str:
        """What all runs of the entry have in ``name``; raises UsageError when they differ."""
        values = {str(run.evaluation[name]) for run in self.runs}
        if len(values) > 1:
            raise UsageError(
                f"{self.path}: its runs differ in {name} ({', '.join(sorted(values))}); name the runs one by one"
            )
        return values.pop()


def compare(config: CompareConfig, quiet: bool = False) -> ComparisonReport:
    """Compare ``config.runs`` on ``config.split``; also written to ``config.out`` where that is given.

    A run that is no folder here is looked up on the Hub. Where ``config.data`` is given, every run is measured on that
    data set, unless it was before; else all are compared on a data set that all were measured on.

    Raises:
        CheckpointError: a folder holds no finished run, or its results are damaged.
        HubError: the Hub has no run of that name, or was not reached.
        DataError: a run was not evaluated query by query and there is no ``data`` to do it on, the runs were measured
            on different queries or galleries, or on several data sets of which none is that of the first.
        UsageError: a folder mixes runs of different methods, variants or protocols.
    """
    fingerprint = None if config.data is None else open_data(config.data).fingerprint
    found = {path: {run: _evaluated(run, config.split) for run in _runs(path)} for path in config.runs}
    if fingerprint is None:
        fingerprint = _common_data([of_run for runs in found.values() for of_run in runs.values()])
    entries = [
        _Entry(path, tuple(_measured(run, config, fingerprint, before, quiet) for run, before in found[path].items()))
        for path in config.runs
    ]
    first, *others = [run for entry in entries for run in entry.runs]
    for other in others:
        _check_same_queries(first, other, config.split)
    units = [_units(entry, config) for entry in entries]
    rows = [_row(entry, sums, config.seed) for entry, sums in zip(entries, units, strict=True)]
    for row, sums in zip(rows[1:], units[1:], strict=True):
        test = paired_test(units[0], sums, config.seed)
        named = zip(REACHED, test.difference, test.low, test.high, test.p_value, strict=True)
        row["against_first"] = {
            name: {"difference": float(mean), "low": float(low), "high": float(high), "p_value": float(p)}
            for name, mean, low, high, p in named
        }
    facts = {
        "split": config.split,
        "data": first.evaluation["data"],
        "data_fingerprint": first.data,
        "queries": len(first.results.vehicle_ids),
        "identities": len(set(first.results.vehicle_ids)),
        "gallery": first.evaluation["gallery"],
        "chance": first.evaluation["chance"],
        "unit": config.unit,
        "seed": config.seed,
    }
    published = None if config.published is None else published_methods(config.published)
    report = ComparisonReport(facts, rows, published)
    if config.out is not None:
        _write(report, config.out)
    return report


def _runs(path: Path) -> list[Path]:
    runs = [path] if is_on_hub(path) or RunFolder(path).is_run else seed_runs(path)
    if not runs:
        raise CheckpointError(f"{path}: no training run here, nor seeds of one; give a folder that pfcvr train made")
    return runs


def _evaluated(run: Path, split: str) -> list[_Measured]:
    """What ``run`` was measured on query by query, its own data set first."""
    with open_facts(run) as folder:
        folder.finished()
        found = evaluations_by_query(folder, split)
        return [_Measured(run, one.facts, read_query_results(one.queries)) for one in found]


def _common_data(evaluated: list[list[_Measured]]) -> str | None:
    """The fingerprint of a data set that all runs were measured on, if there is one; that of the first before others.

    Raises DataError where there are several, and that of the first is not among them.
    """
    common = set.intersection(*({one.data for one in of_run} for of_run in evaluated))
    shared = [one for one in evaluated[0] if one.data in common]
    if len(shared) > 1 and not shared[0].evaluation["own_data"]:
        titles = ", ".join(data_title(one.evaluation) for one in shared)
        raise DataError(f"the runs were measured on several data sets ({titles}); choose one of them with --data")
    return shared[0].data if shared else None


def _measured(
    run: Path, config: CompareConfig, fingerprint: str | None, before: list[_Measured], quiet: bool
) -> _Measured:
    found = next((one for one in before if fingerprint in (None, one.data)), None)
    if found is not None:
        return found
    if config.data is None:
        raise DataError(
            f"{run}: not evaluated query by query on split '{config.split}'; give --data, or run: "
            f"pfcvr eval {run} --data D --split {config.split}"
        )
    evaluate(
        EvalConfig(run=run, data=config.data, split=config.split, device=config.device, workers=config.workers), quiet
    )
    return next(one for one in _evaluated(run, config.split) if one.data == fingerprint)


def _check_same_queries(first: _Measured, other: _Measured, split: str) -> None:
    if first.asked != other.asked:
        sizes = [f"{len(one.results.vehicle_ids):,} queries, {one.asked[1]:,} images" for one in (first, other)]
        raise DataError(
            f"{first.run} and {other.run} were measured on different queries or galleries of split '{split}' "
            f"({sizes[0]}; {sizes[1]}); run pfcvr eval on one data set for both, or give --data"
        )


def _units(entry: _Entry, config: CompareConfig) -> UnitSums:
    values = np.mean([run.results.values for run in entry.runs], axis=0)
    return unit_sums(values, entry.runs[0].results.vehicle_ids, config.unit)


def _row(entry: _Entry, units: UnitSums, seed: int) -> dict[str, Any]:
    path, (low, high) = str(entry.path), bootstrap_interval(units, seed)
    most_seen = max(entry.runs, key=lambda run: tuple((run.evaluation["trained_on"] or {}).values())).evaluation
    metrics = {}
    for column, name in enumerate(REACHED):
        _, deviation = mean_and_deviation([float(run.results.values[:, column].mean()) for run in entry.runs])
        metrics[name] = {
            "mean": float(units.means[column]),
            "low": float(low[column]),
            "high": float(high[column]),
            "deviation": deviation,
        }
    return {
        "run": path,
        **{name: entry.common(name) for name in ("method", "variant", "protocol")},
        "seeds": [int(run.evaluation["seed"]) for run in entry.runs],
        "metrics": metrics,
        "trained_on": most_seen["trained_on"],
        "warning": trained_on_sentence(path, most_seen),
        "notes": notes_on_data(path, most_seen) + notes_on_run(path, (run.evaluation for run in entry.runs)),
    }


def _write(report: ComparisonReport, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for suffix, text in ((".md", report.text() + "\n"), (".csv", report.csv())):
        with atomic_write(out / f"compare-{report.facts['split']}{suffix}") as file:
            file.write(text.encode())
