"""The evaluations in the folder of a run, a pair of files for each split of each data set.

``eval-SPLIT.json`` and ``queries-SPLIT.jsonl`` are of the data set that the run was trained on. Those of another data
set have the first digits of its fingerprint in their names, ``eval-SPLIT-1a2b3c4d.json``, so that neither replaces the
other. Runs of earlier versions may hold any data set under the plain name: what counts is the fingerprint inside.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pfcvr.errors import CheckpointError
from pfcvr.model.query_results import query_results_path
from pfcvr.model.run_folder import RunFolder
from pfcvr.model.trained_on import NOT_KNOWN, trained_on_sentence

DIGITS = 8  # of a fingerprint, where people tell data sets apart by it
COUNTS = ("seed", "queries", "gallery", "identities")
NEEDED = ("method", "variant", "protocol", "split", "data", "data_fingerprint", "metrics", "chance")


@dataclass(frozen=True)
class StoredEvaluation:
    """One evaluation of ``run``: ``facts`` are what ``pfcvr eval --json`` gave, ``name`` is that of its files."""

    run: Path
    name: str
    facts: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Of the data set."""
        return str(self.facts["data_fingerprint"])

    @property
    def queries(self) -> Path:
        """What each query reached; not there after an evaluation that was interrupted, or of an early version."""
        return query_results_path(self.run, self.name)


def evaluation_name(split: str, fingerprint: str, own: str | None) -> str:
    """What files about ``split`` of the data set with ``fingerprint`` are called in a run trained on data ``own``."""
    return split if fingerprint == own else f"{split}-{fingerprint[:DIGITS]}"


def evaluation_path(run: Path, name: str) -> Path:
    """Where the evaluation ``name`` lies in the folder of a run."""
    return run / f"eval-{name}.json"


def stored_evaluations(folder: RunFolder) -> list[StoredEvaluation]:
    """Every evaluation of a run, those of its own data set first, then by name.

    Raises:
        CheckpointError: a file is damaged.
    """
    own = (folder.read_manifest() or {}).get("data")
    found = []
    for path in folder.root.glob("eval-*.json"):
        facts = _read(path)
        facts["own_data"] = facts["data_fingerprint"] == own
        found.append(StoredEvaluation(folder.root, path.stem.removeprefix("eval-"), facts))
    return sorted(found, key=lambda one: (not one.facts["own_data"], one.name))


def find_evaluation(folder: RunFolder, split: str, fingerprint: str) -> StoredEvaluation | None:
    """The evaluation on ``split`` of the data set with ``fingerprint``, if there is one, results of queries included.

    Raises:
        CheckpointError: a file is damaged.
    """
    return next((one for one in evaluations_by_query(folder, split) if one.fingerprint == fingerprint), None)


def evaluations_by_query(folder: RunFolder, split: str) -> list[StoredEvaluation]:
    """The evaluations on ``split`` that say what every query reached, as ``stored_evaluations`` orders them."""
    return [one for one in stored_evaluations(folder) if one.facts["split"] == split and one.queries.is_file()]


def data_title(facts: dict[str, Any]) -> str:
    """The data set of an evaluation for people: its name as it was given, and the first digits of its fingerprint."""
    return f"{facts['data']} ({facts['data_fingerprint'][:DIGITS]})"


def notes_on_data(run: str, facts: dict[str, Any]) -> list[str]:
    """What to know of the data set that the evaluation ``facts`` of ``run`` is of, in sentences."""
    notes = [] if facts["own_data"] else [f"{run} was trained on another data set than {data_title(facts)}"]
    seen = trained_on_sentence(run, facts)
    return notes if seen is None else [*notes, seen]


def notes_on_run(run: str, evaluations: Iterable[dict[str, Any]]) -> list[str]:
    """What cannot be known of any of the ``evaluations`` of a ``run`` that did not keep what it was trained on."""
    return [f"{run}: {NOT_KNOWN}"] if any(facts["trained_on"] is None for facts in evaluations) else []


def _read(path: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads(path.read_bytes())
        needed = {name: facts[name] for name in NEEDED} | {name: int(facts[name]) for name in COUNTS}
        return {"trained_on": None} | facts | needed  # early versions did not count what a run was trained on
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"{path}: damaged evaluation; run pfcvr eval again") from None
