"""A run that is named as on the Hub, OWNER/NAME, where there is no such folder: fetched once, then a run like all."""

import json
import shutil
import sys
from pathlib import Path

from pfcvr.errors import CheckpointError
from pfcvr.hub import HUB_NAME, MANIFEST_NAME, patiently
from pfcvr.model.pretrained import CONFIG_NAME, PREPROCESSING_NAME, TOKENIZER_NAMES, WEIGHTS_NAME
from pfcvr.model.run_folder import RunFolder

MODEL_FILES = (WEIGHTS_NAME, CONFIG_NAME, PREPROCESSING_NAME, *TOKENIZER_NAMES)
RUN_FILES = ("run.json", "recipe.toml")


def open_run(source: Path) -> RunFolder:
    """The run in the folder ``source``, or what ``pfcvr push`` published under that name, fetched into that folder.

    Raises:
        HubError: there is no such folder, and the Hub has no such model or was not reached.
        CheckpointError: the model was not published by pfcvr push.
    """
    if not source.exists() and HUB_NAME.fullmatch(str(source)):
        _fetch(str(source), source)
    return RunFolder(source)


def _fetch(name: str, place: Path) -> None:
    from huggingface_hub import snapshot_download

    wanted = [*MODEL_FILES, *RUN_FILES, MANIFEST_NAME]
    asked = f"{name}: no such folder here, and on the Hub"
    snapshot = Path(patiently(asked, lambda: snapshot_download(name, allow_patterns=wanted), waits=()))
    if not all((snapshot / file).is_file() for file in (*RUN_FILES, MANIFEST_NAME)):
        raise CheckpointError(f"{name}: a model on the Hub that pfcvr push did not publish; give a run of pfcvr train")
    published = json.loads((snapshot / MANIFEST_NAME).read_bytes()).get("files", {})
    beside = place.with_name(f".{place.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    (beside / "model").mkdir(parents=True)
    for file in wanted[:-1]:
        if file in published:
            shutil.copyfile(snapshot / file, (beside if file in RUN_FILES else beside / "model") / file)
    beside.rename(place)
    print(f"{name}: fetched from the Hub (commit {snapshot.name}) into {place}", file=sys.stderr)
