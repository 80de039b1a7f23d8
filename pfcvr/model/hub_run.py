"""A run that is named as on the Hub, OWNER/NAME, where there is no such folder: fetched, then a run like all."""

import json
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pfcvr.errors import CheckpointError
from pfcvr.files import write_json
from pfcvr.hub import HUB_NAME, MANIFEST_NAME, check_token, patiently
from pfcvr.model.evaluations import evaluation_path
from pfcvr.model.pretrained import CONFIG_NAME, PREPROCESSING_NAME, TOKENIZER_NAMES, WEIGHTS_NAME
from pfcvr.model.query_results import query_results_path
from pfcvr.model.run_folder import RunFolder
from pfcvr.model.trained_on import NAME as TRAINED_ON

MODEL_FILES = (WEIGHTS_NAME, CONFIG_NAME, PREPROCESSING_NAME, *TOKENIZER_NAMES)
RUN_FILES = ("run.json", "recipe.toml")
RESULTS_NAME = "results.json"
QUERY_FILES = "queries-*.jsonl"
FACT_FILES = (*RUN_FILES, TRAINED_ON, RESULTS_NAME, QUERY_FILES, MANIFEST_NAME)
EVALUATION_NAME = re.compile(r"\w+(-[0-9a-f]{8})?")  # all that a file may be called after a key of the results


def is_on_hub(source: Path) -> bool:
    """Whether ``source`` is the name of a repository: one of that form, and no folder here."""
    return not source.exists() and HUB_NAME.fullmatch(str(source)) is not None


def open_run(source: Path) -> RunFolder:
    """The run in the folder ``source``, or what ``pfcvr push`` published under that name, fetched into that folder.

    Raises:
        HubError: there is no such folder, and the Hub has no such model or was not reached.
        CheckpointError: the model was not published by pfcvr push.
    """
    if is_on_hub(source):
        name = str(source)
        snapshot = _snapshot(name, (*MODEL_FILES, *FACT_FILES))
        beside = source.with_name(f".{source.name}.partial")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        _copy(snapshot, MODEL_FILES, beside / "model")
        _copy_facts(snapshot, beside)
        beside.rename(source)
        print(f"{name}: fetched from the Hub (commit {snapshot.name}) into {source}", file=sys.stderr)
    return RunFolder(source)


@contextmanager
def open_facts(source: Path) -> Iterator[RunFolder]:
    """As ``open_run``, without weights, and what is fetched is gone when the block ends."""
    if not is_on_hub(source):
        yield RunFolder(source)
        return
    with TemporaryDirectory() as folder:
        _copy_facts(_snapshot(str(source), FACT_FILES), Path(folder))
        yield RunFolder(Path(folder))


def _snapshot(name: str, wanted: Sequence[str]) -> Path:
    """A folder with those of the ``wanted`` files that the repository has."""
    from huggingface_hub import snapshot_download

    check_token(name)
    asked = f"{name}: no such folder here, and on the Hub"
    snapshot = Path(patiently(asked, lambda: snapshot_download(name, allow_patterns=list(wanted)), waits=()))
    if not all((snapshot / file).is_file() for file in (*RUN_FILES, MANIFEST_NAME)):
        raise CheckpointError(f"{name}: a model on the Hub that pfcvr push did not publish; give a run of pfcvr train")
    return snapshot


def _copy(snapshot: Path, names: Sequence[str], place: Path) -> None:
    """Those of the files ``names`` that pfcvr push has published."""
    published = _object(snapshot / MANIFEST_NAME).get("files", {})
    place.mkdir(exist_ok=True)
    for file in names:
        if file in published and (snapshot / file).is_file():
            shutil.copyfile(snapshot / file, place / file)


def _copy_facts(snapshot: Path, place: Path) -> None:
    """All of a run but its weights; its evaluations become files of their own, as pfcvr eval writes them."""
    _copy(snapshot, (*RUN_FILES, TRAINED_ON), place)
    manifest = _object(place / RUN_FILES[0])
    known = {name: manifest.get(name) for name in ("method", "variant", "protocol", "seed", "best_step", "selection")}
    results = _object(snapshot / RESULTS_NAME) if (snapshot / RESULTS_NAME).is_file() else {}
    for name, found in results.items():
        if isinstance(found, dict) and EVALUATION_NAME.fullmatch(name):
            write_json(evaluation_path(place, name), {**known, "split": name.partition("-")[0], **found})
            _copy(snapshot, (query_results_path(place, name).name,), place)


def _object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, FileNotFoundError):
        content = None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path.name} of the model on the Hub is damaged; publish the run again with pfcvr push")
    return content
