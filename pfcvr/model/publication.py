"""A finished run as the folder that is published: the model as one reads it from the Hub, and how it came about.

Beside what ``PfcvrModel.save_pretrained`` wrote: ``run.json`` and ``recipe.toml`` (with them the folder is a run too),
``trained_on.json``, so that others learn whether it has seen their images, ``results.json`` with an interval for every
figure, what each query reached (without its words, which are the data set's), and a card that states the figures.
Places on this machine are left out.
"""

import shutil
from pathlib import Path
from typing import Any

from pfcvr.config import Recipe
from pfcvr.errors import CheckpointError
from pfcvr.files import disk_full_stops, process_lock, sha256_file, write_json
from pfcvr.hub import MANIFEST_NAME
from pfcvr.model.evaluations import StoredEvaluation, stored_evaluations
from pfcvr.model.hub_run import MODEL_FILES, RESULTS_NAME
from pfcvr.model.model_card import Measured, ModelFacts, model_card
from pfcvr.model.pretrained import CARD_NAME, CONFIG_NAME
from pfcvr.model.query_results import REACHED, query_results_path, read_query_results, write_published_results
from pfcvr.model.run_folder import RunFolder
from pfcvr.model.statistics import bootstrap_interval, unit_sums
from pfcvr.model.trained_on import NAME as TRAINED_ON

OF_SET = ("split", "data", "data_fingerprint", "own_data", "trained_on", "queries", "gallery", "identities")
OF_EVALUATION = (*OF_SET, "metrics", "chance", "without_own_image", "truncated_captions")


def compose(run: RunFolder, repository: str, licence: str | None = None) -> Path:
    """Write ``RUN/push`` anew and return it; the same run and ``licence`` of the weights give the same bytes.

    Raises:
        CheckpointError: the run is not finished, or a file of it is missing or damaged.
    """
    manifest = run.finished()
    place, beside = run.root / "push", run.root / ".push.partial"
    with process_lock(run.root / ".push.lock", "publishing this run"), disk_full_stops(f"{place}: push"):
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        _fill(beside, run, manifest, repository, licence)
        shutil.rmtree(place, ignore_errors=True)
        beside.rename(place)
    return place


def _fill(place: Path, run: RunFolder, manifest: dict[str, Any], repository: str, licence: str | None) -> None:
    for name in MODEL_FILES:
        if not (run.model / name).is_file():
            raise CheckpointError(f"{run.model}: no {name}; restore the file or train again in a new folder")
        shutil.copyfile(run.model / name, place / name)
    recipe = run.read_recipe()
    results = _results(run, manifest)
    hidden = _local_places(manifest, recipe, results)
    settings = (place / CONFIG_NAME).read_text(encoding="utf-8")
    (place / CONFIG_NAME).write_text(_without(settings, hidden), encoding="utf-8")
    (place / run.recipe.name).write_text(_without(run.recipe.read_text(encoding="utf-8"), hidden), encoding="utf-8")
    write_json(place / run.manifest.name, _without(manifest, hidden))
    write_json(place / RESULTS_NAME, _without(results, hidden))
    if (run.root / TRAINED_ON).is_file():
        shutil.copyfile(run.root / TRAINED_ON, place / TRAINED_ON)
    for name in results:
        single = query_results_path(run.root, name)
        if single.is_file():
            write_published_results(single, query_results_path(place, name))
    facts = ModelFacts(
        repository, licence, _without(manifest, hidden), recipe, tuple(_measured(results, hidden)), hidden
    )
    (place / CARD_NAME).write_text(model_card(facts), encoding="utf-8")
    files = {path.name: sha256_file(path) for path in sorted(place.iterdir())}
    write_json(place / MANIFEST_NAME, {"kind": "pfcvr-model", "files": files})


def _results(run: RunFolder, manifest: dict[str, Any]) -> dict[str, Any]:
    """Every evaluation of the run, by name, each figure with its interval where the single queries are known."""
    found = {}
    for one in stored_evaluations(run):
        found[one.name] = {name: one.facts.get(name) for name in OF_EVALUATION}
        found[one.name]["intervals"] = _intervals(one, int(manifest["seed"]))
    return found


def _intervals(evaluation: StoredEvaluation, seed: int) -> dict[str, list[float]] | None:
    """95 % bootstrap intervals over identities, in percent, by metric."""
    if not evaluation.queries.is_file():
        return None
    results = read_query_results(evaluation.queries)
    low, high = bootstrap_interval(unit_sums(results.values, results.vehicle_ids, "identities"), seed)
    return {name: [float(low[column]), float(high[column])] for column, name in enumerate(REACHED)}


def _measured(results: dict[str, Any], hidden: dict[str, str]) -> list[Measured]:
    return [
        Measured(
            facts=_without(found, hidden),
            metrics={name: found["metrics"][name] for name in REACHED},
            intervals=found["intervals"] or {},
        )
        for found in results.values()
    ]


def _local_places(manifest: dict[str, Any], recipe: Recipe, results: dict[str, Any]) -> dict[str, str]:
    """Places on this machine that the run names, and what stands for them outside."""
    named = [manifest["data_source"], recipe.model.backbone or "", *(found["data"] for found in results.values())]
    local = [text for text in named if Path(text).is_absolute() or ("/" in text and Path(text).exists())]
    return {text: Path(text).name for text in sorted(local, key=len, reverse=True)}


def _without(value: Any, hidden: dict[str, str]) -> Any:
    """``value`` with the places in ``hidden`` replaced in every text."""
    if isinstance(value, str):
        for place, name in hidden.items():
            value = value.replace(place, name)
        return value
    if isinstance(value, dict):
        return {key: _without(found, hidden) for key, found in value.items()}
    return [_without(found, hidden) for found in value] if isinstance(value, list) else value
